"""Carrying out placements: one fenced batch, and what its outcome means for the world."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from fracgpu.controller.allocator.fenced_writes import AllocationWrite, FencedWriter, Outcome
from fracgpu.controller.allocator.planner import Place
from fracgpu.controller.allocator.world import World
from fracgpu.controller.objects.allocation import build_allocation
from fracgpu.controller.objects.facts import full_name, uid_of
from fracgpu.controller.ports import AllocatorMetrics, Json
from fracgpu.driver.kube.errors import ClusterError, Conflict

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of one placement: the claims as written, those in doubt, and the first error."""

    plan: Place
    written: tuple[Json, ...]
    in_doubt: tuple[Json, ...]
    error: ClusterError | None

    @property
    def complete(self) -> bool:
        """Whether every claim of the placement is written."""
        return len(self.written) == len(self.plan.claims)


class Batch:
    """Placements that are counted already, to be written together."""

    def __init__(self, world: World, metrics: AllocatorMetrics, *, keeps_capacity: bool) -> None:
        self._world = world
        self._metrics = metrics
        self._keeps_capacity = keeps_capacity
        self._plans: list[tuple[Place, list[AllocationWrite]]] = []

    def __len__(self) -> int:
        return len(self._plans)

    def add(self, plan: Place) -> None:
        """Count a placement from now on. Raises FracgpuError for one that no allocation can be written for."""
        writes = self._writes(plan)
        self._world.assume(plan.pod, plan.claims, plan.placement)
        self._plans.append((plan, writes))

    def carry_out(self, writer: FencedWriter) -> tuple[bool, list[Carried]]:
        """Write everything; return whether the term goes on, and what became of each placement.

        What is in doubt stays counted, everything else is as the API server has it.
        """
        goes_on = writer.write([writes for _, writes in self._plans])
        return goes_on, [self._taken_in(plan, writes) for plan, writes in self._plans]

    def _writes(self, plan: Place) -> list[AllocationWrite]:
        return [
            AllocationWrite(
                claim,
                build_allocation(
                    claim,
                    plan.placement.node,
                    [device for device in plan.placement.devices if device.claim == uid_of(claim)],
                    find_class=self._world.find_class,
                    keeps_capacity=self._keeps_capacity,
                    now=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                    share_ids=lambda: str(uuid.uuid4()),
                ),
            )
            for claim in plan.claims
        ]

    def _taken_in(self, plan: Place, group: Sequence[AllocationWrite]) -> Carried:
        for one in group:
            if one.taken:
                self._world.take_in_claim(one.claim)
            if one.outcome is not Outcome.IN_DOUBT:
                self._world.settle(one.claim)
            self._metrics.wrote("allocation", _outcome_text(one))
            if one.error is not None:
                fields = {"claim": full_name(one.claim), "error": str(one.error)}
                _LOG.log(
                    logging.INFO if isinstance(one.error, Conflict) else logging.WARNING, "not written", extra=fields
                )
        return Carried(
            plan,
            tuple(one.claim for one in group if one.outcome is Outcome.WRITTEN),
            tuple(one.claim for one in group if one.outcome is Outcome.IN_DOUBT),
            next((one.error for one in group if one.error is not None), None),
        )


def _outcome_text(one: AllocationWrite) -> str:
    if one.outcome is Outcome.WRITTEN:
        return "written"
    if one.outcome is Outcome.IN_DOUBT:
        return "unknown"
    if one.error is None:
        return "skipped"
    return "conflict" if isinstance(one.error, Conflict) else "refused"
