"""Which processes of this machine have files of ours mounted, as /proc says.

Every container of a claim has the claim's files mounted, also before its first CUDA call and after its last. So a claim
that nobody asks for any more may be taken back only when no process has such a mount. The text of mountinfo is searched
for the path below our directory: identifiers of ours have no character that is written as an escape there.

The plugin must see the host's processes (hostPID) for this to tell anything; see docs/dev/crash-safety.md.
Source: proc_pid_mountinfo(5).
"""

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
# The process is gone, or a zombie, which has no mounts any more.
_GONE: Final = (errno.ENOENT, errno.ESRCH, errno.EINVAL)


def mounted_by_a_process(fragments: Iterable[str], proc: Path = PROC) -> bool:
    """Return whether some process has a mount whose source or place contains one of `fragments` (`/allocations/x/`).

    Raises OSError when the mounts of a process can not be read: then nothing may be taken for unused.
    """
    wanted = [fragment.encode() for fragment in fragments]
    if not wanted:
        return False
    return any(fragment in text for text in map(_mounts, _processes(proc)) for fragment in wanted)


def _processes(proc: Path) -> list[Path]:
    return [path for path in proc.iterdir() if path.name.isdigit()]


def _mounts(process: Path) -> bytes:
    try:
        return (process / "mountinfo").read_bytes()
    except OSError as error:
        if error.errno in _GONE:
            return b""
        raise
