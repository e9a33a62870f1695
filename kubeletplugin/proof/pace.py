"""When a claim's status may be written. Pure.

A write is stored in etcd and wakes every scheduler that watches claims. A change of a verdict goes out at once, but not
more often than each second per claim. Programs that come and go each few seconds change verdicts each time, for days:
so after some changes in a row only bad news goes out at once, and the rest waits. Changed numbers wait for their
minute. And a node of which all claims change at once (a driver that falls silent) spreads its writes. What fails is
tried again later and later.
"""

from dataclasses import dataclass, field
from typing import Final

from fracgpu.kubeletplugin.proof.claim_writer import Outcome
from fracgpu.kubeletplugin.proof.device_status import DeviceReport, data_differs
from fracgpu.kubeletplugin.proof.observation import Truth

MIN_SECONDS: Final = 1.0
DATA_SECONDS: Final = 60.0
# Now and then the claim is read although nothing changed: for pods that joined, and for entries that somebody removed.
REREAD_SECONDS: Final = 300.0
# Missing rights are corrected by a person, and a claim that is gone mostly stays so: one question in a while is enough.
LASTING_SECONDS: Final = 300.0
LONGEST_RETRY_SECONDS: Final = 60.0
WRITES_PER_SECOND: Final = 5.0
WRITES_AT_ONCE: Final = 10.0
# Changes of one claim's verdicts, bad news apart: a program's start, work and end, and then one in a while.
CHANGES_PER_SECOND: Final = 1 / 30
CHANGES_AT_ONCE: Final = 6.0

_Reports = tuple[DeviceReport, ...]
# What is dropped is as good as written: more attempts would change nothing, and events still tell of bad news.
_WRITTEN: Final = (Outcome.WRITTEN, Outcome.DROPPED)
_DONE: Final = (*_WRITTEN, Outcome.UNCHANGED)
_LASTING: Final = (Outcome.FORBIDDEN, Outcome.REFUSED, Outcome.GONE)


class TokenBucket:
    """Allows `rate` writes per second in the long run, `burst` at once."""

    def __init__(self, *, rate: float = WRITES_PER_SECOND, burst: float = WRITES_AT_ONCE) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled_at: float | None = None

    def has_one(self, now: float) -> bool:
        """Tell whether there is a token at `now`."""
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled_at) * self._rate)
        self._filled_at = now
        return self._tokens >= 1

    def take(self, now: float) -> bool:
        """Take one token at `now`, and tell whether there was one."""
        if not self.has_one(now):
            return False
        self._tokens -= 1
        return True


def _changes() -> TokenBucket:
    return TokenBucket(rate=CHANGES_PER_SECOND, burst=CHANGES_AT_ONCE)


@dataclass(slots=True)
class ClaimPace:
    """What is known about one claim's writes. Times are seconds of a monotonic clock."""

    written: _Reports | None = None
    written_at: float = 0.0
    not_before: float = 0.0
    failures: int = 0
    changes: TokenBucket = field(default_factory=_changes)

    def is_due(self, reports: _Reports, now: float) -> bool:
        """Tell whether `reports` should be written at `now`."""
        if now < self.not_before:
            return False
        if self.written is None or self.failures or _is_worse(self.written, reports):
            return True
        if _verdicts(reports) != _verdicts(self.written):
            return self.changes.has_one(now)
        age = now - self.written_at
        return age >= REREAD_SECONDS or (age >= DATA_SECONDS and _differ(self.written, reports))

    def record(self, outcome: Outcome, reports: _Reports, now: float) -> None:
        """Remember how a write at `now` ended."""
        if outcome in _DONE:
            if self.written is not None and _verdicts(reports) != _verdicts(self.written):
                self.changes.take(now)
            # An unchanged claim still says what was written before: from there on changes are measured.
            if outcome in _WRITTEN or self.written is None or _verdicts(reports) != _verdicts(self.written):
                self.written = reports
            self.written_at, self.failures = now, 0
            self.not_before = now + MIN_SECONDS
            return
        self.failures += 1
        # 2 ** 6 is beyond the longest pause; larger powers would only grow out of a float's range one day.
        pause = min(MIN_SECONDS * 2 ** min(self.failures, 6), LONGEST_RETRY_SECONDS)
        if outcome in _LASTING:
            pause = LASTING_SECONDS
        self.not_before = now + pause


def _verdicts(reports: _Reports) -> tuple[object, ...]:
    return tuple((report.key, report.verdicts) for report in reports)


def _is_worse(former: _Reports, reports: _Reports) -> bool:
    """Tell whether a condition has become False, or what is reported on is no longer the same."""
    if [report.key for report in former] != [report.key for report in reports]:
        return True
    return any(
        new.truth is Truth.FALSE and (old := one.conditions.get(kind)) is not None and old.truth is not Truth.FALSE
        for one, two in zip(former, reports, strict=True)
        for kind, new in two.conditions.items()
    )


def _differ(former: _Reports, reports: _Reports) -> bool:
    return any(data_differs(one.data, two.data) for one, two in zip(former, reports, strict=True))
