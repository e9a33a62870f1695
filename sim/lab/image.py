"""The environment that every container of the lab has, as if its image had set it."""

from __future__ import annotations

import sys
from pathlib import Path

from fracgpu.native.libraries import NativeLibraries

IMAGE = "fracgpu/lab"
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def image_environment(libraries: NativeLibraries) -> dict[str, str]:
    """Return the variables of the image: PATH names the native probes first, then a Python that has NVIDIA's pynvml."""
    return {"PATH": ":".join([str(libraries.directory / "probe"), str(Path(sys.executable).parent), *_SYSTEM_PATH])}
