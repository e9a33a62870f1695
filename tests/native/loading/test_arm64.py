"""The arm64 build, from the same sources, on an emulated processor: from the first allocation to a refusal."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import read_state_file
from tests.native.loading.debian import ARM64, QEMU, Package
from tests.native.loading.image import COMPAT, DRIVER, LIB64, LIBRARIES, Image
from tests.native.loading.setting import CAPPED, LIMIT_MIB, MIB, Loader

TARGET = "aarch64-linux-gnu.2.17"


@pytest.fixture(params=ARM64)
def emulated(request: pytest.FixtureRequest, package: Callable[[Package], Path]) -> Callable[..., list[str | Path]]:
    """Return the command that runs an arm64 program; directories to look for libraries in come first."""
    loader = Loader(package(ARM64[request.param]))
    emulator = package(QEMU) / "usr" / "bin" / "qemu-aarch64-static"

    def command(*words: str | Path, search: tuple[Path, ...] = ()) -> list[str | Path]:
        return [emulator, *loader.command(*search), *words]

    return command


@pytest.fixture
def capped(capped: Any, arm64_build: NativeLibraries) -> Any:
    """The prefix with a limit; shims and model are those for arm64."""
    capped.use("libcuda.so.1", arm64_build.standalone_cuda)
    capped.use("libnvidia-ml.so.1", arm64_build.standalone_nvml)
    capped.use("driver/libcuda.so.1", arm64_build.fake_cuda)
    capped.use("driver/libnvidia-ml.so.1", arm64_build.fake_nvml)
    return capped


@pytest.mark.parametrize("way", ["soname", "deepbind", "next", "namespace", "absolute", "routed"])
def test_a_program_is_capped(
    emulated: Callable[..., list[str | Path]], capped: Any, compiled: Callable[..., Path], way: str
) -> None:
    program = compiled("ways", target=TARGET)
    result = capped.run(*emulated(program, way, capped.directory, search=(capped.directory,)))
    assert result.stdout.splitlines() == CAPPED
    snapshot = read_state_file(capped.state)
    assert (snapshot.peak_bytes, snapshot.refusals, snapshot.processes) == (LIMIT_MIB * MIB, 1, ())


def test_a_probe_climbs_to_the_limit(
    emulated: Callable[..., list[str | Path]], capped: Any, arm64_build: NativeLibraries
) -> None:
    climb = arm64_build.probe("fracgpu-climb")
    result = capped.run(*emulated(climb, "driver", "256", search=(capped.directory,)))
    assert f'"allocated_bytes": {LIMIT_MIB * MIB}' in result.stdout.splitlines()[-1]


def test_strict_mode(
    package: Callable[[Package], Path],
    arm64_build: NativeLibraries,
    image: Image,
    compiled: Callable[..., Path],
) -> None:
    """The stubs for this processor: in a root of its own, with a copy of the driver first in the path."""
    glibc = package(ARM64["glibc-2.41"])
    (library,) = glibc.rglob("libc.so.6")
    for name in ("ld-linux-aarch64.so.1", "libc.so.6", "libdl.so.2", "libpthread.so.0"):
        shutil.copy(library.parent / name, image.root / "lib64" / name)
    for stem in ("libcuda", "libnvidia-ml"):
        for place in (LIBRARIES, LIB64):
            (image.root / place / f"{stem}.so.1").unlink()
            (image.root / place / f"{stem}.so").unlink()
        shim = arm64_build.container_cuda if stem == "libcuda" else arm64_build.container_nvml
        shutil.copy(shim, image.root / LIB64 / f"{stem}.so.1")
        real = arm64_build.fake_cuda if stem == "libcuda" else arm64_build.fake_nvml
        shutil.copy(real, image.root / DRIVER / f"{stem}.so.1")
    image.add_compat(arm64_build)
    image.be_strict(arm64_build)
    emulator = image.add(package(QEMU) / "usr" / "bin" / "qemu-aarch64-static")
    program = image.add(compiled("ways", target=TARGET), "ways")
    linker = ("/lib64/ld-linux-aarch64.so.1", "--library-path", f"{COMPAT}:/{LIB64}:/lib64")
    (image.root / LIB64 / "libnvidia-ml.so").symlink_to("libnvidia-ml.so.1")
    for way in ("soname", "unversioned", "default", "routed"):
        result = image.run(emulator, *linker, program, way)
        assert result.stdout.splitlines() == CAPPED, (way, result.stderr)
    (image.root / "etc" / "ld.so.preload").unlink()
    assert image.run(emulator, *linker, program, "soname").stdout.splitlines()[2] == "alloc 500 0"
