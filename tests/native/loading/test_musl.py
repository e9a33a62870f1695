"""Programs of another C library, and those without a dynamic linker: they get nothing from the GPU, and do not break.

NVIDIA's driver is made for glibc: where it does not load, the shim has nothing to stand in front of. What must not be
is a program that gets more than its slice, or one that dies where it would have been told that there is no library.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.state_file import read_state_file
from tests.native.loading.debian import MUSL, Package

GPU = "GPU-11111111-2222-3333-4444-555555555555"
NO_LIBRARY = 3


def outcome(container: Any, *command: str | Path) -> subprocess.CompletedProcess[str]:
    words = [str(part) for part in container.command(*command)]
    return subprocess.run(words, env=container.environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("way", ["soname", "absolute"])
def test_a_musl_program_is_told_that_there_is_no_library(
    container: Any, compiled: Callable[..., Path], package: Callable[[Package], Path], way: str
) -> None:
    state = container.allocate(GPU, 1024) / "state"
    (linker,) = package(MUSL).rglob("ld-musl-*.so.1")
    program = compiled("ways", "-dynamic", target="x86_64-linux-musl")
    library_path = container.root / "lib"
    result = outcome(container, linker, "--library-path", library_path, program, way, library_path)
    assert result.returncode == NO_LIBRARY, result.stdout + result.stderr
    assert result.stdout == ""
    assert read_state_file(state).peak_bytes == 0


def test_a_static_program_is_told_that_there_is_no_library(container: Any, compiled: Callable[..., Path]) -> None:
    container.allocate(GPU, 1024)
    program = compiled("ways", "-static", target="x86_64-linux-musl", variant="-static")
    result = outcome(container, program, "soname")
    assert (result.returncode, result.stdout) == (NO_LIBRARY, "")
