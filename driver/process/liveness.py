"""Is a process alive?

Alive means that each background loop still goes round: a loop that hangs in a call that never returns is what a
restart cures, and nothing else is. An API server or an NVML that does not answer makes a loop's work fail, not its
round, so it never gets a healthy process killed.
"""

import threading
import time
from collections.abc import Callable

from fracgpu.driver.process.background import Wait

Check = Callable[[], str | None]
"""Returns None when all is well, else one sentence that says what is not."""


class Heartbeat:
    """The pulse of one loop, which may do something else than waiting for `bound_seconds` at a stretch.

    The bound must be longer than all time limits of one round of the loop together. `clock` counts seconds,
    monotonically. Beats come from the loop's thread, questions from any.
    """

    def __init__(self, *, bound_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound_seconds = bound_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._last = self._expected = clock()

    def beat(self, *, pause_seconds: float = 0.0) -> None:
        """Tell that the loop goes round, and that it will wait for `pause_seconds` now."""
        with self._lock:
            self._last = self._clock()
            self._expected = self._last + pause_seconds

    def check(self) -> str | None:
        """Return None, or how long the loop has been silent if that is longer than it may be."""
        with self._lock:
            now, last, expected = self._clock(), self._last, self._expected
        if now - expected <= self._bound_seconds:
            return None
        return f"no sign of life for {now - last:.0f} s, allowed are {expected - last + self._bound_seconds:.0f} s"


def beating(wait: Wait, heartbeat: Heartbeat) -> Wait:
    """Return a `wait` for a loop that beats by waiting, so that the loop need not know of heartbeats."""

    def waiting(seconds: float) -> bool:
        heartbeat.beat(pause_seconds=seconds)
        stopping = wait(seconds)
        heartbeat.beat()
        return stopping

    return waiting
