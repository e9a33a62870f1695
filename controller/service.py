"""All parts of the controller, wired in one place, started and stopped in the right order.

Nobody stands for election before everything that there is has been listed: a leader that can not see is none. At the
end the allocator stops first, then the Lease is given back, so that another replica can begin at once and finds nobody
writing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from fracgpu.controller.allocator.allocator import Allocator, AllocatorOptions
from fracgpu.controller.api.kubernetes_api import KubernetesApi
from fracgpu.controller.lead.election import Leadership, Timing
from fracgpu.controller.lead.lease_lock import LeaseRecordLock
from fracgpu.controller.options import ControllerOptions
from fracgpu.controller.telemetry.controller_telemetry import ControllerTelemetry
from fracgpu.controller.telemetry.traced_api import TracedApi
from fracgpu.controller.tell.events import EventTeller
from fracgpu.controller.threads import ThreadExecutor
from fracgpu.controller.watch.informers import Informers
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.driver.process.background import Background, Wait
from fracgpu.driver.process.liveness import Check, Heartbeat, beating

_LOG: Final = logging.getLogger(__name__)
_USER_AGENT: Final = "fracgpu-controller"
# Beside the writers: one watch per resource, the Lease, events, a list.
_OTHER_CONNECTIONS: Final = 12
# One round writes a batch in several waves, each of which may let its requests time out.
_ALLOCATOR_BOUND_SECONDS: Final = 600.0
_LOOP_BOUND_SECONDS: Final = 120.0
_SYNC_SECONDS: Final = 1.0
# The allocator ends between two writes.
_STOP_SECONDS: Final = 15.0


class ControllerService:
    """One replica of the controller: `start` once, then `stop` once.

    `on_failure` is called, from any thread, when a part has ended that nothing works without.
    """

    def __init__(self, options: ControllerOptions, *, on_failure: Callable[[], None]) -> None:
        """Make all parts; nothing is sent yet. Raises FracgpuError for what keeps it from working at all."""
        self._on_failure = on_failure
        self._closing = ExitStack()
        self._background = Background()
        self._stopping = threading.Event()
        self._alive: dict[str, Check] = {}
        self._telemetry = ControllerTelemetry(options)
        self._closing.callback(self._telemetry.close)
        connections = options.writers + _OTHER_CONNECTIONS
        transport = KubernetesTransport(options.kubeconfig, user_agent=_USER_AGENT, connections=connections)
        self._closing.callback(transport.close)
        executor = ThreadExecutor(options.writers)
        self._closing.callback(executor.close)
        api = KubernetesApi(transport, namespace=options.namespace, lease_name=options.lease_name)
        metrics = self._telemetry.metrics
        self._teller = EventTeller(api, told=metrics.told)
        self.allocator = Allocator(
            api=TracedApi(api, self._telemetry.tracer),
            teller=self._teller,
            metrics=metrics,
            executor=executor,
            options=AllocatorOptions(owner=options.allocator, orphan_seconds=options.orphan_seconds),
        )
        self._informers = Informers(transport, self.allocator.observe)
        self.leadership = Leadership(
            LeaseRecordLock(transport, namespace=options.namespace, name=options.lease_name),
            identity=options.identity,
            timing=Timing(lease=options.lease_seconds, renew=options.renew_seconds, retry=options.retry_seconds),
            on_change=self._lead_changed,
        )
        self._telemetry.tell_of_queues(silence=self._informers.ages, events=self._teller.waiting)

    @property
    def http_port(self) -> int | None:
        """The port that is listened on, None if there is none."""
        return self._telemetry.http_port

    def start(self) -> None:
        """Begin to watch; stand for election once everything is listed.

        Raises FracgpuError; what has started by then goes with `stop`.
        """
        self._alive.update(self._informers.alive())
        self._telemetry.serve(alive=self._alive, ready={"synced": self._informers.synced})
        self._closing.callback(self._informers.stop)
        self._informers.start()
        self._closing.callback(self._background.stop)
        self._run("events", self._teller.run, wake=self._teller.wake)
        self._run("election", self._elect)
        self._start_allocator()
        _LOG.info("controller started")

    def stop(self) -> None:
        """Stop what was started, in reverse order."""
        self._closing.close()

    def _run(self, name: str, run: Callable[[Wait], None], *, wake: Callable[[], None] | None = None) -> None:
        heartbeat = Heartbeat(bound_seconds=_LOOP_BOUND_SECONDS)
        self._alive[name] = heartbeat.check
        self._background.start(name, lambda wait: self._needed(name, lambda: run(beating(wait, heartbeat))), wake=wake)

    def _elect(self, wait: Wait) -> None:
        while not wait(0.0):
            if self._informers.wait_synced(_SYNC_SECONDS):
                self.leadership.run(wait)
                return

    def _start_allocator(self) -> None:
        heartbeat = Heartbeat(bound_seconds=_ALLOCATOR_BOUND_SECONDS)
        self._alive["allocator"] = heartbeat.check
        watched = _WatchedLeadership(self.leadership, heartbeat)
        thread = threading.Thread(
            target=self._needed,
            args=("allocator", lambda: self.allocator.run(watched, self._stopping)),
            name="allocator",
            daemon=True,
        )

        def end() -> None:
            self._stopping.set()
            self.allocator.wake()
            thread.join(_STOP_SECONDS)
            if thread.is_alive():
                _LOG.warning("allocator still writes; what it began is settled by the next leader")

        self._closing.callback(end)
        thread.start()

    def _lead_changed(self, term: str | None) -> None:
        self._telemetry.metrics.leads(leads=term is not None)
        self.allocator.wake()

    def _needed(self, name: str, run: Callable[[], None]) -> None:
        """Run a part without which the others make no sense: when it fails, the process ends and is started anew."""
        try:
            run()
        except Exception:
            _LOG.exception("part of the controller ended", extra={"loop": name})
            self._on_failure()


class _WatchedLeadership:
    """The leadership for the allocator, which asks for it in each round: that is its pulse."""

    def __init__(self, leadership: Leadership, heartbeat: Heartbeat) -> None:
        self._leadership = leadership
        self._heartbeat = heartbeat

    def term(self) -> str | None:
        """Return the term in which this replica leads."""
        self._heartbeat.beat()
        return self._leadership.term()
