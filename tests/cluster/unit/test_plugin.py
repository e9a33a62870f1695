"""The checkout is installed into the image the way pip would: packages, and a program per entry point."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cluster.build import checkout, plugin
from tests.cluster.build.plugin import unpack_wheel


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "thing-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/__init__.py", "def main():\n    print('started')\n    return 3\n")
        archive.writestr("thing-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1\n")
        archive.writestr(
            "thing-1.dist-info/entry_points.txt",
            "[console_scripts]\nthing-program = thing:main\n[other]\nx = thing:main\n",
        )
        program = zipfile.ZipInfo("thing/lib/probe")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, "#!")
    return path


def test_packages_keep_what_can_be_executed(wheel: Path, tmp_path: Path) -> None:
    unpack_wheel(wheel, tmp_path / "site", tmp_path / "bin")
    assert (tmp_path / "site/thing/lib/probe").stat().st_mode & 0o777 == 0o755
    assert not (tmp_path / "site/thing/__init__.py").stat().st_mode & 0o111


def test_every_entry_point_is_a_program(wheel: Path, tmp_path: Path) -> None:
    unpack_wheel(wheel, tmp_path / "site", tmp_path / "bin")
    (program,) = (tmp_path / "bin").iterdir()
    assert program.name == "thing-program"
    assert program.stat().st_mode & 0o111
    assert program.read_text().startswith("#!/usr/bin/python3\n")
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (3, "started\n")


def test_what_decides_the_wheel_is_among_the_sources() -> None:
    """A file that is forgotten here would leave yesterday's code in the image."""
    names = {str(path.relative_to(checkout.ROOT)) for path in plugin._sources()}
    packages = {"cdi", "cli", "controller", "deploy", "driver", "kubeletplugin", "native", "proto", "sim"}
    assert {name.partition("/")[0] for name in names if "/" in name} == packages | {"build"}
    assert names >= {"pyproject.toml", "setup.py", "cli/main.py", "native/Makefile", "deploy/kubelet-plugin.yaml"}
    assert names >= {
        "build/native/container/libcuda.so.1",
        "native/interceptor/start.c",
        "build/native/probe/fracgpu-view",
    }
    assert not [name for name in names if "__pycache__" in name]
