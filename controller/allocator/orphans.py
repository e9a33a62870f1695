"""Allocations that nobody uses.

kube-controller-manager deallocates a claim when its last consumer goes. A claim that never had one, because the pod
went before it was scheduled, stays allocated for ever and keeps its share of a GPU from everybody else.
"""

from __future__ import annotations

from typing import Final

from fracgpu.controller.allocator.claim_book import wanted_ahead
from fracgpu.controller.allocator.fenced_writes import mark_of
from fracgpu.controller.allocator.world import World
from fracgpu.controller.objects.facts import (
    is_allocated,
    is_deleting,
    name_of,
    namespace_of,
    reserved_uids,
    uid_of,
)
from fracgpu.controller.ports import Clock, Json

_EVERY_SECONDS: Final = 10.0


class OrphanWatch:
    """Tells which allocations nobody has reserved, and no living pod names, for `patience_seconds`."""

    def __init__(self, world: World, clock: Clock, patience_seconds: float) -> None:
        self._world = world
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._idle_since: dict[str, float] = {}
        self._every_seconds = min(_EVERY_SECONDS, patience_seconds / 3)
        self._next_look = clock()

    def due(self) -> list[Json]:
        """Return the claims whose time has come, the longest idle first. Looks at all claims, so only now and then."""
        now = self._clock()
        if now < self._next_look:
            return []
        self._next_look = now + self._every_seconds
        idle = {uid_of(claim): claim for claim in self._world.claims if self._is_idle(claim)}
        self._idle_since = {uid: self._idle_since.get(uid, now) for uid in idle}
        ripe = [uid for uid, since in self._idle_since.items() if now - since >= self._patience_seconds]
        return [idle[uid] for uid in sorted(ripe, key=lambda uid: (self._idle_since[uid], uid))]

    def _is_idle(self, claim: Json) -> bool:
        # Only what we wrote ourselves: whoever else allocates has reasons of their own.
        if not is_allocated(claim) or not mark_of(claim) or reserved_uids(claim) or is_deleting(claim):
            return False
        return not wanted_ahead(claim) and not self._world.pods.users_of((namespace_of(claim), name_of(claim)))
