"""Who still uses an allocation's state file, as the kernel says.

Each process that counts in a state file holds an open-file-description lock on its slot, through its mapping of the
file (native/limiter/slot_lock.h). The kernel drops it with the process, whatever the process or its container did to
the file's content; so the locks are asked, not the content, which a container may have overwritten.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

# struct flock of 64-bit Linux: type, whence, start, length, pid (which must be 0 for OFD commands).
_FLOCK: Final = struct.Struct("@hhqqi4x")
# A file has at most as many slots; somebody with more locks than that plays with us.
_MOST: Final = 4096


def count_users(path: Path) -> int:
    """Return how many locks are held on the state file at `path`: one for each process that uses it; 0 without a file.

    Raises OSError when the kernel does not tell: then nobody may take the file for unused.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        if error.errno == errno.ELOOP:
            # A link is nothing of ours, and no container has it mounted.
            return 0
        raise
    try:
        return _count(descriptor)
    finally:
        os.close(descriptor)


def processes(count: int) -> str:
    """Return `1 process` or `2 processes`."""
    return f"{count} process" if count == 1 else f"{count} processes"


def _count(descriptor: int) -> int:
    count, start = 0, 0
    while count < _MOST:
        # Length 0 reaches to the end of any file; the answer is the first lock in the way of one of ours there.
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 0, 0))
        kind, _, found, length, _ = _FLOCK.unpack(answer)
        if kind == fcntl.F_UNLCK:
            break
        count += 1
        if length == 0:
            break
        start = found + length
    return count
