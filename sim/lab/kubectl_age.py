"""Ages as kubectl shows them: two units where one alone would say too little, and one where the second says nothing.

The steps are those of `HumanDuration` in k8s.io/apimachinery/pkg/util/duration, 1.36.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_YEAR: Final = 365 * _DAY
# Below how many seconds: the unit with its letter, then the smaller unit beside it, if any.
_STEPS: Final[tuple[tuple[float, int, str, int, str], ...]] = (
    (2 * _MINUTE, 1, "s", 0, ""),
    (10 * _MINUTE, _MINUTE, "m", 1, "s"),
    (3 * _HOUR, _MINUTE, "m", 0, ""),
    (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
    (2 * _DAY, _HOUR, "h", 0, ""),
    (8 * _DAY, _DAY, "d", _HOUR, "h"),
    (2 * _YEAR, _DAY, "d", 0, ""),
    (8 * _YEAR, _YEAR, "y", _DAY, "d"),
    (float("inf"), _YEAR, "y", 0, ""),
)


def human_duration(duration: timedelta) -> str:
    """Return an age in kubectl's words; clocks that differ by up to two seconds are taken for equal."""
    # Towards zero, as Go converts.
    seconds = int(duration.total_seconds())
    if seconds < 0:
        return "0s" if seconds >= -1 else "<invalid>"
    for below, unit, letter, smaller, small_letter in _STEPS:
        if seconds < below:
            rest = seconds % unit // smaller if smaller else 0
            return f"{seconds // unit}{letter}" + (f"{rest}{small_letter}" if rest else "")
    raise AssertionError("the last step has no end")
