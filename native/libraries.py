"""Where the built native artefacts are, and the hash that names their directory on a node.

Three places are searched, in this order: the directory that FRACGPU_NATIVE_DIR names (a developer's or a package's
own build), the library directory of the installed wheel, the build directory of a source checkout.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from fracgpu.native.errors import NativeLibrariesMissing

DIRECTORY_ENV: Final = "FRACGPU_NATIVE_DIR"
_PACKAGE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class NativeLibraries:
    """Paths of the artefacts under one build directory (see `locate`)."""

    directory: Path

    @classmethod
    def locate(cls) -> Self:
        """Return the first searched directory that holds the interceptor.

        Raises NativeLibrariesMissing naming the searched directories and `make native`.
        """
        override = os.environ.get(DIRECTORY_ENV)
        checkout = _PACKAGE.parent / "build" / "native"
        places = [Path(override)] if override else [_PACKAGE / "lib", checkout]
        for place in places:
            if (place / "container" / "libcuda.so.1").is_file():
                return cls(place)
        raise NativeLibrariesMissing(f"native libraries in {', '.join(map(str, places))}", "are not built")

    @property
    def container_cuda(self) -> Path:
        """Shim for libcuda.so.1 that takes limits from mounted config pages only."""
        return self._artefact("container/libcuda.so.1")

    @property
    def container_nvml(self) -> Path:
        """Shim for libnvidia-ml.so.1 that takes limits from mounted config pages only."""
        return self._artefact("container/libnvidia-ml.so.1")

    @property
    def standalone_cuda(self) -> Path:
        """Shim for libcuda.so.1 that takes limits from the environment and its own prefix."""
        return self._artefact("standalone/libcuda.so.1")

    @property
    def standalone_nvml(self) -> Path:
        """Shim for libnvidia-ml.so.1 that takes limits from the environment and its own prefix."""
        return self._artefact("standalone/libnvidia-ml.so.1")

    @property
    def preload_cuda(self) -> Path:
        """Strict mode: answers to libcuda.so.1 in every process and leads into the shim."""
        return self._artefact("preload/libfracgpu-preload.so")

    @property
    def preload_alias(self) -> Path:
        """Strict mode: answers to libcuda.so."""
        return self._artefact("preload/libfracgpu-preload-alias.so")

    @property
    def preload_list(self) -> Path:
        """Strict mode: the container's /etc/ld.so.preload."""
        return self._artefact("preload/ld.so.preload")

    @property
    def interceptor(self) -> tuple[Path, ...]:
        """All that a container may get, to be stored together."""
        shims = (self.container_cuda, self.container_nvml)
        return (*shims, self.preload_cuda, self.preload_alias, self.preload_list)

    @property
    def fake_cuda(self) -> Path:
        """The model GPU's libcuda.so.1."""
        return self._artefact("fake/libcuda.so.1")

    @property
    def fake_nvml(self) -> Path:
        """The model GPU's libnvidia-ml.so.1."""
        return self._artefact("fake/libnvidia-ml.so.1")

    def probe(self, name: str) -> Path:
        """Return the path of the probe program `name`; raises NativeLibrariesMissing when it is not built."""
        return self._artefact(f"probe/{name}")

    def _artefact(self, relative: str) -> Path:
        path = self.directory / relative
        if not path.is_file():
            raise NativeLibrariesMissing(f"native library {path}", "is not built")
        return path


def library_digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256, in hex, over the names and contents of `paths`, independent of their order.

    Raises NativeLibrariesMissing for a file that can not be read.
    """
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda item: (item.name, str(item))):
        try:
            content = hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            raise NativeLibrariesMissing(f"native library {path}", f"can not be read: {error.strerror}") from error
        digest.update(path.name.encode() + b"\0" + content)
    return digest.hexdigest()
