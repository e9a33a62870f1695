"""The wheel holds fracgpu/ and nothing else, all of it, and works where no checkout is."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cdi", "cli", "controller", "driver", "kubeletplugin", "native", "proto", "sim")
SHIMS = (
    "container/libcuda.so.1",
    "container/libnvidia-ml.so.1",
    "standalone/libcuda.so.1",
    "standalone/libnvidia-ml.so.1",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources without anything that was built (a tarball has no git to ask)."""
    source = tmp_path_factory.mktemp("source") / "fracgpu"
    built_here = ("build", "dist", "*.egg-info", "__pycache__", ".*", Path(sys.prefix).name)
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*built_here))
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_only_fracgpu_is_installed(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names} - {"fracgpu"} == {
        next(name.split("/")[0] for name in names if ".dist-info/" in name)
    }


def test_every_python_file_is_in_it(names: set[str]) -> None:
    expected = {f"fracgpu/{path.relative_to(ROOT)}" for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert expected - names == set()


def test_every_package_is_marked_as_typed(names: set[str]) -> None:
    assert {f"fracgpu/{package}/py.typed" for package in PACKAGES} - names == set()


def test_the_shims_and_the_abi_header_are_in_it(names: set[str]) -> None:
    assert {f"fracgpu/native/lib/{shim}" for shim in SHIMS} | {"fracgpu/native/abi/fracgpu_abi.h"} <= names


def test_the_manifests_are_in_it(names: set[str]) -> None:
    """The lab applies them, also where there is no checkout."""
    manifests = {f"fracgpu/deploy/{path.name}" for path in (ROOT / "deploy").glob("*.yaml")}
    assert "fracgpu/deploy/deviceclasses.yaml" in manifests
    assert manifests - names == set()


def test_the_installed_command_finds_its_parts(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment that borrows only the dependencies: no checkout on the path."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv").glob("lib/python3*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))
    script = (
        f"import sys; sys.path.append({dependencies!r})\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        "import fracgpu.cli.main\n"
        "from fracgpu.sim import manifests\n"
        "assert manifests.load(manifests.shipped())\n"
        "from fracgpu.native.libraries import NativeLibraries\n"
        "print(NativeLibraries.locate().container_cuda)\n"
    )
    shown = subprocess.run(
        [str(python), "-I", "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert shown.strip() == str(site / "fracgpu" / "native" / "lib" / "container" / "libcuda.so.1")
