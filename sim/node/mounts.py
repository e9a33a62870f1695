"""Which directories need a writable layer so that a container's mounts have somewhere to land.

A container runtime owns the root file system of the image and simply creates missing mount points. Containers of the
embedded cluster share the machine's root, which must not be changed: the nearest existing directory above a missing
mount point gets an overlay whose upper layer lives in memory.

Only the standard library is imported: the launcher runs this between ``unshare`` and ``exec``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

RUN_DIR = "/run"


class MountPointUnreachable(ValueError):
    """No directory exists that an overlay could be laid over to create a mount point."""


def is_below(path: str, directory: str) -> bool:
    """Tell whether ``path`` is ``directory`` or lies below it."""
    return PurePosixPath(path).is_relative_to(directory)


def _is_dir(path: str) -> bool:
    return Path(path).is_dir()


def _exists(path: str) -> bool:
    return Path(path).exists()


def overlay_directories(
    targets: Iterable[str], *, is_dir: Callable[[str], bool] = _is_dir, exists: Callable[[str], bool] = _exists
) -> tuple[str, ...]:
    """Return the directories to lay an overlay over, outermost only, sorted.

    ``targets`` are absolute mount points with symbolic links already resolved. Those below ``/run`` need nothing: a
    container has its own empty ``/run``.

    Raises:
        MountPointUnreachable: the nearest existing directory is the root itself, which cannot be overlaid in place.

    """
    needed: set[str] = set()
    for target in targets:
        if is_below(target, RUN_DIR) or exists(target):
            continue
        ancestor = next(str(parent) for parent in PurePosixPath(target).parents if is_dir(str(parent)))
        if ancestor == "/":
            raise MountPointUnreachable(f"mount point {target}: no directory above it exists on this machine")
        needed.add(ancestor)
    return tuple(sorted(one for one in needed if not any(one != other and is_below(one, other) for other in needed)))


def mounts_below(mountinfo: str, directory: str) -> tuple[str, ...]:
    """Return the mount points strictly below ``directory``, parents first (an overlay would hide them)."""
    points = {unescape_mount_path(line.split(" ")[4]) for line in mountinfo.splitlines() if line}
    return tuple(sorted(point for point in points if point != directory and is_below(point, directory)))


def unescape_mount_path(field: str) -> str:
    r"""Undo the octal escapes (``\040`` for a blank) that proc(5) uses in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)


def escape_overlay_path(path: str) -> str:
    """Escape a path for the option string of an overlay, where ``:`` and ``,`` separate things."""
    return re.sub(r"([\\:,])", r"\\\1", path)
