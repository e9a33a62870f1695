"""One lock per node around every change of prepared state.

During a rolling update two plugins run on a node, and each serves several calls at once. A file lock orders all of
them; the kernel drops it when its holder dies. Nobody waits for it for ever: a plugin that hangs in a dead disk must
not take the other one with it without a word.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fracgpu.driver.kill_points import kill_point
from fracgpu.kubeletplugin.errors import NodeLockTimeout

# flock(2) waits for ever or not at all, so waiting is asking again. A Prepare holds the lock for some milliseconds.
_FIRST_PAUSE_SECONDS: Final = 0.0005
_LONGEST_PAUSE_SECONDS: Final = 0.008
_LOCKS: Final = Path("/proc/locks")


@contextmanager
def node_lock(path: Path, timeout_seconds: float) -> Iterator[None]:
    """Hold the exclusive lock on `path` (created if missing) while the block runs.

    Each use opens the file anew, so that threads of one process exclude each other too (flock(2) belongs to the open
    file, not to the process). Raises NodeLockTimeout, naming the holder where the kernel tells, when it can not be had
    within `timeout_seconds`.
    """
    kill_point("creation of the lock file")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, path, timeout_seconds)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, timeout_seconds: float) -> None:
    end = time.monotonic() + timeout_seconds
    pause = _FIRST_PAUSE_SECONDS
    while not _try(descriptor):
        if time.monotonic() >= end:
            raise NodeLockTimeout(
                f"node lock {path}",
                f"was not to be had within {timeout_seconds:.0f} s{_holders(descriptor)}",
                remedy="it is tried again; if that process hangs, look at its disk and restart it",
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
            return False
        raise
    return True


def _holders(descriptor: int) -> str:
    """Return `: process 1234 holds it` or nothing; a holder in another pid namespace has no number here."""
    inode = str(os.fstat(descriptor).st_ino)
    try:
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return ""
    # "1: FLOCK  ADVISORY  WRITE 1234 08:02:4711 0 EOF", see proc_locks(5). Waiters have an arrow after the number.
    # The device is left out: on some file systems it is not the one that stat(2) names.
    fields = [line.split() for line in lines]
    pids = [one[4] for one in fields if len(one) >= 6 and one[1] == "FLOCK" and one[5].split(":")[-1] == inode]
    known = [pid for pid in pids if pid.isdigit() and pid != "0"]
    return f": process {', '.join(known)} holds it" if known else ""
