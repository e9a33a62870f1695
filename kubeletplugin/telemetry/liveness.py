"""Is the plugin alive, and is it ready?

Alive means that each background loop still goes round: a loop that hangs in a call that never returns is what a
restart cures, and nothing else is. An API server or an NVML that does not answer makes a loop's work fail, not its
round, so it never gets a healthy plugin killed.

Ready means that pods can come: the kubelet knows the plugin, and the node's slice is published or it is known why not.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.background import Wait

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


class Published(Protocol):
    """What readiness asks of the slice publisher."""

    @property
    def published(self) -> threading.Event:
        """Set while the slice is as it should be."""

    @property
    def refusal(self) -> str | None:
        """Why nothing may be published, None if nothing stands against it."""


def readiness_checks(*, registered: Callable[[], bool], slices: Published) -> Mapping[str, Check]:
    """Return the checks of /readyz: the kubelet knows us, and the slice is published or refused for a known reason.

    A refusal is for an administrator to cure and stands in the log; a plugin that is never ready would only stop the
    roll-out that cures it.
    """

    def registration() -> str | None:
        return None if registered() else f"the kubelet has not registered {DRIVER_NAME} yet; see its log"

    def slice_published() -> str | None:
        done = slices.published.is_set() or slices.refusal is not None
        return None if done else "the ResourceSlice is not published yet; see the plugin's log for the reason"

    return {"registration": registration, "slice": slice_published}
