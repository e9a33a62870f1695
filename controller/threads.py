"""Writes that do not depend on each other, at once: one claim after another would cost an answer's time each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait


class ThreadExecutor:
    """Executor of ports.py over a fixed number of threads."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="writer")

    def run_all(self, calls: Sequence[Callable[[], None]]) -> None:
        """Run the calls at once, as many as there are threads; return when all have ended.

        They are not meant to raise: what one raises all the same is raised here, after the end of all.
        """
        if len(calls) == 1:
            calls[0]()
            return
        futures = [self._pool.submit(call) for call in calls]
        wait(futures)
        for future in futures:
            future.result()

    def close(self) -> None:
        """Take no more calls; those that run end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)
