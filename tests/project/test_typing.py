"""mypy --strict really sees every file: an error planted in any package is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cdi", "cli", "controller", "driver", "kubeletplugin", "native", "proto", "sim")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what mypy says about a tree in which every package has one module with a type error."""
    tree = tmp_path_factory.mktemp("typecheck")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / "fracgpu" / package, ignore=shutil.ignore_patterns("*.c", "__pycache__"))
        (tree / "fracgpu" / package / "planted.py").write_text("def half(n: int) -> str:\n    return n / 2\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "fracgpu"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_a_planted_type_error_is_found(planted: str, package: str) -> None:
    assert f"fracgpu/{package}/planted.py:2: error:" in planted


def test_the_planted_errors_are_the_only_ones(planted: str) -> None:
    assert f"Found {len(PACKAGES)} errors in {len(PACKAGES)} files" in planted


def test_make_lint_checks_the_same_packages() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert f"PACKAGES := {' '.join(PACKAGES)}" in makefile
