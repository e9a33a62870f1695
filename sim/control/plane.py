"""The control plane as one context manager."""

from __future__ import annotations

from types import TracebackType

from fracgpu.sim.control.claims import ClaimController
from fracgpu.sim.control.cluster import Cluster
from fracgpu.sim.control.jobs import JobController
from fracgpu.sim.control.loop import Controller
from fracgpu.sim.control.replicas import DeploymentController, ReplicaSetController
from fracgpu.sim.control.scheduler import Scheduler
from fracgpu.sim.control.stateful import StatefulSetController


class ControlPlane:
    """Scheduler and controllers in threads of this process, against the API at `url` (plain HTTP).

    Raises ClusterNotReadyError when the API does not answer.
    """

    def __init__(self, url: str) -> None:
        self.cluster = Cluster(url)
        self._controllers: list[Controller] = [
            ClaimController(self.cluster),
            Scheduler(self.cluster),
            DeploymentController(self.cluster),
            ReplicaSetController(self.cluster),
            StatefulSetController(self.cluster),
            JobController(self.cluster),
        ]

    def start(self) -> None:
        """Start everything; returns when the caches are filled."""
        try:
            self.cluster.start()
        except BaseException:
            self.cluster.stop()
            raise
        for controller in self._controllers:
            controller.start()

    def stop(self) -> None:
        """Stop and join all threads. What they were about to do is done at the next start."""
        for controller in self._controllers:
            controller.stop()
        self.cluster.stop()

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
