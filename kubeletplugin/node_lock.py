"""One lock per node around every change of prepared state.

During a rolling update two plugins run on a node, and each serves several calls at once. A file lock orders all of
them; the kernel drops it when its holder dies.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def node_lock(path: Path) -> Iterator[None]:
    """Hold the exclusive lock on `path` (created if missing) while the block runs, waiting for it as long as needed.

    Each use opens the file anew, so that threads of one process exclude each other too (flock(2) belongs to the open
    file, not to the process).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
