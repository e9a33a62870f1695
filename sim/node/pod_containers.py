"""The containers of one pod in the order in which they may run.

Init containers run one after the other, each until it succeeded. One whose own restartPolicy is Always is a sidecar:
the next begins as soon as it runs, it is restarted however it ends, and it is stopped when the pod's own containers
have finished, after them and the last one first. Source: KEP-753.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from fracgpu.sim.node.api import Json
from fracgpu.sim.node.runner import ContainerRunner, ContainerView

MakeRunner = Callable[[Json, str], ContainerRunner]


def is_sidecar(container: Json) -> bool:
    """Tell whether an init container is a sidecar."""
    return bool(container.get("restartPolicy") == "Always")


class PodContainers:
    """Runners of a pod's containers; `make_runner` gets a container and the restart policy that applies to it.

    One thread calls `advance` and `stop`; what only reads may be called from others.
    """

    def __init__(self, pod: Json, make_runner: MakeRunner) -> None:
        policy = pod["spec"].get("restartPolicy", "Always")
        # An init container that succeeded is done, whatever the pod does with its other containers.
        of_init = "Never" if policy == "Never" else "OnFailure"
        self._make_runner = make_runner
        self._init = [
            (one, "Always" if is_sidecar(one) else of_init) for one in pod["spec"].get("initContainers") or []
        ]
        self._main = [(one, policy) for one in pod["spec"]["containers"]]
        self._passed = 0
        self._failed = False
        self._runners: dict[str, ContainerRunner] = {}

    def advance(self) -> None:
        """Start every container whose turn it is."""
        while self._passed < len(self._init) and not self._failed:
            container, policy = self._init[self._passed]
            view = self._started([(container, policy)])[0].view
            if is_sidecar(container):
                done = view.has_run
            else:
                done = view.finished and view.exit_code == 0
                self._failed = view.finished and not done
            if not done:
                return
            self._passed += 1
        if not self._failed:
            self._started(self._main)

    @property
    def finished(self) -> bool:
        """Tell whether the pod has done what it can: its containers have finished, or it could not be initialized."""
        own = [self._runners.get(container["name"]) for container, _ in self._main]
        return self._failed or all(runner is not None and runner.view.finished for runner in own)

    def find(self, name: str) -> ContainerRunner | None:
        """Return the runner of a container whose turn has come."""
        return self._runners.get(name)

    def views(self) -> dict[str, ContainerView]:
        """Return the views of all containers whose turn has come, by name."""
        return {name: runner.view for name, runner in list(self._runners.items())}

    def running(self) -> list[str]:
        """Return the names of the containers that have not finished."""
        return [name for name, view in self.views().items() if not view.finished]

    def stop(self, grace_s: float) -> None:
        """End all containers: the pod's own at once, then the sidecars; all together they have `grace_s` seconds."""
        end = time.monotonic() + grace_s
        _stop(self._of(self._main), grace_s)
        for runner in reversed(self._of(self._init)):
            _stop([runner], max(0.0, end - time.monotonic()))

    def _of(self, containers: Iterable[tuple[Json, str]]) -> list[ContainerRunner]:
        found = [self._runners.get(container["name"]) for container, _ in containers]
        return [runner for runner in found if runner is not None and not runner.view.finished]

    def _started(self, containers: Iterable[tuple[Json, str]]) -> list[ContainerRunner]:
        """Return the runners of containers; those that are new are made first and started then."""
        fresh: list[ContainerRunner] = []
        wanted = list(containers)
        for container, policy in wanted:
            if container["name"] not in self._runners:
                self._runners[container["name"]] = self._make_runner(container, policy)
                fresh.append(self._runners[container["name"]])
        for runner in fresh:
            runner.start()
        return [self._runners[container["name"]] for container, _ in wanted]


def _stop(runners: list[ContainerRunner], grace_s: float) -> None:
    stoppers = [threading.Thread(target=runner.stop, args=(grace_s,)) for runner in runners]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join()
