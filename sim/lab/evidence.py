"""What an exercise found: checks that hold or do not, and the lines that let a reader see why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation, whether it held, and what was seen."""

    expected: str
    held: bool
    seen: str


@dataclass(slots=True)
class Evidence:
    """Collected by one exercise while it runs.

    ``data`` and ``files`` (texts by name) are for the bundle: whatever a later reader may want.
    """

    checks: list[Check] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def check(self, expected: str, held: bool, seen: str) -> None:
        """Record one expectation."""
        self.checks.append(Check(expected, held, seen))

    @property
    def passed(self) -> bool:
        """All expectations held, and there were some: an exercise that looked at nothing has shown nothing."""
        return bool(self.checks) and all(check.held for check in self.checks)


def mib(count: int) -> str:
    """Return a number of bytes in MiB, exactly where it is whole."""
    whole, rest = divmod(count, 1 << 20)
    return f"{whole} MiB" if not rest else f"{count / (1 << 20):.2f} MiB"
