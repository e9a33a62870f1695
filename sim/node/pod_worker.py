"""The life of one pod on a node: claims, containers, status, end.

The order is the kubelet's. Claims are prepared when the pod's sandbox is made, before anything else of it exists, again
with each sync until they are; they are released after the last container stopped; only then does the pod's phase say
that it ended, and a deleted pod leaves the API.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.claims import ClaimManager
from fracgpu.sim.node.clock import now
from fracgpu.sim.node.errors import ContainerStartError
from fracgpu.sim.node.events import EventRecorder
from fracgpu.sim.node.pod_claims import pod_key
from fracgpu.sim.node.pod_containers import PodContainers
from fracgpu.sim.node.pod_status import TERMINAL_PHASES, past_views, pod_status
from fracgpu.sim.node.runner import ContainerRunner
from fracgpu.sim.node.runtime import ContainerRuntime
from fracgpu.sim.node.timings import Timings, jittered
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError

_LOG = logging.getLogger(__name__)
_DEFAULT_GRACE_S = 30
_API_RETRY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeServices:
    """What a pod worker needs of its node."""

    api: KubeApi
    claims: ClaimManager
    runtime: ContainerRuntime
    events: EventRecorder
    timings: Timings
    host_ip: str


class PodWorker:
    """Runs one pod in a thread of its own until it is gone from the API or the node stops."""

    def __init__(self, pod: Json, services: NodeServices) -> None:
        self._pod = pod
        self._services = services
        self._start_time = now()
        # A container that ran before this node was restarted runs again: that is a restart.
        self._restarts_before = {
            one["name"]: one["restartCount"] + 1
            for kind in ("containerStatuses", "initContainerStatuses")
            for one in pod.get("status", {}).get(kind) or []
            if one.get("containerID")
        }
        self._active = pod.get("status", {}).get("phase") not in TERMINAL_PHASES
        self._past = past_views(pod)
        self._changed = threading.Condition()
        self._dirty = False
        self._poked = False
        self._vanished = False
        self._stopping = False
        # Nothing of the pod runs or is held on this node any more.
        self._ended = False
        self._containers = PodContainers(pod, self._runner_for)
        self._thread = threading.Thread(target=self._run, name=f"pod-{pod['metadata']['name']}", daemon=True)

    def start(self) -> None:
        """Start the pod's thread."""
        self._thread.start()

    def update(self, pod: Json) -> None:
        """Take note of a newer version of the pod object: its deletion, or a change for which it is synced at once."""
        poked = _of_interest(pod) != _of_interest(self._pod)

        def take() -> None:
            self._pod, self._poked = pod, self._poked or poked

        self._mark(take)

    def refresh(self) -> None:
        """Write the pod's status again if it changed: the health of a device did, maybe."""
        self._touch()

    def vanish(self) -> None:
        """Take note that the pod object is gone from the API: end everything without grace."""
        self._mark(lambda: setattr(self, "_vanished", True))

    def stop(self) -> None:
        """End the containers without telling the API: the node goes down. `join` waits for it."""
        self._mark(lambda: setattr(self, "_stopping", True))

    def join(self) -> None:
        """Wait for the pod's thread."""
        self._thread.join()

    @property
    def active(self) -> bool:
        """Tell whether this node had to do with the pod: one that it meets ended needs neither sandbox nor release."""
        return self._active

    @property
    def done(self) -> bool:
        """Tell whether the thread has ended."""
        return not self._thread.is_alive()

    def runner(self, container: str | None) -> ContainerRunner:
        """Return the runner of a container, of the first one without a name; raises ContainerStartError."""
        name = container or self._pod["spec"]["containers"][0]["name"]
        runner = self._containers.find(name)
        if runner is None:
            metadata = self._pod["metadata"]
            subject = f"container {metadata['namespace']}/{metadata['name']}/{name}"
            raise ContainerStartError(subject, "it is not running", remedy="see the events of the pod")
        return runner

    def _mark(self, change: Callable[[], None]) -> None:
        with self._changed:
            change()
            self._dirty = True
            self._changed.notify_all()

    def _touch(self) -> None:
        self._mark(lambda: None)

    @property
    def _leaving(self) -> bool:
        return self._stopping or self._vanished or "deletionTimestamp" in self._pod["metadata"]

    def _wait(self) -> None:
        """Sleep until something changes."""
        with self._changed:
            self._changed.wait_for(lambda: self._dirty)
            self._dirty = False

    def _pause(self, seconds: float, *, unless: Callable[[], bool]) -> None:
        """Sleep before the next try, unless there is a reason not to try again."""
        with self._changed:
            self._changed.wait_for(unless, seconds)

    def _run(self) -> None:
        try:
            if self.active:
                if not self._past and self._prepare():
                    self._supervise()
                self._end()
            self._leave()
        except Exception:
            _LOG.exception("pod worker failed pod=%s", self._pod["metadata"]["name"])

    def _prepare(self) -> bool:
        """Prepare the claims until that succeeds; False when the pod leaves before."""
        self._sync_status()
        while not self._leaving:
            try:
                self._services.claims.prepare(self._pod)
            except FracgpuError as error:
                text = f"Failed to prepare dynamic resources: prepare dynamic resources: {error.what}"
                self._services.events.warning(self._pod, "FailedPrepareDynamicResources", text)
            else:
                return not self._leaving
            self._pause(jittered(self._services.timings.sync), unless=lambda: self._leaving or self._poked)
            self._poked = False
        return False

    def _runner_for(self, container: Json, restart_policy: str) -> ContainerRunner:
        services, pod, name = self._services, self._pod, container["name"]
        record = {"Normal": services.events.normal, "Warning": services.events.warning}
        return ContainerRunner(
            name=name,
            make_spec=lambda: services.runtime.container_spec(
                pod, container, services.claims.cdi_devices(pod, container)
            ),
            log_path=lambda restart: services.runtime.log_path(pod, name, restart),
            restart_policy=restart_policy,
            timings=services.timings,
            on_change=self._touch,
            on_event=lambda kind, reason, message: record[kind](pod, reason, message),
            restarts=self._restarts_before.get(name, 0),
        )

    def _supervise(self) -> None:
        """Start containers in their order and keep the status up to date, until the pod leaves or has finished."""
        while not self._leaving:
            self._containers.advance()
            self._sync_status()
            if self._containers.finished:
                return
            self._wait()

    def _end(self) -> None:
        self._stop_containers()
        if self._stopping:
            return
        self._sync_status()
        self._release()
        self._ended = not self._stopping
        self._sync_status()

    def _leave(self) -> None:
        while not self._leaving:
            self._wait()
        if not (self._stopping or self._vanished):
            self._remove_from_api()

    def _stop_containers(self) -> None:
        if self._stopping or self._vanished:
            grace = 0.0
        else:
            own = self._pod["spec"].get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S)
            grace = float(self._pod["metadata"].get("deletionGracePeriodSeconds", own))
        running = self._containers.running()
        if running and not self._stopping:
            self._services.events.normal(self._pod, "Killing", f"Stopping {', '.join(running)}")
        self._containers.stop(grace)

    def _release(self) -> None:
        """Release the claims; a pod whose claims cannot be released stays, and only the node's log says why."""
        while not self._stopping:
            try:
                self._services.claims.release(self._pod)
            except FracgpuError as error:
                _LOG.error("Error syncing pod, skipping pod=%s error=%s", pod_key(self._pod), error)
                self._pause(jittered(self._services.timings.sync_retry), unless=lambda: self._stopping)
            else:
                return

    def _sync_status(self) -> None:
        """Write the pod's status if it differs from what the API has; a conflict is tried again on fresh data."""
        metadata = self._pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        views = self._past | self._containers.views()
        while not (self._vanished or self._stopping):
            try:
                current = self._services.api.get(path)
                if current["metadata"]["uid"] != metadata["uid"]:
                    return
                status = pod_status(
                    current,
                    views,
                    host_ip=self._services.host_ip,
                    start_time=self._start_time,
                    resources=self._services.claims.allocated_resources(current),
                    ended=self._ended,
                )
                if status != current.get("status"):
                    self._services.api.replace(f"{path}/status", {**current, "status": status})
                return
            except ApiRefusedError as error:
                if error.code == 404:
                    return
                if error.code != 409:
                    _LOG.error("pod status refused pod=%s error=%s", metadata["name"], error)
                    return
            except ApiUnreachableError as error:
                _LOG.warning("API server not reachable error=%s", error)
                self._pause(_API_RETRY_S, unless=lambda: self._stopping)

    def _remove_from_api(self) -> None:
        metadata = self._pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        try:
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
            self._services.api.delete(path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except ApiRefusedError as error:
            if error.code not in {404, 409}:
                raise


def _of_interest(pod: Json) -> tuple[object, ...]:
    """Return what the kubelet compares (podsDifferSemantically) to see whether a pod has changed; not its status."""
    metadata = pod["metadata"]
    return pod["spec"], *(metadata.get(name) for name in ("labels", "annotations", "deletionTimestamp"))
