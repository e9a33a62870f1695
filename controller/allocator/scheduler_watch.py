"""Notices when kube-scheduler takes an allocation back, and remembers for which pods the node is no good."""

from __future__ import annotations

import logging
from typing import Final

from fracgpu.controller.allocator.claim_book import ClaimNews
from fracgpu.controller.allocator.exclusions import Exclusions
from fracgpu.controller.allocator.fenced_writes import mark_of
from fracgpu.controller.allocator.pod_book import may_wait
from fracgpu.controller.allocator.world import World
from fracgpu.controller.objects.facts import full_name, name_of, namespace_of, node_name_of, reserved_uids, uid_of
from fracgpu.controller.objects.holdings import node_of
from fracgpu.controller.ports import AllocatorMetrics, Json

_LOG: Final = logging.getLogger(__name__)


class SchedulerWatch:
    """Listens to the world's news of claims."""

    def __init__(self, world: World, exclusions: Exclusions, metrics: AllocatorMetrics) -> None:
        self._world = world
        self._exclusions = exclusions
        self._metrics = metrics
        self._own: set[str] = set()
        world.on_claim(self._heard)

    def expect(self, claim: Json) -> None:
        """Say that we are taking this claim's allocation back ourselves."""
        self._own.add(uid_of(claim))

    def unexpect(self, claim: Json) -> None:
        """Say that we did not, after all."""
        self._own.discard(uid_of(claim))

    def _heard(self, news: ClaimNews) -> None:
        before, after = news.before, news.after
        if before is not None and (after is None or uid_of(after) != uid_of(before)):
            self._own.discard(uid_of(before))
        if before is None or after is None or not news.lost_allocation:
            return
        if uid_of(after) in self._own:
            self._own.discard(uid_of(after))
            return
        node, reserved = node_of(before), reserved_uids(before)
        pods = [pod for pod in self._users(after) if not reserved or uid_of(pod) in reserved]
        if node is None or not mark_of(before) or (reserved and not pods):
            # The end of a claim's use, which is kube-controller-manager's business.
            return
        # Without a reservation it was kube-scheduler, though we may not have heard of the pod yet.
        self._metrics.taken_back()
        _LOG.info("kube-scheduler took an allocation back", extra={"claim": full_name(after), "node": node})
        for pod in pods:
            self._exclusions.add(uid_of(pod), node)

    def _users(self, claim: Json) -> list[Json]:
        pods = self._world.pods.users_of((namespace_of(claim), name_of(claim)))
        return [pod for pod in pods if may_wait(pod) and not node_name_of(pod)]
