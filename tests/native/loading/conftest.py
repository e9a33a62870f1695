"""Programs that start and find the driver in every way there is, and the loaders that start them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries
from tests.cluster.build.errors import BuildError
from tests.native.loading.debian import BOOKWORM, Package, unpacked
from tests.native.loading.image import Image
from tests.native.loading.setting import GPU, LIMIT_MIB

HERE = Path(__file__).parent
GLIBC_2_17 = "x86_64-linux-gnu.2.17"
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=all")


@pytest.fixture(scope="session")
def package() -> Callable[[Package], Path]:
    """Return the files of a package of Debian; skips where it cannot be had."""

    def files(one: Package) -> Path:
        try:
            return unpacked(one)
        except (BuildError, OSError) as error:
            pytest.skip(f"Debian's {one.name} is not to be had here: {error}")

    return files


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile a program of this directory for a target, once per session."""
    directory = tmp_path_factory.mktemp("loading")

    def build(name: str, *extra: str | Path, target: str = GLIBC_2_17, variant: str = "") -> Path:
        built = directory / f"{name}{variant}-{target}"
        if not built.exists():
            command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *_FLAGS, str(HERE / f"{name}.c")]
            subprocess.run([*command, "-o", str(built), "-ldl", *map(str, extra)], check=True)
        return built

    return build


@pytest.fixture(scope="session")
def ways(compiled: Callable[..., Path], native_build: NativeLibraries) -> Callable[[str], Path]:
    """Return the program that finds the driver in one way."""

    def program(way: str) -> Path:
        if way != "needed":
            return compiled("ways")
        return compiled("ways", "-DLINKED", native_build.fake_cuda, native_build.fake_nvml, variant="-linked")

    return program


@pytest.fixture
def capped(prefix: Any) -> Any:
    """The prefix with a limit, and the shims under both names that programs ask for."""
    prefix.state = prefix.allocate(GPU, LIMIT_MIB)
    for library in ("libcuda", "libnvidia-ml"):
        (prefix.directory / f"{library}.so").symlink_to(f"{library}.so.1")
    return prefix


@pytest.fixture
def image(
    request: pytest.FixtureRequest,
    prefix: Any,
    tmp_path: Path,
    native_build: NativeLibraries,
    package: Callable[[Package], Path],
) -> Image:
    """A container's file system, with Debian 12's C library unless a test gives another one as the parameter."""
    probe = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True, check=False
    )
    if probe.returncode != 0:
        pytest.skip("this machine allows no user and mount namespaces (unshare -Urm)")
    made = Image(tmp_path / "image")
    made.fill(package(getattr(request, "param", BOOKWORM)), native_build, prefix.machine)
    return made
