"""NVIDIA's implementation of the runtime API (cuda-bindings) through the shim, from an allocation to a refusal.

Its Python needs a C library at least as new as this machine's, so the older ones of the matrix are left out.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.state_file import read_state_file
from tests.native.loading.debian import FORKY, TRIXIE, Package
from tests.native.loading.setting import LIMIT_MIB, MIB, Loader

PROGRAM = """
from cuda.bindings import runtime
runtime.cudaGetDeviceCount(), runtime.cudaSetDevice(0)
took = [int(runtime.cudaMalloc(mib << 20)[0]) for mib in (600, 500, 424)]
print(*took, *(int(number) >> 20 for number in runtime.cudaMemGetInfo()[1:]))
"""
SYSTEM = tuple(Path(place) for place in ("/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu"))


def assert_capped(capped: Any, *command: str | Path) -> None:
    # As in a container: the other GPU has no device node there. It is closed anyway, and this runtime starts on all.
    capped.env["FRACGPU_FAKE_VISIBLE"] = "0"
    result = capped.run(*command, "-c", PROGRAM)
    assert result.stdout.split() == ["0", "2", "0", "0", str(LIMIT_MIB)], result.stderr
    snapshot = read_state_file(capped.state)
    assert (snapshot.peak_bytes, snapshot.refusals, snapshot.processes) == (LIMIT_MIB * MIB, 1, ())


def test_on_this_machines_c_library(capped: Any) -> None:
    assert_capped(capped, sys.executable)


@pytest.mark.parametrize("libc", [TRIXIE, FORKY], ids=["glibc-2.41", "glibc-newest"])
def test_on_newer_c_libraries(capped: Any, package: Callable[[Package], Path], libc: Package) -> None:
    linker, option, path = Loader(package(libc)).command(capped.directory)
    search = ":".join([path, *map(str, SYSTEM)])
    assert_capped(capped, linker, option, search, "--argv0", sys.executable, sys.executable)
