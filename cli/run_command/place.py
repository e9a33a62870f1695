"""Where the prefix of one run lies, who owns it, and when it may go.

A prefix that disappears under a running program would be worse than one that stays: the next process that the program
starts would find the real driver, and no limit. So the directory goes only when nobody can need it any more: its owner
is gone (the kernel drops a dead process's lock), no process has a slot in it, and none has it in its environment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fracgpu.cli.errors import RunRefused
from fracgpu.native.errors import StateFileInvalid
from fracgpu.native.prefix import PREFIX_ENV, state_files
from fracgpu.native.state_file import read_state_file

NAME_PREFIX = "fracgpu-run-"
_PROC = Path("/proc")
# What separates, or is expanded, in LD_LIBRARY_PATH (ld.so(8)).
_UNUSABLE_CHARACTERS = frozenset(":;$")


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


def remove_stale_prefixes(places: Sequence[Path], *, proc: Path = _PROC) -> tuple[Path, ...]:
    """Remove the prefixes of runs that were killed and are over; return them."""
    return tuple(path for path in own_prefixes(places) if _remove_if_stale(path, proc))


def own_prefixes(places: Sequence[Path]) -> Iterator[Path]:
    """Return the prefixes of this user, those of running commands included."""
    for place in places:
        try:
            candidates = sorted(place.glob(f"{NAME_PREFIX}*"))
        except OSError:
            continue
        yield from (path for path in candidates if _is_ours(path))


def prefix_users(prefix: Path, *, proc: Path = _PROC) -> frozenset[int]:
    """Return the PIDs of the processes that may load a library from `prefix`: by its slots, and by their environment.

    PIDs of slots are those of the processes' own namespaces.
    """
    holders: set[int] = set()
    for state in state_files(prefix):
        try:
            holders.update(process.pid for process in read_state_file(state).processes)
        except StateFileInvalid:
            # A broken state file lets nobody in; whoever uses the prefix all the same shows in the environment.
            continue
    return frozenset(holders | set(_environment_users(prefix, proc)))


def _suits(place: Path) -> bool:
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK) or _UNUSABLE_CHARACTERS & set(str(place)):
        return False
    return not os.statvfs(place).f_flag & os.ST_NOEXEC


def _locked_directory(place: Path) -> PrefixDirectory:
    while True:
        path = Path(tempfile.mkdtemp(prefix=NAME_PREFIX, dir=place))
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


def _environment_users(prefix: Path, proc: Path) -> Iterator[int]:
    wanted = f"{PREFIX_ENV}={prefix}".encode()
    for environ in proc.glob("[0-9]*/environ"):
        try:
            found = wanted in environ.read_bytes().split(b"\0")
        except OSError:
            # Not ours, or gone: programs of other users can not enter a directory of mode 0700.
            continue
        if found:
            yield int(environ.parent.name)
