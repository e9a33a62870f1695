"""Who holds how much of each GPU, and what is free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from fracgpu.controller.fit.views import DeviceKey, GpuView, Holding
from fracgpu.driver.amounts import Amounts


@dataclass(frozen=True, slots=True)
class Free:
    """What is left of one GPU; negative where a scale was lowered under live allocations."""

    memory_bytes: int
    cores: int
    slots: int

    def lacks(self, wanted: Amounts) -> tuple[bool, bool, bool]:
        """Tell for memory, cores and slots whether too little is left. Asking for nothing is never too much."""
        return (
            0 < wanted.memory_bytes > self.memory_bytes,
            0 < wanted.cores > self.cores,
            0 < wanted.slots > self.slots,
        )

    def minus(self, wanted: Amounts) -> Free:
        """Return what is left after granting."""
        return Free(self.memory_bytes - wanted.memory_bytes, self.cores - wanted.cores, self.slots - wanted.slots)


def free_amounts(gpus: Iterable[GpuView], holdings: Iterable[Holding]) -> dict[DeviceKey, Free]:
    """Return what is free on each GPU. Holdings on GPUs that are not listed are ignored: nothing is given there."""
    free = {gpu.key: Free(gpu.memory_bytes, gpu.cores, gpu.slots) for gpu in gpus}
    for holding in holdings:
        left = free.get(holding.key)
        if left is not None:
            free[holding.key] = Free(
                left.memory_bytes - holding.memory_bytes, left.cores - holding.cores, left.slots - holding.slots
            )
    return free


def utilisation(gpus: Iterable[GpuView], free: Mapping[DeviceKey, Free]) -> Fraction:
    """Return the used part of the memory of some GPUs, 0 when they have none. Exact, so that ties are ties."""
    total = used = 0
    for gpu in gpus:
        total += gpu.memory_bytes
        used += gpu.memory_bytes - free[gpu.key].memory_bytes
    return Fraction(used, total) if total else Fraction(0)
