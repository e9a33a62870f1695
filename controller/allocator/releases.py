"""Taking allocations back: what nobody uses, and parts of a pod that fit together elsewhere only.

No fence is needed: the write is guarded by the version at which nobody had reserved the claim, and can only free
something.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Final

from fracgpu.controller.allocator.scheduler_watch import SchedulerWatch
from fracgpu.controller.allocator.world import World
from fracgpu.controller.objects.facts import full_name
from fracgpu.controller.ports import AllocatorMetrics, ControllerApi, Executor, Json
from fracgpu.driver.kube.errors import ClusterError, Conflict, NotFound, Unavailable

_LOG: Final = logging.getLogger(__name__)


class Releases:
    """Takes allocations back, unless anything about the claim has changed."""

    def __init__(
        self,
        *,
        world: World,
        api: ControllerApi,
        executor: Executor,
        scheduler: SchedulerWatch,
        metrics: AllocatorMetrics,
    ) -> None:
        self._world = world
        self._api = api
        self._executor = executor
        self._scheduler = scheduler
        self._metrics = metrics

    def release(self, claims: Sequence[Json]) -> list[Json]:
        """Take the allocations of some claims back; return those for which that was done for sure. Raises nothing."""
        answers: list[Json | ClusterError | None] = [None] * len(claims)

        def writing(position: int, claim: Json) -> Callable[[], None]:
            def call() -> None:
                try:
                    answers[position] = self._api.replace_claim_status(_without_allocation(claim))
                except ClusterError as error:
                    answers[position] = error

            return call

        for claim in claims:
            self._scheduler.expect(claim)
        self._executor.run_all([writing(position, claim) for position, claim in enumerate(claims)])
        return [claim for claim, answer in zip(claims, answers, strict=True) if self._is_done(claim, answer)]

    def _is_done(self, claim: Json, answer: Json | ClusterError | None) -> bool:
        if isinstance(answer, dict):
            self._world.take_in_claim(answer)
            self._metrics.wrote("release", "written")
            return True
        if isinstance(answer, Unavailable):
            # It may be done: if so, it was us.
            self._metrics.wrote("release", "unknown")
        else:
            self._scheduler.unexpect(claim)
            faster = isinstance(answer, Conflict | NotFound)
            self._metrics.wrote("release", "conflict" if faster else "refused")
        _LOG.info("not released", extra={"claim": full_name(claim), "error": str(answer)})
        return False


def _without_allocation(claim: Json) -> Json:
    changed = copy.deepcopy(claim)
    del changed["status"]["allocation"]
    return changed
