"""Where the prefix of one run lies, who owns it, and when it may go.

A prefix that disappears under a running program would be worse than one that stays: the next process that the program
starts would find the real driver, and no limit. So the directory goes only when nobody can need it any more: its owner
is gone (the kernel drops a dead process's lock), no process has a slot in it, and none has it in its environment or
has mapped a library of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fracgpu.cli.errors import RunRefused
from fracgpu.native.errors import StateFileInvalid
from fracgpu.native.prefix import state_files
from fracgpu.native.state_file import read_state_file

_PROC = Path("/proc")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
# What separates, or is expanded, in LD_LIBRARY_PATH (ld.so(8)).
_UNUSABLE_CHARACTERS = frozenset(":;$")
# A process that is just starting another program has no environment to show, and one that forks and ends while the list
# is read may be missed. Both pass while we look once more.
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class PrefixDirectory:
    """A directory of ours, 0700. `lock` is a descriptor that holds the lock on it for as long as this process lives.

    systemd-tmpfiles, which empties /tmp, leaves a locked directory alone (tmpfiles.d(5)).
    """

    path: Path
    lock: int

    def remove(self) -> None:
        """Remove the directory, and let the lock go."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)

    def leave(self) -> None:
        """Leave the directory to those who use it; a later run removes it."""
        os.close(self.lock)


def temporary_places() -> tuple[Path, ...]:
    """Return the directories that a prefix may lie in, best first.

    The user's runtime directory comes late: it goes when the user logs out, while a command may go on.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = (Path(tempfile.gettempdir()), Path("/var/tmp"), *((Path(runtime),) if runtime else ()), Path("/dev/shm"))  # noqa: S108
    return tuple(dict.fromkeys(place.resolve() for place in places))


def make_prefix_directory(places: Sequence[Path]) -> PrefixDirectory:
    """Return a new, locked directory in the first place that suits. Raises RunRefused when none does."""
    for place in places:
        if _suits(place):
            return _locked_directory(place)
    raise RunRefused(
        "temporary directory",
        f"none of {', '.join(map(str, places))} can be written to and is free of the noexec mount option",
        remedy="set TMPDIR to a directory that is; programs can not load a library from a noexec file system",
    )


def name_prefix() -> str:
    """Return what the names of prefixes begin with whose users this process can see.

    A temporary directory may be shared with other machines or containers, whose processes are in no /proc of ours.
    """
    here = f"{os.uname().nodename} {_PID_NAMESPACE.stat().st_ino}"
    return f"fracgpu-run-{hashlib.sha256(here.encode()).hexdigest()[:8]}-"


def remove_stale_prefixes(places: Sequence[Path], *, proc: Path = _PROC) -> tuple[Path, ...]:
    """Remove the prefixes of runs that were killed and are over; return them."""
    return tuple(path for path in own_prefixes(places) if _remove_if_stale(path, proc))


def own_prefixes(places: Sequence[Path]) -> Iterator[Path]:
    """Return the prefixes that this user made here, those of running commands included."""
    for place in places:
        try:
            candidates = sorted(place.glob(f"{name_prefix()}*"))
        except OSError:
            continue
        yield from (path for path in candidates if _is_ours(path))


def prefix_users(prefix: Path, *, proc: Path = _PROC) -> frozenset[int]:
    """Return the PIDs of the processes that may load a library from `prefix`, or have: by its slots, and by /proc.

    PIDs of slots are those of the processes' own namespaces.
    """
    holders: set[int] = set()
    for state in state_files(prefix):
        try:
            holders.update(process.pid for process in read_state_file(state).processes)
        except StateFileInvalid:
            # A broken state file lets nobody in; whoever uses the prefix all the same shows in /proc.
            continue
    for _ in range(_LOOKS):
        holders.update(_processes_naming(prefix, proc))
        if holders:
            break
    return frozenset(holders)


def _suits(place: Path) -> bool:
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK) or _UNUSABLE_CHARACTERS & set(str(place)):
        return False
    return not os.statvfs(place).f_flag & os.ST_NOEXEC


def _locked_directory(place: Path) -> PrefixDirectory:
    while True:
        path = Path(tempfile.mkdtemp(prefix=name_prefix(), dir=place))
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return PrefixDirectory(path, lock)
        # Another run took it for stale before it was locked.
        os.close(lock)


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return path.is_dir() and not path.is_symlink() and status.st_uid == os.geteuid()


def _remove_if_stale(path: Path, proc: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if prefix_users(path, proc=proc):
            return False
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


def _processes_naming(prefix: Path, proc: Path) -> Iterator[int]:
    """Return the PIDs of the processes that have `prefix` in a variable, or a file below it in their memory.

    A program may clear its environment or write over it, as those do that change how they are listed by ps, and still
    use the library that it has loaded.
    """
    named = re.compile(re.escape(os.fsencode(prefix)) + rb"(?![^/:\0\n])")
    for process in proc.glob("[0-9]*"):
        for content in ("environ", "maps"):
            try:
                found = named.search((process / content).read_bytes())
            except OSError:
                # Not ours, or gone: programs of other users can not enter a directory of mode 0700.
                break
            if found:
                yield int(process.name)
                break
