"""Strict mode: a driver library of the image's own is found neither by name nor by search path.

What it cannot catch is here too, as documented: whoever opens the copy by its path, or in a namespace of its own, has
it. The host sees that such a process holds memory without an account (tests/kubeletplugin/proof).
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import read_state_file
from tests.native.loading.debian import GLIBCS
from tests.native.loading.image import COMPAT, Image
from tests.native.loading.setting import CAPPED, LIMIT_MIB, MIB

BY_NAME = ("needed", "soname", "unversioned", "deepbind", "default", "next", "routed")
# What the driver alone answers: NVML is not the image's own, and shows the slice.
UNCAPPED = ["init 0", "alloc 600 0", "alloc 500 0", "nvml 0 1024 0", "alloc 424 0"]
COMPAT_FIRST = f"LD_LIBRARY_PATH={COMPAT}"

pytestmark = pytest.mark.parametrize("image", GLIBCS.values(), ids=GLIBCS, indirect=True)


@pytest.fixture
def strict(image: Image, native_build: NativeLibraries) -> Image:
    image.add_compat(native_build)
    image.be_strict(native_build)
    return image


def run(
    image: Image, ways: Callable[[str], Path], way: str, *, env: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return image.run(image.add(ways(way), "ways"), way, COMPAT, env=env)


@pytest.mark.parametrize("way", BY_NAME)
def test_a_compat_directory_first_in_the_path(strict: Image, ways: Callable[[str], Path], way: str) -> None:
    result = run(strict, ways, way, env=(COMPAT_FIRST,))
    assert result.stdout.splitlines() == CAPPED, result.stderr
    assert result.stderr == ""
    snapshot = read_state_file(strict.state)
    assert (snapshot.peak_bytes, snapshot.refusals, snapshot.processes) == (LIMIT_MIB * MIB, 1, ())


@pytest.mark.parametrize("way", [*BY_NAME, "namespace"])
def test_without_strict_mode_the_copy_is_found(
    image: Image, ways: Callable[[str], Path], native_build: NativeLibraries, way: str
) -> None:
    """So the tests above show something; the host says LibraryNotLoaded of it."""
    image.add_compat(native_build)
    assert run(image, ways, way, env=(COMPAT_FIRST,)).stdout.splitlines() == UNCAPPED
    assert read_state_file(image.state).peak_bytes == 0


@pytest.mark.parametrize("way", ["absolute", "namespace"])
def test_what_strict_mode_does_not_catch(strict: Image, ways: Callable[[str], Path], way: str) -> None:
    """A path leads to its file, and another namespace has nothing preloaded."""
    (strict.root / COMPAT[1:] / "libnvidia-ml.so.1").symlink_to("/usr/lib64/libnvidia-ml.so.1")
    assert run(strict, ways, way, env=(COMPAT_FIRST,)).stdout.splitlines() == UNCAPPED
    assert read_state_file(strict.state).peak_bytes == 0


def test_a_copy_by_rpath(strict: Image, compiled: Callable[..., Path], native_build: NativeLibraries) -> None:
    linked = ("-DLINKED", native_build.fake_cuda, native_build.fake_nvml, f"-Wl,-rpath,{COMPAT}")
    program = strict.add(compiled("ways", *linked, variant="-rpath"), "ways")
    assert strict.run(program, "needed").stdout.splitlines() == CAPPED
    (strict.root / "etc" / "ld.so.preload").unlink()
    assert strict.run(program, "needed").stdout.splitlines() == UNCAPPED


@pytest.mark.parametrize("way", [*BY_NAME, "absolute", "namespace"])
def test_an_image_without_a_copy_is_capped_as_ever(
    image: Image, ways: Callable[[str], Path], native_build: NativeLibraries, way: str
) -> None:
    image.be_strict(native_build)
    program = image.add(ways(way), "ways")
    assert image.run(program, way, "/usr/lib64").stdout.splitlines() == CAPPED


def test_programs_with_names_of_the_driver_keep_theirs(strict: Image, compiled: Callable[..., Path]) -> None:
    for variant, flags in (("-pie", ("-fPIE", "-pie", "-rdynamic")), ("-fixed", ("-fno-PIE", "-no-pie"))):
        result = strict.run(strict.add(compiled("own", *flags, variant=variant)))
        assert (result.stdout, result.stderr) == ("7 42\n", "")


def test_a_program_without_cuda_notices_nothing(strict: Image, compiled: Callable[..., Path]) -> None:
    """Neither output, nor a look at the driver, the limits or the account."""
    for place in ("allocations", "driver"):
        shutil.rmtree(strict.root / "run" / "fracgpu" / place)
    result = strict.run(strict.add(compiled("own", variant="-plain")))
    assert (result.returncode, result.stdout, result.stderr) == (0, "7 42\n", "")
