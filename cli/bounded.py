"""Asks a question that may never be answered, and goes on after a while.

A driver in trouble hangs inside its library, and no thread can be stopped there. A forked child can be left behind: it
is killed, and if even the kernel can not end it now, nobody waits for it.
"""

import os
import pickle
import selectors
import signal
import time
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

from fracgpu.cli.errors import NoAnswer
from fracgpu.driver.errors import FracgpuError

_Answer = TypeVar("_Answer")
_READ_BYTES: Final = 65536
_EXIT_ANSWERED: Final = 0


def answer_within(timeout_seconds: float, subject: str, question: Callable[[], _Answer]) -> _Answer:
    """Return what `question` returns in a child process of its own; its answer must be picklable.

    Raises the FracgpuError that `question` raises, and NoAnswer, naming `subject`, when the child hangs or dies. The
    caller has no other threads, as with every fork.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer_and_exit(writer, subject, question)
    os.close(writer)
    content = None
    try:
        content = _read_all(reader, time.monotonic() + timeout_seconds)
    finally:
        os.close(reader)
        if content is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, os.WNOHANG)
    if content is None:
        remedy = "look for Xid errors and hung tasks in the kernel log; the driver needs a reset or a reboot"
        raise NoAnswer(subject, f"did not answer within {timeout_seconds:g} s", remedy=remedy)
    _, status = os.waitpid(child, 0)
    if status != _EXIT_ANSWERED:
        what = f"the process that asked ended with {os.waitstatus_to_exitcode(status)}"
        raise NoAnswer(subject, what, remedy="check that nvidia-smi works on this machine")
    # The bytes come from our own child, over a pipe that nobody else has.
    answer: _Answer | FracgpuError = pickle.loads(content)  # noqa: S301
    if isinstance(answer, FracgpuError):
        raise answer
    return answer


def _answer_and_exit(writer: int, subject: str, question: Callable[[], object]) -> NoReturn:
    """Write the pickled answer and leave without a trace of the parent: no handlers, no buffers flushed twice."""
    status = 1
    try:
        try:
            answer: object = question()
        except FracgpuError as error:
            answer = error
        except Exception as error:
            answer = NoAnswer(subject, f"failed with {error!r}", remedy="check that nvidia-smi works on this machine")
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        status = _EXIT_ANSWERED
    finally:
        os._exit(status)


def _read_all(reader: int, deadline: float) -> bytes | None:
    """Return everything until the other end is closed, or None at the deadline (seconds of the monotonic clock)."""
    content = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            part = os.read(reader, _READ_BYTES)
            if not part:
                return bytes(content)
            content += part
    return None
