"""The one place that knows why and when a process stops, and with which exit status.

A signal handler asks for the stop, and Python runs it in the main thread between two instructions of whatever that is
doing, which here is waiting for the stop. So nothing on the way may hold a lock that is not reentrant: an Event would
stand still for ever if the signal came while its own `wait` held its lock. SimpleQueue is made for that.
"""

from queue import SimpleQueue
from typing import Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


class Stop:
    """Any thread asks for the stop, the main thread waits for it."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[int] = SimpleQueue()
        self.exit_status = EXIT_OK

    def ask(self, exit_status: int = EXIT_OK) -> None:
        """Have the process stop. The first exit status wins: a signal after it turns no failure into success."""
        self._asked.put(exit_status)

    def wait(self) -> None:
        """Return when somebody has asked; `exit_status` is what the first one said."""
        self.exit_status = self._asked.get()
