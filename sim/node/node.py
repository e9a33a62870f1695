"""The node agent: registers the node, follows its pods, watches for plugins, cleans up after both.

Nothing but the Kubernetes API connects it to the rest of the embedded cluster, and nothing but files and sockets
connects it to the driver's plugin.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.claims import ClaimManager
from fracgpu.sim.node.clock import now
from fracgpu.sim.node.container import ContainerProcess
from fracgpu.sim.node.device_health import DeviceHealthCache
from fracgpu.sim.node.errors import ContainerStartError
from fracgpu.sim.node.events import EventRecorder
from fracgpu.sim.node.plugin_registry import PluginRegistry
from fracgpu.sim.node.pod_worker import NodeServices, PodWorker
from fracgpu.sim.node.runner import ContainerRunner
from fracgpu.sim.node.runtime import ContainerRuntime
from fracgpu.sim.node.slices import SliceJanitor
from fracgpu.sim.node.timings import Timings
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError, WatchStream

_LOG = logging.getLogger(__name__)
_NODES = "/api/v1/nodes"
_PODS = "/api/v1/pods"
_RELIST_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """One node: its name and address, the API server, its directories and the runtime that runs its containers."""

    name: str
    api_url: str
    registry_dir: Path
    state_dir: Path
    runtime: ContainerRuntime
    host_ip: str = "127.0.0.1"
    labels: dict[str, str] = field(default_factory=dict)
    timings: Timings = field(default_factory=Timings)


class Node:
    """A running node; a context manager. Leaving it is a node that goes down: containers end, claims stay prepared.

    A node entered again with the same directories carries on: it knows which claims it owes a release, prepares the
    claims of its pods again and restarts their containers.
    """

    def __init__(self, options: NodeOptions) -> None:
        self._options = options
        self._api = KubeApi(options.api_url)
        timings = options.timings
        self._janitor = SliceJanitor(
            self._api, options.name, grace_s=timings.slice_wipe_grace, retry_s=timings.wipe_retry
        )
        self._health = DeviceHealthCache(on_change=self._refresh_pods)
        self._registry = PluginRegistry(
            options.registry_dir,
            on_usable=self._janitor.keep,
            on_unusable=self._janitor.driver_gone,
            health=self._health,
            health_retry_s=timings.health_retry,
            registration_retry_s=timings.registration_retry,
        )
        self._claims = ClaimManager(self._api, self._registry, options.state_dir / "dra_manager_state", self._health)
        self._services = NodeServices(
            api=self._api,
            claims=self._claims,
            runtime=options.runtime,
            events=EventRecorder(self._api, options.name),
            timings=timings,
            host_ip=options.host_ip,
        )
        self._lock = threading.Lock()
        self._workers: dict[str, PodWorker] = {}
        self._watch: WatchStream | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow_pods, name="pod-watcher", daemon=True),
            threading.Thread(target=self._reconcile, name="claim-reconciler", daemon=True),
        ]

    def __enter__(self) -> Self:
        """Register the node and start to run its pods; raises ApiRefusedError when the API server refuses the node."""
        self._register()
        self._janitor.wipe()
        self._registry.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End all containers and threads."""
        self._stop.set()
        with self._lock:
            if self._watch is not None:
                self._watch.close()
        for thread in self._threads:
            thread.join()
        workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
        self._registry.stop()
        self._janitor.stop()

    def wait_for_driver(self, driver: str, timeout_s: float) -> bool:
        """Wait until a plugin of ``driver`` is registered; tell whether it is."""
        return self._registry.wait_for(driver, timeout_s)

    def plugin_instances(self, driver: str) -> list[str]:
        """Return the endpoints of the registered instances of ``driver``, oldest registration first."""
        return self._registry.instances(driver)

    def execute(
        self,
        pod: Json,
        argv: tuple[str, ...],
        *,
        container: str | None = None,
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
    ) -> ContainerProcess:
        """Run a command inside a running container of ``pod`` (an API object of this node), as `kubectl exec` does.

        Raises:
            ContainerStartError: the container is not running, or the command cannot be started.

        """
        return self._runner(pod, container).execute(argv, stdout=stdout, stderr=stderr)

    def log(self, pod: Json, container: str | None = None) -> bytes:
        """Return the output of the present (or last) run of a container; empty before the first."""
        name = container or pod["spec"]["containers"][0]["name"]
        logs = sorted(self._options.runtime.directory(pod, name).glob("*.log"), key=lambda path: int(path.stem))
        return logs[-1].read_bytes() if logs else b""

    def _runner(self, pod: Json, container: str | None) -> ContainerRunner:
        with self._lock:
            worker = self._workers.get(pod["metadata"]["uid"])
        if worker is None:
            raise ContainerStartError(
                f"pod {pod['metadata']['namespace']}/{pod['metadata']['name']}",
                f"it does not run on node {self._options.name}",
                remedy="wait until it is scheduled",
            )
        return worker.runner(container)

    def _register(self) -> None:
        name = self._options.name
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **self._options.labels}
        node: Json = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}}
        try:
            self._api.create(_NODES, node)
        except ApiRefusedError as error:
            if error.code != 409:
                raise
        resources = {"cpu": str(os.cpu_count() or 1), "memory": "16Gi", "pods": "110"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "embedded node is running"}
        status = {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": self._options.host_ip},
                {"type": "Hostname", "address": name},
            ],
            "conditions": [{**ready, "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
        }
        self._api.merge_patch(f"{_NODES}/{name}/status", {"status": status})

    def _follow_pods(self) -> None:
        """List, then watch; when the stream ends, start over."""
        query = {"fieldSelector": f"spec.nodeName={self._options.name}"}
        while not self._stop.is_set():
            try:
                listed = self._api.get(f"{_PODS}?{urllib.parse.urlencode(query)}")
                self._replace_all(listed["items"])
                self._stream({**query, "resourceVersion": listed["metadata"]["resourceVersion"]})
            except (ApiRefusedError, ApiUnreachableError) as error:
                _LOG.warning("pod watch interrupted error=%s", error)
            self._stop.wait(_RELIST_PAUSE_S)

    def _stream(self, query: dict[str, str]) -> None:
        with contextlib.closing(self._api.watch(_PODS, query)) as watch:
            with self._lock:
                self._watch = watch
            if self._stop.is_set():
                return
            for kind, pod in watch:
                if kind == "DELETED":
                    self._gone(pod["metadata"]["uid"])
                elif kind in {"ADDED", "MODIFIED"}:
                    self._seen(pod)

    def _replace_all(self, pods: list[Json]) -> None:
        for pod in pods:
            self._seen(pod)
        present = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self._workers if uid not in present]:
            self._gone(uid)

    def _seen(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        with self._lock:
            worker = self._workers.get(uid)
            if worker is None:
                self._workers[uid] = PodWorker(pod, self._services)
                self._workers[uid].start()
                return
        worker.update(pod)

    def _gone(self, uid: str) -> None:
        with self._lock:
            worker = self._workers.get(uid)
        if worker is not None:
            worker.vanish()

    def _refresh_pods(self) -> None:
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            worker.refresh()

    def _reconcile(self) -> None:
        """Forget workers that are done, and release claims of pods that are gone (the kubelet: every 60 s)."""
        while not self._stop.wait(self._options.timings.reconcile):
            with self._lock:
                for uid in [uid for uid, worker in self._workers.items() if worker.done]:
                    del self._workers[uid]
                active = {uid for uid, worker in self._workers.items() if worker.active}
            self._claims.release_gone(active)
            # Health that nobody renewed has become unknown meanwhile.
            self._refresh_pods()
