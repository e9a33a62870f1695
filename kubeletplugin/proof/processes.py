"""What /proc tells about a process that uses a GPU.

Everything is read anew for each look: mounts may change while a process runs. A process may end between two reads, and
its first thread may have ended while others work on; then one of those is asked. And a process that ends takes time:
the kernel drops its memory, and with it its slot, before the driver has cleared the GPU of it, which can be seconds.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Final

from fracgpu.kubeletplugin.proof.cgroup import ContainerRef, parse_cgroup
from fracgpu.kubeletplugin.proof.mountinfo import MountTable, parse_mountinfo

PROC_ROOT: Final = Path("/proc")
_FLAGS_FIELD: Final = 9
_START_TIME_FIELD: Final = 22
# <linux/sched.h>: the thread is on its way out, and there is no way back.
_PF_EXITING: Final = 0x4
# The kernel's own limit for one lookup (path_resolution(7)).
_MAX_SYMLINKS: Final = 40
# What is read of one file: mountinfo of 1 MiB has some 8000 mounts, and a container has about a hundred. The kernel
# would let a container with a user namespace of its own make 100 000, each with paths of kilobytes.
_MAX_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 1 << 16
# The inode of the machine's first PID namespace (PROC_PID_INIT_INO of <linux/proc_ns.h>).
_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One process: host PID, PID in its own PID namespace and that namespace, start in clock ticks since boot.

    `command` is the kernel's short name of it: a full command line may hold secrets.
    """

    pid: int
    command: str
    start_time_ticks: int
    namespaced_pid: int
    pid_namespace_inode: int
    mounts: MountTable
    container: ContainerRef | None


class ProcessTable:
    """The processes below `proc_root`."""

    def __init__(self, proc_root: Path = PROC_ROOT) -> None:
        self._root = str(proc_root)

    def read(self, pid: int) -> ProcessFacts | None:
        """Return what is known of `pid`; None when it is not there, has ended, or may not be read."""
        try:
            place = f"{self._root}/{pid}"
            task = next(self._readable_tasks(place))
            return ProcessFacts(
                pid=pid,
                command=_printable(_read(f"{place}/comm")),
                start_time_ticks=int(_stat_field(_read(f"{place}/stat"), _START_TIME_FIELD)),
                namespaced_pid=_namespaced_pid(_read(f"{place}/status")),
                pid_namespace_inode=os.stat(f"{task}/ns/pid").st_ino,  # noqa: PTH116 - once a second per process
                mounts=_mounts(f"{task}/mountinfo"),
                container=parse_cgroup(_read(f"{place}/cgroup").decode(errors="replace")),
            )
        except (OSError, ValueError, IndexError, StopIteration):
            return None

    def is_ending(self, pid: int) -> bool:
        """Tell whether all threads of `pid` have ended or are ending; False when nothing can be seen of it."""
        place = f"{self._root}/{pid}"
        threads = 0
        try:
            for task in _tasks(place):
                if not int(_stat_field(_read(f"{task}/stat"), _FLAGS_FIELD)) & _PF_EXITING:
                    return False
                threads += 1
        except (OSError, ValueError, IndexError):
            return False
        return threads > 0

    def sees_all(self) -> bool:
        """Tell whether this process is in the machine's first PID namespace; False when that can not be told."""
        try:
            return os.stat(f"{self._root}/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE  # noqa: PTH116
        except OSError:
            return False

    def own_mounts(self) -> MountTable:
        """Return the mounts of this process. Raises OSError."""
        return parse_mountinfo(_read(f"{self._root}/self/mountinfo"))

    def resolve(self, pid: int, path: str, may_ask: Callable[[str], bool]) -> str:
        """Return `path` with its symbolic links followed as the process itself would follow them.

        A component that is missing or can not be read counts as no link. Every component is looked up in the process's
        own file systems, unless `may_ask` says of its path that this might block: from there on nothing is followed.
        """
        root = f"{self._root}/{pid}/root"
        pending = list(reversed(PurePosixPath(path).parts[1:]))
        resolved = PurePosixPath("/")
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                resolved = resolved.parent
                continue
            if not may_ask(str(resolved / name)):
                return str(resolved.joinpath(name, *reversed(pending)))
            try:
                target = PurePosixPath(os.readlink(f"{root}{resolved / name}"))  # noqa: PTH115 - no pathlib over root/
            except OSError:
                resolved /= name
                continue
            links += 1
            if links > _MAX_SYMLINKS:
                return path
            if target.is_absolute():
                resolved = PurePosixPath("/")
            pending.extend(reversed([part for part in target.parts if part != "/"]))
        return str(resolved)

    def file_id(self, pid: int, path: str) -> tuple[int, int] | None:
        """Return device and inode numbers of what the process has at `path` (without symbolic links), or None."""
        return file_id(f"{self._root}/{pid}/root{path}")

    def names(self, pid: int, directory: str, *, most: int) -> tuple[str, ...]:
        """Return what is in a `directory` (without symbolic links) of the process, `most` names of it at most."""
        try:
            with os.scandir(f"{self._root}/{pid}/root{directory}") as entries:
                return tuple(entry.name for entry in islice(entries, most))
        except OSError:
            return ()

    def _readable_tasks(self, place: str) -> Iterator[str]:
        for task in chain((place,), _tasks(place)):
            try:
                os.readlink(f"{task}/ns/mnt")  # noqa: PTH115 - fails once the thread has ended
            except OSError:
                continue
            yield task


def file_id(path: str) -> tuple[int, int] | None:
    """Return device and inode numbers of the file at `path`, or None when it is not there or is a symbolic link."""
    try:
        status = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - the path may hold any byte
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _tasks(place: str) -> Iterator[str]:
    # A generator, so that the directory is only read when the first thread has ended.
    yield from (f"{place}/task/{name}" for name in sorted(os.listdir(f"{place}/task")))  # noqa: PTH208


def _read(path: str) -> bytes:
    """Return the file's content, `_MAX_BYTES` and a little more at most."""
    chunks: list[bytes] = []
    size = 0
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - unbuffered, once a second per process
        while size <= _MAX_BYTES and (chunk := stream.read(_CHUNK_BYTES)):
            chunks.append(chunk)
            size += len(chunk)
    return b"".join(chunks)


def _mounts(path: str) -> MountTable:
    content = _read(path)
    # A part would not do: the mount that decides may be in the rest.
    return parse_mountinfo(content) if len(content) <= _MAX_BYTES else MountTable((), complete=False)


def _stat_field(stat: bytes, number: int) -> bytes:
    # The name in parentheses may hold anything; field 3 follows the last one.
    return stat[stat.rindex(b")") + 1 :].split()[number - 3]


def _namespaced_pid(status: bytes) -> int:
    line = next(line for line in status.split(b"\n") if line.startswith(b"NSpid:"))
    return int(line.split()[-1])


def _printable(name: bytes) -> str:
    return "".join(character if character.isprintable() else "?" for character in name.decode(errors="replace").strip())
