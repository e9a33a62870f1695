"""The mounts of a process as the kernel tells them, and what a path leads to among them. Pure.

Which file a program gets at a path is decided by the topmost mount there, and a file is known by the file system that
it is on and its path within it, not by the name under which somebody mounted it. Both can be read without touching
the process's own file system, where a lookup could be made to block for ever.

Source: proc_pid_mountinfo(5). Paths are those of the reader of the file: absolute from the process's root directory.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
# Processes of one container have the same text, and it hardly ever changes: most looks parse nothing. Who has thousands
# of mounts is parsed each time: what a container can make large is not kept.
_TABLES_KEPT: Final = 64
_KEPT_BYTES: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """One file, whatever name it is reached by: file system (`major:minor`) and path from that file system's root."""

    device: str
    root: str

    def __str__(self) -> str:
        return f"{self.root} of device {self.device}"

    def deleted(self) -> "FileIdentity":
        """Return how the kernel names the file once it has been removed while it is mounted."""
        return FileIdentity(self.device, f"{self.root}//deleted")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo: `root` of the file system `device` (of type `kind`) is seen at `point`."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    point: str
    kind: str


class MountTable:
    """All mounts that a process can reach; without any if they are not `complete`, because there were too many."""

    def __init__(self, mounts: Iterable[Mount], *, complete: bool = True) -> None:
        self.mounts = tuple(mounts)
        self.complete = complete
        known = {mount.mount_id for mount in self.mounts}
        self._children: dict[tuple[int | None, str], Mount] = {}
        for mount in self.mounts:
            # The root's parent is outside of what the process can reach, or the root itself.
            outside = mount.parent_id not in known or mount.parent_id == mount.mount_id
            self._children[None if outside else mount.parent_id, mount.point] = mount
        self.names: dict[str, list[str]] = {}
        """Last components of all mount points by the directory that they are in."""
        for mount in self.mounts:
            directory, _, name = mount.point.rpartition("/")
            self.names.setdefault(directory or "/", []).append(name)
        self.sources = frozenset(FileIdentity(mount.device, mount.root) for mount in self.mounts)
        """What is mounted, wherever: a mount point can be moved with a directory above it, its source can not."""

    def crossed(self, path: str) -> tuple[Mount, ...]:
        """Return the mounts that a lookup of `path` (absolute, without symbolic links) crosses, the last one topmost.

        Empty when the process reaches none, which a process in a chroot may not.
        """
        crossed: list[Mount] = []
        prefixes = _prefixes(path)
        at = 0
        while at < len(prefixes) and len(crossed) <= len(self.mounts):
            below = self._children.get((crossed[-1].mount_id if crossed else None, prefixes[at]))
            if below is None:
                at += 1
            else:
                crossed.append(below)
        return tuple(crossed)

    def identity(self, path: str) -> FileIdentity | None:
        """Return which file `path` (absolute, without symbolic links) leads to; None when no mount covers it."""
        crossed = self.crossed(path)
        if not crossed:
            return None
        top = crossed[-1]
        within = path.rstrip("/")[len(top.point.rstrip("/")) :]
        return FileIdentity(top.device, (top.root.rstrip("/") + within) or "/")


def parse_mountinfo(content: bytes) -> MountTable:
    """Return the mounts in the content of a mountinfo file; lines of another form are left out."""
    return _kept(content) if len(content) <= _KEPT_BYTES else _parse(content)


@lru_cache(maxsize=_TABLES_KEPT)
def _kept(content: bytes) -> MountTable:
    return _parse(content)


def _parse(content: bytes) -> MountTable:
    lines = content.decode(errors="surrogateescape").split("\n")
    return MountTable(mount for line in lines if (mount := _parse_line(line)) is not None)


def _prefixes(path: str) -> list[str]:
    """Return `/`, then `path` cut after each of its components."""
    found, prefix = ["/"], ""
    for component in path.split("/"):
        if component:
            prefix += f"/{component}"
            found.append(prefix)
    return found


def _parse_line(line: str) -> Mount | None:
    # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    fields = line.split(" ")
    try:
        kind = fields[fields.index("-", 6) + 1]
        return Mount(int(fields[0]), int(fields[1]), fields[2], _unescape(fields[3]), _unescape(fields[4]), kind)
    except (ValueError, IndexError):
        return None


def _unescape(field: str) -> str:
    """Undo the octal escapes of blank, tab, line break and backslash."""
    if "\\" not in field:
        return field
    return _ESCAPED.sub(lambda match: chr(int(match.group(1), 8)), field)
