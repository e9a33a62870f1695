"""What the lab prints: one line on what is simulated, one per exercise, the evidence below."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fracgpu.sim.lab.evidence import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One exercise: number, title, what it found, how long it took; ``error`` if it could not be carried through."""

    number: int
    title: str
    evidence: Evidence
    seconds: float
    error: str = ""

    @property
    def passed(self) -> bool:
        """The exercise was carried through and all expectations held."""
        return not self.error and self.evidence.passed


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the short table."""
    lines = [f"  E{one.number}  {_verdict(one.passed)}  {one.title}  ({one.seconds:.1f} s)" for one in outcomes]
    return "\n".join(lines)


def details(outcomes: Iterable[Outcome]) -> str:
    """Return the evidence lines of all exercises."""
    lines: list[str] = []
    for one in outcomes:
        lines.append(f"E{one.number} {one.title}")
        lines += [
            f"    {'ok  ' if check.held else 'FAIL'} {check.expected}: {check.seen}" for check in one.evidence.checks
        ]
        if one.error:
            lines.append(f"    FAIL {one.error}")
    return "\n".join(lines)


def as_json(outcomes: Iterable[Outcome]) -> list[dict[str, object]]:
    """Return the outcomes for result.json."""
    return [
        {
            "exercise": f"E{one.number}",
            "title": one.title,
            "passed": one.passed,
            "seconds": round(one.seconds, 3),
            "error": one.error,
            "checks": [
                {"expected": check.expected, "held": check.held, "seen": check.seen} for check in one.evidence.checks
            ],
            "data": one.evidence.data,
        }
        for one in outcomes
    ]


def _verdict(passed: bool) -> str:
    return "PASS" if passed else "FAIL"
