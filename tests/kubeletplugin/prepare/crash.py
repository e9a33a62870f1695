"""Ends this process, or a copy of it, at the n-th kill point."""

import os
import signal
import sys
import traceback
from collections.abc import Callable

from fracgpu.driver.kill_points import watched


class Countdown:
    """Does something at the n-th kill point that is reached, once. `reached` names those before it and that one."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at = at
        self.act = act
        self.reached: list[str] = []

    def __call__(self, effect: str) -> None:
        self.reached.append(effect)
        if len(self.reached) == self.at:
            self.act()


def killed_at(point: int, operation: Callable[[], object]) -> bool:
    """Run `operation` in a copy of this process that kills itself with SIGKILL at its `point`-th kill point.

    Returns whether it got there; False means that the operation was done before. Fails when the operation raised.
    """
    child = os.fork()
    if child == 0:
        _run(point, operation)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, f"the operation failed before kill point {point}; its traceback is on stderr"
    return False


def _run(point: int, operation: Callable[[], object]) -> None:
    """Never returns into the test: whatever happens, the copy ends here."""
    status = 1
    try:
        with watched(Countdown(point, lambda: os.kill(os.getpid(), signal.SIGKILL))):
            operation()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
