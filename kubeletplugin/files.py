"""Every change that the plugin makes to the disk, as one small class.

Prepare and Unprepare must be resumable after a crash at any step. That can only be shown if the steps can be counted
and interrupted, so nothing in the plugin changes a file except through these methods (the lock file aside), and
a test can pass a Files that stops at any of them.
"""

from pathlib import Path
from typing import Final

from fracgpu.cdi.spec import CdiSpec
from fracgpu.cdi.writer import remove_file, sync_directory, write_atomic, write_spec

# Readable by name only: what lies below is mounted file by file by a runtime that runs as root.
_DIRECTORY_MODE: Final = 0o711


class Files:
    """The plugin's effects on the disk. Each method is one step: done wholly, or not at all."""

    def make_directory(self, path: Path) -> None:
        """Create `path` and its parents, traversable but not listable by others, if missing."""
        for directory in (*reversed(path.parents), path):
            if not directory.is_dir():
                directory.mkdir(exist_ok=True)
                directory.chmod(_DIRECTORY_MODE)

    def write(self, path: Path, content: bytes, *, mode: int) -> bool:
        """Make `path` hold `content` and return whether it changed; see fracgpu.cdi.writer.write_atomic."""
        return write_atomic(path, content, mode=mode)

    def write_spec(self, path: Path, spec: CdiSpec) -> bool:
        """Validate and write a CDI spec and return whether the file changed."""
        return write_spec(path.parent, path.name, spec)

    def remove(self, path: Path) -> bool:
        """Remove a file and return whether it was there."""
        return remove_file(path)

    def remove_directory(self, path: Path) -> bool:
        """Remove a directory of files and return whether it was there.

        Containers that still have its files mounted keep them: a bind mount holds the file, not its name.
        """
        try:
            for child in path.iterdir():
                child.unlink(missing_ok=True)
            path.rmdir()
        except FileNotFoundError:
            return False
        return True

    def publish_directory(self, temporary: Path, final: Path) -> None:
        """Give a complete directory its name. Raises OSError if `final` exists and is not empty."""
        temporary.rename(final)
        sync_directory(final.parent)

    def publish_socket(self, temporary: Path, final: Path) -> None:
        """Give a listening socket its name, in place of a socket that another instance has there, if any."""
        temporary.rename(final)

    def unlink_socket(self, path: Path) -> None:
        """Remove a socket that an earlier instance left, if any."""
        path.unlink(missing_ok=True)
