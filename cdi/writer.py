"""Writes and removes files so that a reader, or a crash, never meets half of one.

Container runtimes watch the CDI directory and load whatever ends in .json the moment it appears. A spec is therefore
completed under a hidden name that they ignore, forced to disk, and renamed into place; the directory is forced to disk
as well, because Prepare answers the kubelet on the strength of that name.
"""

import os
import re
from pathlib import Path
from typing import Final

from fracgpu.cdi.errors import CdiSpecInvalid
from fracgpu.cdi.spec import CdiSpec
from fracgpu.cdi.validate import validate

# Runtimes read specs without being root only in odd setups; a spec holds nothing secret.
_SPEC_MODE: Final = 0o644
_FILE_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


def spec_file_name(*, vendor: str, device_class: str, claim_uid: str) -> str:
    """Return the name of a claim's spec file, unique per claim UID so that no runtime cache can hold an older one.

    Raises CdiSpecInvalid for a UID that could leave the directory.
    """
    if not _FILE_PART.fullmatch(claim_uid):
        raise CdiSpecInvalid(f"{vendor}/{device_class}", f"claim UID {claim_uid!r} can not be part of a file name")
    return f"{vendor}-{device_class}_{claim_uid}.json"


def write_spec(directory: Path, name: str, spec: CdiSpec) -> bool:
    """Write `spec` as `directory/name` and return whether the file changed. Creates the directory if it is missing.

    A file that already holds the same bytes is left alone: the rename alone would make runtimes load it again.
    Raises CdiSpecInvalid before anything is written, OSError when the directory can not be written.
    """
    validate(spec)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    return write_atomic(directory / name, spec.to_json(), mode=_SPEC_MODE)


def write_atomic(path: Path, content: bytes, *, mode: int) -> bool:
    """Make `path` hold `content`, wholly or not at all, and return whether it had to change.

    The temporary name is fixed: a writer that was killed leaves at most one file behind, which the next one takes
    over. Callers serialise writers of one path. Raises OSError; then `path` is what it was and nothing is left over.
    """
    if _holds(path, content, mode):
        return False
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the umask has no say in what containers may read
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return True


def remove_file(path: Path) -> bool:
    """Remove `path` for good and return whether it was there; a missing file is no error."""
    # Looked for first: on a read-only file system unlink(2) fails also for what is not there.
    if not os.path.lexists(path):
        return False
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def sync_directory(directory: Path) -> None:
    """Force the names in `directory` to disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holds(path: Path, content: bytes, mode: int) -> bool:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return status.st_size == len(content) and status.st_mode & 0o7777 == mode and file.read() == content
    except OSError:
        return False
