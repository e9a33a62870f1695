"""The layers of the plugin's image: the dependencies that the lock file pins, and this checkout's wheel.

The wheel is built from a copy: an image must not depend on what else lies in the checkout, nor leave anything there.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.cluster.build.cache import Cache
from tests.cluster.build.checkout import NATIVE, ROOT
from tests.cluster.build.command import run
from tests.cluster.build.debian import Debian
from tests.cluster.build.key import Inputs
from tests.cluster.build.layers import Layer, layer
from tests.cluster.build.python_packages import LOCK, RECIPE, closure, install, locked, read_lock

_HERE: Final = Path(__file__)
_METADATA: Final = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
# Which of the built native parts a wheel has; setup.py says so.
_PRODUCTS: Final = ("container", "standalone", "fake", "probe")
# The API client once more, for asyncio: half of the layer, which every cluster would unpack.
_UNUSED: Final = ("kubernetes/aio",)
_PROGRAM: Final = """\
#!/usr/bin/python3
import sys
from {module} import {function}
sys.exit({function}())
"""


def dependencies(cache: Cache, debian: Debian) -> Layer:
    """Return what fracgpu needs to run, compiled.

    Raises:
        BuildError: see python_packages

    """
    wanted = closure(_project()["project"]["dependencies"], python=debian.python)
    requirements = locked(wanted, read_lock(LOCK.read_text()))

    def fill(tree: Path, scratch: Path) -> None:
        site = tree / debian.site_packages
        site.parent.mkdir(parents=True)
        install(requirements, site, scratch, python=debian.python, glibc=debian.glibc)
        # Programs that name this machine's Python.
        shutil.rmtree(site / "bin", ignore_errors=True)
        for unused in _UNUSED:
            shutil.rmtree(site / unused)
        _compile(debian, tree, scratch)

    inputs = Inputs().file(_HERE).file(RECIPE).text("debian", debian.key).text("packages", requirements)
    return layer(cache, "layer-dependencies", inputs, fill)


def fracgpu(cache: Cache, debian: Debian) -> Layer:
    """Return this checkout as it is now, installed, with `fracgpu` on the path.

    Raises:
        CommandFailed: the wheel cannot be built
        OSError: the checkout changes meanwhile

    """

    def fill(tree: Path, scratch: Path) -> None:
        source = scratch / "source"
        copy_sources(source)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
        run([*pip, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", scratch, source])
        (wheel,) = scratch.glob("*.whl")
        site = tree / debian.site_packages
        site.mkdir(parents=True)
        unpack_wheel(wheel, site, tree / "usr" / "local" / "bin")
        _compile(debian, tree, scratch)

    inputs = Inputs().file(_HERE).text("debian", debian.key).files(ROOT, _sources())
    return layer(cache, "layer-fracgpu", inputs, fill)


def copy_sources(target: Path) -> None:
    """Copy what a wheel is built from, with times, so that nothing native is built again.

    Raises:
        OSError: a file cannot be copied

    """
    for path in _sources():
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    shutil.copytree(NATIVE, target / NATIVE.relative_to(ROOT), dirs_exist_ok=True)


def unpack_wheel(wheel: Path, site: Path, programs: Path) -> None:
    """Install a wheel without data files: its packages, and a program for each entry point that names one.

    Args:
        wheel: the file
        site: the directory of Python packages
        programs: the directory of programs; made when it is missing

    Raises:
        OSError: a file cannot be written

    """
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            written = Path(archive.extract(entry, site))
            # The upper half has the permissions, which zipfile ignores.
            if entry.external_attr >> 16 & 0o111:
                written.chmod(0o755)
    programs.mkdir(parents=True, exist_ok=True)
    (metadata,) = site.glob("*.dist-info")
    for entry_point in importlib.metadata.Distribution.at(metadata).entry_points.select(group="console_scripts"):
        program = programs / entry_point.name
        program.write_text(_PROGRAM.format(module=entry_point.module, function=entry_point.attr))
        program.chmod(0o755)


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _sources() -> list[Path]:
    """Return every file that decides what the wheel has in it."""
    folders = [ROOT / folder for folder in _project()["tool"]["setuptools"]["package-dir"].values()]
    folders += [NATIVE / product for product in _PRODUCTS]
    return sorted([*(ROOT / name for name in _METADATA), *(path for folder in folders for path in _files(folder))])


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _compile(debian: Debian, tree: Path, scratch: Path) -> None:
    system = scratch / "system"
    system.mkdir()
    debian.compile_python(tree, system)
