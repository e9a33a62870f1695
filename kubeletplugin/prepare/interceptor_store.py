"""Keeps the interceptor on the node under a directory named after its content.

Running containers have these files mounted and mapped. Writing over one would kill every process that maps it, so a
new interceptor goes into a new directory and an existing one is never touched; CDI specs name the directory that their
claim was prepared with.
"""

import re
from pathlib import Path
from typing import Final

from fracgpu.cdi.writer import Sync, temporary_path
from fracgpu.kubeletplugin.errors import InterceptorDamaged
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.native.libraries import library_digest

_MODE: Final = 0o755
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class InterceptorStore:
    """The directory `<state_dir>/lib`. Callers hold the node lock."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files

    def path(self, digest: str) -> Path:
        """Return the directory of the interceptor with `digest`."""
        return self._directory / digest

    def digests(self) -> frozenset[str]:
        """Return the digests of all stored interceptors; what has another kind of name is not ours."""
        if not self._directory.is_dir():
            return frozenset()
        return frozenset(path.name for path in self._directory.iterdir() if _DIGEST.fullmatch(path.name))

    def digests_with(self, name: str) -> frozenset[str]:
        """Return the digests of the stored interceptors that have a file of that name."""
        return frozenset(digest for digest in self.digests() if (self.path(digest) / name).is_file())

    def install(self, libraries: tuple[Path, ...]) -> str:
        """Store `libraries` together, unless they are there already, and return their digest.

        Raises InterceptorDamaged when the directory of that name holds something else.
        """
        digest = library_digest(libraries)
        final = self.path(digest)
        if not final.exists():
            self._fill(final, libraries)
        self._verify(final, libraries, digest)
        return digest

    def remove(self, digest: str) -> bool:
        """Remove the interceptor with `digest` and return whether it was there; nothing may name it any more."""
        return self._files.withdraw_directory(self.path(digest))

    def remove_temporaries(self) -> int:
        """Remove what killed plugins left of installing or removing, and return how many directories that were."""
        if not self._directory.is_dir():
            return 0
        left = [path for path in self._directory.iterdir() if path.name.startswith(".")]
        return sum(self._files.remove_directory(path) for path in left)

    def _fill(self, final: Path, libraries: tuple[Path, ...]) -> None:
        temporary = temporary_path(final)
        self._files.remove_directory(temporary)
        self._files.make_directory(temporary)
        try:
            for library in libraries:
                self._files.write(temporary / library.name, library.read_bytes(), mode=_MODE, sync=Sync.NAME)
            self._files.publish_directory(temporary, final)
        except BaseException:
            self._files.remove_directory(temporary)
            raise

    def _verify(self, final: Path, libraries: tuple[Path, ...], digest: str) -> None:
        stored = tuple(final / library.name for library in libraries)
        if not all(path.is_file() for path in stored) or library_digest(stored) != digest:
            raise InterceptorDamaged(
                f"interceptor {final}",
                "does not have the content that its name promises",
                remedy="drain this node and remove that directory; it is made anew when the plugin starts",
            )
