"""Every change that the plugin makes to the disk, as one small class.

Prepare and Unprepare must be resumable after a crash at any step. That can only be shown if the steps can be counted
and interrupted, so nothing in the plugin changes a file except through these methods (the lock file aside), and
a test can pass a Files that stops at any of them. Within a step each effect has a kill point of its own.
"""

import os
from pathlib import Path
from typing import Final

from fracgpu.cdi.spec import CdiSpec
from fracgpu.cdi.writer import Sync, remove_file, sync_directory, temporary_path, write_atomic, write_spec
from fracgpu.driver.kill_points import kill_point
from fracgpu.native.config_change import change_config_page

# Readable by name only: what lies below is mounted file by file by a runtime that runs as root.
_DIRECTORY_MODE: Final = 0o711


class Files:
    """The plugin's effects on the disk. Each method is one step: done wholly, or taken up again by the next call."""

    def make_directory(self, path: Path, *, durable: bool = False) -> None:
        """Create `path` and its parents, traversable but not listable by others, if missing.

        With `durable` they survive a power cut; without, only a crash of the process.
        """
        for directory in (*reversed(path.parents), path):
            if directory.is_dir():
                continue
            kill_point("mkdir")
            directory.mkdir(exist_ok=True)
            kill_point("chmod of a new directory")
            directory.chmod(_DIRECTORY_MODE)
            if durable:
                sync_directory(directory.parent)

    def write(self, path: Path, content: bytes, *, mode: int, sync: Sync = Sync.NOTHING) -> bool:
        """Make `path` hold `content` and return whether it changed; see fracgpu.cdi.writer.write_atomic."""
        return write_atomic(path, content, mode=mode, sync=sync)

    def reset(self, path: Path, content: bytes, *, mode: int) -> None:
        """Make the file at `path` hold `content`, keeping its inode: others have it mounted.

        `content` must begin with what makes a reader accept the file: until the last moment that is zero.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            kill_point("chmod of a file in place")
            os.fchmod(descriptor, mode)
            kill_point("truncation of a file in place")
            os.ftruncate(descriptor, 0)
            kill_point("growth of a file in place")
            os.ftruncate(descriptor, len(content))
            kill_point("write of a file in place")
            os.pwrite(descriptor, content, 0)
        finally:
            os.close(descriptor)

    def finish_page_change(self, path: Path) -> None:
        """Make good a config page whose last change was cut off, keeping its inode: containers have it mounted.

        Raises ConfigPageInvalid for a file that is no page at all.
        """
        change_config_page(path, lambda page: page)

    def write_spec(self, path: Path, spec: CdiSpec) -> bool:
        """Validate and write a CDI spec and return whether the file changed."""
        return write_spec(path.parent, path.name, spec)

    def remove(self, path: Path) -> bool:
        """Remove a file, and what a killed writer of it left, and return whether it was there."""
        return remove_file(path)

    def remove_directory(self, path: Path) -> bool:
        """Remove a directory of files and return whether it was there.

        Containers that still have its files mounted keep them: a bind mount holds the file, not its name.
        """
        try:
            for child in path.iterdir():
                kill_point("unlink of a file in a directory")
                child.unlink(missing_ok=True)
            kill_point("rmdir")
            path.rmdir()
        except FileNotFoundError:
            return False
        return True

    def publish_directory(self, temporary: Path, final: Path) -> None:
        """Give a complete directory its name, for good. Raises OSError if `final` exists and is not empty."""
        kill_point("rename of a directory into place")
        temporary.rename(final)
        sync_directory(final.parent)

    def withdraw_directory(self, final: Path) -> bool:
        """Remove a directory whose content its name vouches for, and return whether it was there.

        The name goes first, so that no crash leaves it on half of the content.
        """
        temporary = temporary_path(final)
        self.remove_directory(temporary)
        if not final.is_dir():
            return False
        kill_point("rename of a directory out of its place")
        final.rename(temporary)
        self.remove_directory(temporary)
        return True

    def publish_socket(self, temporary: Path, final: Path) -> None:
        """Give a listening socket its name, in place of a socket that another instance has there, if any."""
        kill_point("rename of a socket into place")
        temporary.rename(final)

    def unlink_socket(self, path: Path) -> None:
        """Remove a socket that an earlier instance left, if any."""
        kill_point("unlink of a socket")
        path.unlink(missing_ok=True)
