"""Asking for the stop, from other threads and from a signal that comes at the worst moment."""

import sys
import threading
from types import FrameType
from typing import Any

import pytest

from fracgpu.driver.process.stop import EXIT_FAILED, EXIT_OK, Stop

GENEROUS_SECONDS = 60.0


@pytest.mark.parametrize("line", range(1, 9))
def test_a_signal_between_any_two_lines_of_the_wait_ends_it(line: int) -> None:
    """A trace function does what a signal handler does: it runs in the thread that waits, between two of its lines."""
    stop, lines = Stop(), 0
    reached, ended = threading.Event(), threading.Event()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        del frame, argument
        if event == "line":
            lines += 1
            if lines == line:
                reached.set()
                stop.ask()
        return trace

    def wait() -> None:
        sys.settrace(trace)
        stop.wait()
        sys.settrace(None)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    # A wait of fewer lines sleeps by now, or soon.
    if not reached.wait(0.1):
        stop.ask()
    assert ended.wait(GENEROUS_SECONDS)
    assert stop.exit_status == EXIT_OK


def test_the_first_reason_decides_about_the_exit_status() -> None:
    stop = Stop()
    stop.ask(EXIT_FAILED)
    stop.ask()
    stop.wait()
    assert stop.exit_status == EXIT_FAILED
