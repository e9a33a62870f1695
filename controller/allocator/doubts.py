"""Writes whose answer never came: each counts until it is known what became of it, or certain that it can not happen.

One that cannot be settled now keeps its place and stops nobody else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from fracgpu.controller.allocator.fenced_writes import FencedWriter
from fracgpu.controller.allocator.takeover import settle_all
from fracgpu.controller.allocator.world import World
from fracgpu.controller.objects.facts import full_name, is_allocated, uid_of
from fracgpu.controller.ports import Clock, ControllerApi, Executor, Json
from fracgpu.driver.kube.errors import ClusterError

_LOG: Final = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 1.0


class Doubts:
    """Claims that may come to be allocated by a write of ours."""

    def __init__(self, *, world: World, api: ControllerApi, executor: Executor, clock: Clock) -> None:
        self._world = world
        self._api = api
        self._executor = executor
        self._clock = clock
        self._claims: dict[str, Json] = {}
        self._not_before = clock()

    def add(self, claims: Iterable[Json]) -> None:
        """Remember claims as they were known when they were written."""
        self._claims.update((uid_of(claim), claim) for claim in claims)

    def resolve(self, writer: FencedWriter) -> list[Json]:
        """Find out, or decide, what became of them; return those that turned out to be allocated. Raises nothing."""
        if not self._claims or self._clock() < self._not_before:
            return []
        allocated: list[Json] = []
        claims = list(self._claims.values())
        for claim, found in zip(claims, settle_all(self._api, writer, self._executor, claims), strict=True):
            if isinstance(found, ClusterError):
                self._not_before = self._clock() + _RETRY_SECONDS
                _LOG.warning("write still in doubt", extra={"claim": full_name(claim), "error": str(found)})
                continue
            if found is not None:
                self._world.take_in_claim(found)
                if is_allocated(found):
                    allocated.append(found)
            self._settle(claim)
        return allocated

    def taken_over(self) -> None:
        """Settle all: every claim has been counted, or taken anew, by a take-over since."""
        for claim in list(self._claims.values()):
            self._settle(claim)

    def next_due(self) -> float | None:
        """Return when, on the clock, the next try is due; None when there is none."""
        return self._not_before if self._claims else None

    def _settle(self, claim: Json) -> None:
        del self._claims[uid_of(claim)]
        self._world.settle(claim)
