"""What a leader keeps people informed of besides claims: quotas, and other owners of the same GPUs."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final

from fracgpu.controller.allocator.world import World
from fracgpu.controller.owners import SecondOwner, second_owners
from fracgpu.controller.ports import Clock, ControllerApi, Executor, Teller
from fracgpu.controller.quota.asked import AskedCharges
from fracgpu.controller.quota.reporter import QuotaReporter

_LOG: Final = logging.getLogger(__name__)
SECOND_OWNER: Final = "SecondGpuOwner"
_OWNERS_EVERY_SECONDS: Final = 60.0


class Reports:
    """Call `step` in each round of a term of office."""

    def __init__(self, *, world: World, api: ControllerApi, teller: Teller, executor: Executor, clock: Clock) -> None:
        by_scheduler = world.owner == "scheduler"
        self._world = world
        self._teller = teller
        self._clock = clock
        self._quotas = QuotaReporter(
            api,
            world.quotas,
            enforced_at="Admission" if by_scheduler else "Allocation",
            clock=clock,
            now=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            executor=executor,
        )
        self._look_at = clock()
        self._owners: set[SecondOwner] = set()
        self._problems: set[str] = set()
        if by_scheduler:
            asked = AskedCharges(world.quotas, largest_memory=world.largest_memory_bytes, is_ours=world.is_our_class)
            world.on_claim(asked)

    def step(self) -> None:
        """Write and tell what is due."""
        for notice in self._quotas.step():
            if notice.settled:
                self._teller.settle(notice.about, notice.reason)
            else:
                self._teller.tell(notice.about, notice.reason, notice.message, warning=True)
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + _OWNERS_EVERY_SECONDS
            self._look_for_owners()
            self._look_for_problems()

    def next_due(self) -> float | None:
        """Return when, on the clock, something is due without further news."""
        wait_seconds = self._quotas.wait_s()
        return None if wait_seconds is None else self._clock() + wait_seconds

    def _look_for_owners(self) -> None:
        nodes = {str(node["metadata"]["name"]): node for node in self._world.nodes.objects()}
        found = set(second_owners(nodes.values(), self._world.slices()))
        for owner in sorted(found - self._owners):
            _LOG.warning("second owner of GPUs", extra={"node": owner.node, "what": owner.what, "remedy": owner.remedy})
            if owner.node in nodes:
                self._teller.tell(nodes[owner.node], SECOND_OWNER, f"{owner.what}; {owner.remedy}", warning=True)
        for owner in self._owners - found:
            if owner.node in nodes:
                self._teller.settle(nodes[owner.node], SECOND_OWNER)
        self._owners = found

    def _look_for_problems(self) -> None:
        found = {str(problem) for problems in self._world.slice_problems.values() for problem in problems}
        for problem in sorted(found - self._problems):
            _LOG.warning("published GPU left out", extra={"error": problem})
        self._problems = found
