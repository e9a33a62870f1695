"""A process's loops: started together, stopped together.

Each is an object with `run(wait)`, in a daemon thread: one that hangs in a call that nobody can interrupt (NVML, a
watch) must not keep the process from ending, and none of them holds anything that must be saved.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

_LOG: Final = logging.getLogger(__name__)
_JOIN_SECONDS: Final = 2.0

Wait = Callable[[float], bool]
"""Waits that many seconds, or less if the process is to stop; returns whether it is."""


class Background:
    """Runs loops until `stop`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._wakers: list[Callable[[], None]] = []

    def start(
        self, name: str, run: Callable[[Wait], None], *, wake: Callable[[], None] | None = None, awaited: bool = True
    ) -> None:
        """Run `run` in a thread called `name`. `wake` makes it look at `wait` if it sleeps elsewhere.

        One that is not `awaited` may sleep where nobody can wake it: `stop` gives it no time.
        """
        if wake is not None:
            self._wakers.append(wake)
        thread = threading.Thread(target=self._guarded, args=(name, run), name=name, daemon=True)
        if awaited:
            self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Tell all loops to end and give them a moment to."""
        self._stop.set()
        for wake in self._wakers:
            wake()
        end = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _guarded(self, name: str, run: Callable[[Wait], None]) -> None:
        try:
            run(self._stop.wait)
        except Exception:
            # Loops catch what they can expect; without this line the rest would go unnoticed.
            _LOG.exception("background loop ended", extra={"loop": name})
