"""The layers of ordinary workloads: CUDA's libraries and Python bindings on Debian, and what makes variants of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from tests.cluster.build import checkout
from tests.cluster.build.cache import Cache
from tests.cluster.build.debian import Debian
from tests.cluster.build.key import Inputs
from tests.cluster.build.layers import Layer, copy_into, layer
from tests.cluster.build.python_packages import LOCK, RECIPE, closure, install, locked, read_lock

_HERE: Final = Path(__file__)
_BINDINGS: Final = ("nvidia-ml-py", "cuda-bindings")
# CUDA's major version -> where the wheel of its runtime has the libraries.
_RUNTIMES: Final = {12: ("nvidia-cuda-runtime-cu12", "cuda_runtime"), 13: ("nvidia-cuda-runtime", "cu13")}
_NOT_FOR_RUNNING: Final = {".cpp", ".pyx", ".pxd", ".pxi", ".in"}
COMPAT_DIRECTORY: Final = "usr/local/cuda/compat"
_COMPAT_VERSION: Final = "595.45.04"


def cuda(cache: Cache, debian: Debian) -> Layer:
    """Return libcudart 12 and 13 where CUDA's installer puts them, and NVIDIA's Python bindings of NVML and CUDA.

    Raises:
        BuildError: see python_packages

    """
    lock = read_lock(LOCK.read_text())
    runtimes = [name for name, _ in _RUNTIMES.values()]
    requirements = locked(closure([*_BINDINGS, *runtimes], python=debian.python), lock)

    def fill(tree: Path, scratch: Path) -> None:
        site = scratch / "site"
        install(requirements, site, scratch, python=debian.python, glibc=debian.glibc)
        for version, (_, directory) in _RUNTIMES.items():
            name = f"libcudart.so.{version}"
            copy_into(tree, f"usr/local/cuda-{version}/lib64", [site / "nvidia" / directory / "lib" / name])
            (tree / f"usr/local/cuda-{version}/lib64/libcudart.so").symlink_to(name)
        packages = tree / debian.site_packages
        packages.mkdir(parents=True)
        shutil.move(site / "cuda", packages)
        shutil.move(site / "pynvml.py", packages)
        for path in list(packages.rglob("*")):
            if path.suffix in _NOT_FOR_RUNNING:
                path.unlink()
        debian.compile_python(tree, _fresh(scratch / "system"))

    inputs = Inputs().file(_HERE).file(RECIPE).text("debian", debian.key).text("packages", requirements)
    return layer(cache, "layer-cuda", inputs, fill)


def probes(cache: Cache) -> Layer:
    """Return the probes on the path. They are linked for glibc 2.17, so for any system with glibc."""
    programs = checkout.probes()

    def fill(tree: Path, _scratch: Path) -> None:
        copy_into(tree, "usr/local/bin", programs)

    inputs = Inputs().file(_HERE).files(programs[0].parent, programs)
    return layer(cache, "layer-probes", inputs, fill)


def compat(cache: Cache) -> Layer:
    """Return a CUDA compat directory, as NVIDIA's images have it: a driver library of the image's own, for old hosts.

    It is the model's under the name of another version: a driver that works, and that knows nothing of limits.
    """
    driver = checkout.NATIVE / "fake" / "libcuda.so.1"

    def fill(tree: Path, _scratch: Path) -> None:
        directory = tree / COMPAT_DIRECTORY
        directory.mkdir(parents=True)
        shutil.copy(driver, directory / f"libcuda.so.{_COMPAT_VERSION}")
        (directory / "libcuda.so.1").symlink_to(f"libcuda.so.{_COMPAT_VERSION}")
        (directory / "libcuda.so").symlink_to("libcuda.so.1")

    return layer(cache, "layer-compat", Inputs().file(_HERE).file(driver), fill)


def no_ldconfig(cache: Cache) -> Layer:
    """Return a layer that removes ldconfig and its cache from Debian below it (OCI image specification, layer.md)."""

    def fill(tree: Path, _scratch: Path) -> None:
        for removed in ("usr/sbin/ldconfig", "etc/ld.so.cache"):
            mark = tree / Path(removed).with_name(f".wh.{Path(removed).name}")
            mark.parent.mkdir(parents=True)
            mark.touch()

    return layer(cache, "layer-no-ldconfig", Inputs().file(_HERE), fill)


def _fresh(directory: Path) -> Path:
    directory.mkdir()
    return directory
