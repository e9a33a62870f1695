"""On a machine that lacks something, bootstrap.sh says what and how to get it, and changes nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "bootstrap.sh"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return the only directory of PATH: no Python, no compiler."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sh", "mktemp", "rm", "cat"):
        (directory / name).symlink_to(str(shutil.which(name)))
    return directory


def program(directory: Path, name: str, body: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{body}\n")
    (directory / name).chmod(0o755)


def bootstrap(bare: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(bare / "sh"), str(SCRIPT), *arguments],
        env={"PATH": str(bare), "TMPDIR": str(bare.parent)},
        cwd=bare.parent,
        capture_output=True,
        text=True,
        check=False,
    )


WANTS = [
    pytest.param(("venv", "venv"), "Python 3.11 or newer with the venv module", "python3 python3-venv", id="python"),
    pytest.param(("cc",), "gcc with AddressSanitizer, UBSan and ThreadSanitizer", "gcc libc6-dev", id="compiler"),
]


@pytest.mark.parametrize(("arguments", "what", "packages"), WANTS)
def test_without_privileges_the_command_is_printed(
    bare: Path, arguments: tuple[str, ...], what: str, packages: str
) -> None:
    program(bare, "id", "echo 1000")
    result = bootstrap(bare, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"missing on this machine: {what}\n" in result.stderr
    assert f"sudo apt-get install {packages}\n" in result.stderr
    assert [path.name for path in bare.parent.iterdir()] == ["bin"]


@pytest.mark.parametrize(("arguments", "what", "packages"), WANTS)
def test_packages_that_do_not_help_are_not_silent(
    bare: Path, arguments: tuple[str, ...], what: str, packages: str
) -> None:
    program(bare, "id", "echo 0")
    program(bare, "apt-get", f'echo "$@" >> {bare}/asked')
    result = bootstrap(bare, *arguments)
    assert result.returncode == 1
    assert packages in (bare / "asked").read_text()
    assert result.stderr == f"what apt installed is not enough: fracgpu needs {what}\n"
