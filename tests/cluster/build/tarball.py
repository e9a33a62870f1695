"""Pack a directory so that the same content gives the same bytes.

An image layer is named by the hash of its tar, and containerd unpacks each name once. A layer that changes only because
it was packed again would be unpacked again, and would make every cache key that follows from it a new one.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

Excluded = Callable[[str], bool]
"""Tells of a path below the packed directory, without a leading slash, whether it stays out with all that it holds."""


def nothing(_path: str) -> bool:
    """Leave nothing out."""
    return False


def write_tar(target: Path, root: Path, *, excluded: Excluded = nothing, plain: bool = False) -> None:
    """Write everything below a directory into an uncompressed tar: sorted, without times and names of users.

    Args:
        target: the file to write; it is overwritten
        root: the directory; it is itself not an entry
        excluded: what stays out
        plain: owners and permissions are those of the builder's machine and say nothing: write all as owned by 0:0,
            for everybody to read, and to run what can be run

    Raises:
        OSError: a file cannot be read, or the target not written

    """

    def neutral(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = 0
        entry.uname = entry.gname = ""
        if plain:
            entry.uid = entry.gid = 0
            entry.mode = 0o755 if entry.isdir() or entry.mode & stat.S_IXUSR else 0o644
        return entry

    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in _entries(root, excluded):
            tar.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=neutral)


def _entries(root: Path, excluded: Excluded) -> Iterator[Path]:
    """Yield every path below a directory, each directory before what is in it."""
    for parent, directories, files in os.walk(root):
        here = Path(parent)
        directories[:] = sorted(name for name in directories if not excluded(str((here / name).relative_to(root))))
        # os.walk counts links to directories as directories, but does not enter them.
        names = directories + [name for name in files if not excluded(str((here / name).relative_to(root)))]
        yield from (here / name for name in sorted(names))
