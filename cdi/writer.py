"""Writes and removes files so that a reader, or a crash, never meets half of one.

Container runtimes watch the CDI directory and load whatever ends in .json the moment it appears. A spec is therefore
completed under a hidden name that they ignore and renamed into place. What the kernel has taken from a writer that is
killed then it keeps, so against a crash of the process the rename is enough. After a power cut the disk has no more
than what was forced to it, and for files that must survive one the caller says so. A CDI spec needs not: its directory
is a tmpfs, and after a reboot each claim is prepared again before a container can ask for it.
"""

import os
import re
from enum import Enum
from pathlib import Path
from typing import Final

from fracgpu.cdi.errors import CdiSpecInvalid
from fracgpu.cdi.spec import CdiSpec
from fracgpu.cdi.validate import validate
from fracgpu.driver.kill_points import kill_point

# Runtimes read specs without being root only in odd setups; a spec holds nothing secret.
_SPEC_MODE: Final = 0o644
_FILE_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class Sync(Enum):
    """What a power cut right after the writing may leave; each costs one fsync(2) more than the one before it.

    NOTHING: the file may be anything. CONTENT: the former file or the new one, whole. NAME: the new one.
    """

    NOTHING = 0
    CONTENT = 1
    NAME = 2


def spec_file_name(*, vendor: str, device_class: str, claim_uid: str) -> str:
    """Return the name of a claim's spec file, unique per claim UID so that no runtime cache can hold an older one.

    Raises CdiSpecInvalid for a UID that could leave the directory.
    """
    if not _FILE_PART.fullmatch(claim_uid):
        raise CdiSpecInvalid(f"{vendor}/{device_class}", f"claim UID {claim_uid!r} can not be part of a file name")
    return f"{vendor}-{device_class}_{claim_uid}.json"


def temporary_path(path: Path) -> Path:
    """Return the hidden name under which `path` is completed; a killed writer may leave it behind."""
    return path.with_name(f".{path.name}.tmp")


def write_spec(directory: Path, name: str, spec: CdiSpec) -> bool:
    """Write `spec` as `directory/name` and return whether the file changed. Creates the directory if it is missing.

    A file that already holds the same bytes is left alone: the rename alone would make runtimes load it again.
    Raises CdiSpecInvalid before anything is written, OSError when the directory can not be written.
    """
    validate(spec)
    if not directory.is_dir():
        kill_point("mkdir of the CDI directory")
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    return write_atomic(directory / name, spec.to_json(), mode=_SPEC_MODE)


def write_atomic(path: Path, content: bytes, *, mode: int, sync: Sync = Sync.NOTHING) -> bool:
    """Make `path` hold `content`, wholly or not at all, and return whether it had to change.

    The temporary name is fixed: a writer that was killed leaves at most one file behind, which the next one takes
    over. Callers serialise writers of one path. Raises OSError; then `path` is what it was and nothing is left over.
    """
    if _holds(path, content, mode):
        return False
    temporary = temporary_path(path)
    if os.path.lexists(temporary):
        kill_point("unlink of a temporary file that was left")
        temporary.unlink()
    try:
        _write_new(temporary, content, mode=mode, sync=sync)
        kill_point("rename into place")
        temporary.rename(path)
    except BaseException:
        kill_point("unlink of the temporary file after a failure")
        temporary.unlink(missing_ok=True)
        raise
    if sync is Sync.NAME:
        sync_directory(path.parent)
    return True


def remove_file(path: Path) -> bool:
    """Remove `path`, and what a killed writer of it left, and return whether it was there.

    A missing file is no error. A power cut may bring the file back.
    """
    removed = _unlink(path)
    _unlink(temporary_path(path))
    return removed


def sync_directory(directory: Path) -> None:
    """Force the names in `directory` to disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kill_point("fsync of a directory")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_new(path: Path, content: bytes, *, mode: int, sync: Sync) -> None:
    kill_point("creation of a temporary file")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        kill_point("chmod of the temporary file")
        os.fchmod(file.fileno(), mode)  # the umask has no say in what containers may read
        kill_point("write of the temporary file")
        file.write(content)
        file.flush()
        if sync is not Sync.NOTHING:
            kill_point("fsync of the temporary file")
            os.fsync(file.fileno())


def _unlink(path: Path) -> bool:
    # Looked for first: on a read-only file system unlink(2) fails also for what is not there.
    if not os.path.lexists(path):
        return False
    kill_point("unlink of a file")
    path.unlink(missing_ok=True)
    return True


def _holds(path: Path, content: bytes, mode: int) -> bool:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return status.st_size == len(content) and status.st_mode & 0o7777 == mode and file.read() == content
    except OSError:
        return False
