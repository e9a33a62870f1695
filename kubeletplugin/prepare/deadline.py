"""How long a call of the kubelet may take.

The kubelet waits 45 s for a Prepare or Unprepare and then calls again, while the first call may still be running here.
A call therefore has one deadline for all that it waits for together (API server, driver, node lock), and is given up
before its first change of the disk once that has passed: what the kubelet no longer waits for must not appear later.

Source: kubelet's DRA client timeout, pkg/kubelet/cm/dra/plugin/dra_plugin.go in Kubernetes 1.36.
"""

import time
from collections.abc import Callable
from typing import Final

from fracgpu.kubeletplugin.errors import DeadlineExceeded

CALL_SECONDS: Final = 40.0
"""What a whole call may take: less than the kubelet's 45 s, so that it hears our reason instead of its own timeout."""
# The answer has to travel, too.
_ANSWER_SECONDS: Final = 5.0


class Deadline:
    """A moment, `seconds` after this object was made, by a clock that only goes forward."""

    def __init__(self, seconds: float = CALL_SECONDS, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    @classmethod
    def of_call(cls, remaining_seconds: float | None) -> "Deadline":
        """Return the deadline of a gRPC call whose caller waits for `remaining_seconds` more (None: it does not say).

        Time that the call spent waiting for a thread is gone already, and the answer needs some, too.
        """
        if remaining_seconds is None:
            return cls()
        return cls(min(CALL_SECONDS, remaining_seconds - _ANSWER_SECONDS))

    @property
    def remaining_seconds(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - self._clock())

    def check(self, subject: str, done: str) -> None:
        """Raise DeadlineExceeded about `subject` if the moment has passed; `done` says what took until now."""
        if self._clock() >= self._end:
            raise DeadlineExceeded(
                subject,
                f"took longer than {max(0.0, self._seconds):.0f} s, the last of it for {done}",
                remedy="it is tried again; look at what is slow on this node if it lasts",
            )
