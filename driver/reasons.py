"""Reasons: a stable code with its numbers.

"Pending" without a number makes people guess; every refusal says how many GPUs it is about and what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.quantity import format_mib

__all__ = ["Reason", "ReasonCode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One code with how many of the candidates it excluded and by how much.

    `affected` of `total` candidates (`unit`, plural noun) fail for this reason; `detail` says the amounts in words.
    Reasons compare by value, so a set of them has no duplicates.
    """

    code: ReasonCode
    affected: int | None = None
    total: int | None = None
    unit: str = "GPUs"
    detail: str = ""

    @classmethod
    def insufficient_memory(cls, *, affected: int, total: int, need_bytes: int, max_free_bytes: int) -> Reason:
        """Memory is missing: the need and the largest free amount on one GPU, both in bytes, shown in MiB."""
        detail = f"need {format_mib(need_bytes)}, max free {format_mib(max_free_bytes)}"
        return cls(code=ReasonCode.CARD_INSUFFICIENT_MEMORY, affected=affected, total=total, detail=detail)

    @classmethod
    def insufficient_cores(cls, *, affected: int, total: int, need: int, max_free: int) -> Reason:
        """Cores are missing: the need and the largest free amount on one GPU, in percent of one GPU."""
        detail = f"need {need} cores, max free {max_free}"
        return cls(code=ReasonCode.CARD_INSUFFICIENT_CORE, affected=affected, total=total, detail=detail)

    @property
    def message(self) -> str:
        """One line for an event: the code, then how many and by how much in parentheses."""
        counted = f"{self.affected}/{self.total} {self.unit}" if self.total is not None else ""
        inside = ": ".join(part for part in (counted, self.detail) if part)
        return f"{self.code.value} ({inside})" if inside else self.code.value

    def __post_init__(self) -> None:
        if (self.affected is None) != (self.total is None):
            raise ValueError(f"Reason {self.code.value}: affected and total go together; give both or none")

    def __str__(self) -> str:
        return self.message
