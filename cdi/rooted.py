"""Follows symbolic links as they would read with a directory as the root.

A driver root is often another system's root, mounted somewhere: an absolute link in it (Debian's /etc/alternatives)
means a place below that root, and following it as the kernel does would leave the root and find our own libraries.
"""

import errno
from pathlib import Path, PurePosixPath
from typing import Final

# The kernel's own limit (path_resolution(7)).
_MAX_LINKS: Final = 40


def resolve_in_root(root: Path, path: str | PurePosixPath, *, trail: set[Path] | None = None) -> Path | None:
    """Return the file that `path` names inside `root`, links resolved, or None when there is none, nor can be.

    The result lies under `root` whatever the links say: `..` stops at the root, as in a chroot. Every directory in
    which a name was looked up is added to `trail`: while none of them changes, the same path leads to the same file.
    Raises OSError where looking is not permitted or fails.
    """
    try:
        return _follow(root, path, set() if trail is None else trail)
    except OSError as error:
        # A link may name what no file system can have.
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise


def _follow(root: Path, path: str | PurePosixPath, trail: set[Path]) -> Path | None:
    pending = [part for part in reversed(PurePosixPath(path).parts) if part != "/"]
    current = root
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            current = current if current == root else current.parent
            continue
        trail.add(current)
        step = current / part
        if not step.is_symlink():
            current = step
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        target = PurePosixPath(step.readlink())
        if target.is_absolute():
            current = root
        pending.extend(part for part in reversed(target.parts) if part != "/")
    return current if current.exists() else None
