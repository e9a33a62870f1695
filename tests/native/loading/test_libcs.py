"""From the first allocation to a refusal on every C library, however the program gets at the driver."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import read_state_file
from tests.native.loading.debian import GLIBCS, Package
from tests.native.loading.setting import CAPPED, LIMIT_MIB, MIB, Loader

NO_FUNCTION = 4
WAYS = ("needed", "soname", "unversioned", "deepbind", "default", "next", "namespace", "absolute", "routed")


@pytest.fixture(params=GLIBCS)
def loader(request: pytest.FixtureRequest, package: Callable[[Package], Path]) -> Loader:
    return Loader(package(GLIBCS[request.param]))


@pytest.mark.parametrize("way", WAYS)
def test_a_program_is_capped(loader: Loader, way: str, capped: Any, ways: Callable[[str], Path]) -> None:
    result = capped.run(*loader.command(capped.directory), ways(way), way, capped.directory)
    assert result.stdout.splitlines() == CAPPED
    assert result.stderr == ""
    snapshot = read_state_file(capped.state)
    assert (snapshot.peak_bytes, snapshot.refusals, snapshot.processes) == (LIMIT_MIB * MIB, 1, ())


def test_a_versioned_lookup_answers_as_the_driver_does(
    loader: Loader, capped: Any, ways: Callable[[str], Path], native_build: NativeLibraries
) -> None:
    """The driver's functions have no versions: who asks for one gets none, with the shim and without."""
    command = (*loader.command(capped.directory), ways("dlvsym"), "dlvsym")
    with_shim = capped.run(*command, expect=None)
    capped.use("libcuda.so.1", native_build.fake_cuda)
    without = capped.run(*command, expect=None)
    assert (with_shim.returncode, with_shim.stdout) == (without.returncode, without.stdout)
    assert with_shim.returncode == NO_FUNCTION
