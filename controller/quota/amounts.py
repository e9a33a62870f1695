"""Amounts that a quota limits, and how FractionQuota objects write them.

The three names are those of the capacities, and each has one unit everywhere: bytes, percent of one GPU, sharers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.controller.fit.views import Budget
from fracgpu.driver.errors import FracgpuError, QuantityInvalid
from fracgpu.driver.names import CAPACITIES, CAPACITY_CORES, CAPACITY_MEMORY, CAPACITY_SLOTS
from fracgpu.driver.quantity import format_bytes, parse_quantity

Json = dict[str, Any]
QUOTA_KIND: Final = "FractionQuota"
_REMEDY: Final = "write spec.hard like {memory: 64Gi, cores: 200, slots: 8}"


class QuotaInvalid(FracgpuError):
    """A FractionQuota does not say what it allows: nothing new is given to its namespace until it is mended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much is held or asked for: memory in bytes, cores in percent of one GPU, slots in sharers."""

    memory_bytes: int = 0
    cores: int = 0
    slots: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            memory_bytes=self.memory_bytes + other.memory_bytes,
            cores=self.cores + other.cores,
            slots=self.slots + other.slots,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            memory_bytes=self.memory_bytes - other.memory_bytes,
            cores=self.cores - other.cores,
            slots=self.slots - other.slots,
        )

    def of(self, name: str) -> int:
        """Return the amount of a capacity name."""
        return {CAPACITY_MEMORY: self.memory_bytes, CAPACITY_CORES: self.cores, CAPACITY_SLOTS: self.slots}[name]


NOTHING: Final = Usage()
NOTHING_LEFT: Final = Budget(memory_bytes=0, cores=0, slots=0)


def total(usages: Iterable[Usage]) -> Usage:
    """Return the sum."""
    return sum(usages, NOTHING)


def limit(budget: Budget, name: str) -> int | None:
    """Return the limit of a capacity name, None where there is none."""
    return {CAPACITY_MEMORY: budget.memory_bytes, CAPACITY_CORES: budget.cores, CAPACITY_SLOTS: budget.slots}[name]


def read_hard(quota: Json) -> Budget:
    """Return what a FractionQuota allows. Raises QuotaInvalid.

    The API server has checked all this by the schema of the CustomResourceDefinition; here it is checked again because
    the definition may be another one, and what cannot be read must not pass for "no limit".
    """
    metadata = quota.get("metadata") or {}
    subject = f"{QUOTA_KIND} {metadata.get('namespace', '')}/{metadata.get('name', '')}"
    spec = quota.get("spec")
    hard = spec.get("hard") if isinstance(spec, dict) else None
    if not isinstance(hard, dict) or not hard:
        raise QuotaInvalid(subject, "spec.hard limits nothing", remedy=_REMEDY)
    strange = sorted(str(name) for name in hard if name not in CAPACITIES)
    if strange:
        what = f"spec.hard has no such name: {', '.join(strange):.200}"
        raise QuotaInvalid(subject, what, remedy=f"use {', '.join(CAPACITIES)}")
    values = {name: _amount(subject, name, value) for name, value in hard.items()}
    return Budget(
        memory_bytes=values.get(CAPACITY_MEMORY), cores=values.get(CAPACITY_CORES), slots=values.get(CAPACITY_SLOTS)
    )


def show(name: str, amount: int) -> str:
    """Return an amount of a capacity name as the Quantity that a status has."""
    return format_bytes(amount) if name == CAPACITY_MEMORY else str(amount)


def _amount(subject: str, name: str, value: Any) -> int:
    try:
        exact = parse_quantity(value)
    except QuantityInvalid as error:
        raise QuotaInvalid(subject, f"spec.hard.{name} {value!r:.80} {error.what}", remedy=_REMEDY) from error
    if exact < 0:
        raise QuotaInvalid(subject, f"spec.hard.{name} {value!r:.80} is negative", remedy=_REMEDY)
    # What is compared with a limit are whole numbers: its fraction says nothing.
    return int(exact)
