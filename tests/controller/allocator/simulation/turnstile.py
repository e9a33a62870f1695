"""Threads of which exactly one runs, and the test says which.

The allocator is ordinary blocking code. To try interleavings of two of them, each runs in a thread of its own that
stops before every call to the API and goes on when it is let: which thread goes next is the only thing that is
random.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Crash(BaseException):
    """Ends what a thread is doing, as SIGKILL would: no `except Exception` sees it."""


class Actor:
    """One thread. `start` begins a piece of work, `resume` lets it go on to its next pause, or to its end."""

    def __init__(self, name: str) -> None:
        self.failure: BaseException | None = None
        self._work: Callable[[], None] | None = None
        self._go = threading.Semaphore(0)
        self._yielded = threading.Semaphore(0)
        self._busy = False
        self._crash = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether it stands at a pause in the middle of some work."""
        return self._busy

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` up to its first pause."""
        assert not self._busy
        self._work, self._busy = work, True
        self._turn()

    def resume(self, *, crash: bool = False) -> None:
        """Let it go on, or crash where it stands. Raises what the work raised."""
        self._crash = crash
        self._turn()

    def pause(self) -> None:
        """Stand still until it is let go on. From within the work only."""
        self._yielded.release()
        self._go.acquire()
        if self._crash:
            self._crash = False
            raise Crash

    def end(self) -> None:
        """End the thread."""
        if self._busy:
            self.resume(crash=True)
        self._work = None
        self._go.release()
        self._thread.join()

    def _turn(self) -> None:
        self._go.release()
        self._yielded.acquire()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        while True:
            self._go.acquire()
            work = self._work
            if work is None:
                return
            try:
                work()
            except Crash:
                pass
            except BaseException as failure:  # the main thread raises it
                self.failure = failure
            self._busy = False
            self._yielded.release()
