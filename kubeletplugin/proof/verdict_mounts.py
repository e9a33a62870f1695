"""Does a process find our interceptor wherever a program looks for the driver's libraries? Pure.

The names and directories are those that the CDI spec mounts (edits.py). The versioned name is left out unless something
is mounted there: it changes when the driver is updated, and containers keep the one that they started with.

A path leads to the file that its topmost mount shows. If that is not ours under the name as it is, the file system is
asked for a second opinion: the image may have a symbolic link there, and this plugin may see the stored file through
another mount than the runtime did.

In strict mode the same holds for /etc/ld.so.preload and what it names. That a container is strict shows in its mounts:
no process that lacks the right to unmount can make these go, and one that has it is found by its missing slot.

The same holds for the pages with the limits, and for them more: the interceptor adds up the limits of all pages that it
finds, so a page that the container made itself would raise its limit.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from fracgpu.driver.names import CONTAINER_ALLOCATIONS_DIR, CONTAINER_PRELOAD_DIR
from fracgpu.kubeletplugin.prepare.edits import (
    CONFIG_FILE,
    CUDA_SONAME,
    NVML_SONAME,
    PRELOAD_LIBRARIES,
    PRELOAD_LIST,
    PRELOAD_LIST_PATH,
)
from fracgpu.kubeletplugin.proof.mountinfo import FileIdentity, MountTable

# The interceptor refuses to work with more than 64 pages, but does not count names that begin with a dot.
_MOST_NAMES: Final = 1024

# Asking these may wait for somebody else's server, for ever if it belongs to the container.
_MAY_BLOCK: Final = ("fuse", "nfs", "cifs", "smb", "ceph", "lustre", "9p", "afs", "autofs")


@dataclass(frozen=True, slots=True)
class Replaced:
    """A library path that does not lead to our interceptor, and what it leads to, in words.

    With `is_page` the path of a config page that does not lead to one of ours.
    """

    path: str
    found: str
    is_page: bool = False


class FileSystemView(Protocol):
    """One process's files, where mountinfo does not suffice."""

    def resolve(self, path: str, may_ask: Callable[[str], bool]) -> str:
        """Return `path` with symbolic links followed, as far as `may_ask` allows to look a path up."""

    def is_stored(self, path: str, soname: str) -> bool:
        """Tell whether the file at `path` (without symbolic links) is a stored interceptor for `soname`."""

    def names(self, directory: str, *, most: int) -> tuple[str, ...]:
        """Return what is in `directory` (without symbolic links), at most so many names; none if it is not there."""


def first_replaced(
    mounts: MountTable,
    *,
    stored: Mapping[str, frozenset[FileIdentity]],
    directories: tuple[str, ...],
    view: FileSystemView,
) -> Replaced | None:
    """Return the first library path of a process that does not lead to a stored interceptor, or None.

    `stored` has, by SONAME, every interceptor that this node's store holds: of two claims in one container the later
    one's mounts win, and both are ours.
    """
    wanted = [(soname, path) for soname in (CUDA_SONAME, NVML_SONAME) for path in _paths(mounts, soname, directories)]
    if mounts.names.get(CONTAINER_PRELOAD_DIR):
        wanted += [(PRELOAD_LIST, PRELOAD_LIST_PATH), *PRELOAD_LIBRARIES.items()]
    for name, path in wanted:
        found = _found(mounts, path, name, stored.get(name, frozenset()), view)
        if found is not None:
            return Replaced(path, found)
    return None


def first_forged(
    mounts: MountTable, *, pages: Mapping[str, FileIdentity], owned: Iterable[str], view: FileSystemView
) -> Replaced | None:
    """Return the first path at which a process finds another page than the plugin made, or None.

    `pages` has the page of each allocation of this node by id; `owned` are the ids that the process belongs to.
    """

    def may_ask(one: str) -> bool:
        return _may_ask(mounts, one)

    place = view.resolve(CONTAINER_ALLOCATIONS_DIR, may_ask)
    listed = view.names(place, most=_MOST_NAMES) if may_ask(place) else ()
    if len(listed) == _MOST_NAMES:
        return Replaced(CONTAINER_ALLOCATIONS_DIR, f"{_MOST_NAMES} entries or more", is_page=True)
    for name in dict.fromkeys((*sorted(owned), *(one for one in listed if not one.startswith(".")))):
        path = f"{CONTAINER_ALLOCATIONS_DIR}/{name}/{CONFIG_FILE}"
        page = pages.get(name)
        resolved = view.resolve(path, may_ask)
        if page is None or mounts.identity(resolved) not in (page, page.deleted()):
            return Replaced(path, _in_words(mounts, resolved), is_page=True)
    return None


def _paths(mounts: MountTable, soname: str, directories: tuple[str, ...]) -> Iterable[str]:
    stem = soname.removesuffix(".1")
    names = [f"{directory}/{name}" for directory in directories for name in (soname, stem)]
    versioned = (
        f"{directory}/{name}"
        for directory in directories
        for name in mounts.names.get(directory, ())
        if name.startswith(f"{stem}.")
    )
    return dict.fromkeys((*names, *versioned))


def _found(
    mounts: MountTable, path: str, soname: str, ours: frozenset[FileIdentity], view: FileSystemView
) -> str | None:
    """Return in words what lies at `path`, or None when it is one of `ours`."""

    def may_ask(one: str) -> bool:
        return _may_ask(mounts, one)

    if mounts.identity(path) in ours:
        return None
    resolved = view.resolve(path, may_ask)
    # Behind a symbolic link may be other mounts.
    if mounts.identity(resolved) in ours or (may_ask(resolved) and view.is_stored(resolved, soname)):
        return None
    return _in_words(mounts, resolved)


def _may_ask(mounts: MountTable, path: str) -> bool:
    return not any(mount.kind.startswith(_MAY_BLOCK) for mount in mounts.crossed(path))


def _in_words(mounts: MountTable, path: str) -> str:
    crossed = mounts.crossed(path)
    if not crossed or crossed[-1].point == "/":
        return "the image's own file, or none"
    top = crossed[-1]
    what = f"{mounts.identity(path)} ({top.kind})"
    return what if top.point == path else f"{what} mounted at {top.point}"
