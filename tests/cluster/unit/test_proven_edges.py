"""A session of the whole e2e tier fails when a test that the table of sharp edges names did not run and pass there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import run

ROOT = Path(__file__).resolve().parents[3]
TESTS = """\
import pytest

@pytest.mark.parametrize("case", [1, 2])
def test_good(case): ...

@pytest.mark.parametrize("case", [1, 2])
def test_half(case):
    if case == 2:
        pytest.skip("not here")

@pytest.fixture
def broken_afterwards():
    yield
    raise OSError

def test_left_a_mess(broken_afterwards): ...
"""
CONFTEST = """\
from tests.cluster.proven_edges import ProvenEdges

def pytest_configure(config):
    config.pluginmanager.register(ProvenEdges({expected!r}))
"""


@pytest.mark.parametrize(
    ("expected", "arguments", "status", "unproven"),
    [
        pytest.param({"good"}, ["-k", "good"], 0, set(), id="passed"),
        pytest.param({"half"}, ["-k", "half"], 1, {"half"}, id="one-case-was-skipped"),
        pytest.param({"good", "half"}, ["-k", "good"], 1, {"half"}, id="one-did-not-run"),
        pytest.param({"good", "gone"}, ["-k", "good"], 1, {"gone"}, id="one-does-not-exist"),
        pytest.param({"left_a_mess"}, ["-k", "left"], 1, {"left_a_mess"}, id="passed-but-not-its-end"),
        pytest.param({"good"}, ["-k", "half"], 1, {"good"}, id="another-ran"),
    ],
)
def test_sessions(tmp_path: Path, expected: set[str], arguments: list[str], status: int, unproven: set[str]) -> None:
    (tmp_path / "test_a.py").write_text(TESTS)
    names = {f"test_a.py::test_{name}" for name in expected}
    (tmp_path / "conftest.py").write_text(CONFTEST.format(expected=names))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == status, result.stdout + result.stderr
    told = {line.rpartition("test_a.py::test_")[2] for line in result.stdout.splitlines() if "or not pass" in line}
    assert told == unproven
    assert f"{len(expected) - len(unproven)} of {len(expected)} tests of the table" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [["-k", "rights"], ["-kreboot"], ["-m", "not needs"], ["tests/cluster/unit"], ["--deselect=a.py::b"], ["--co"]],
    ids=" ".join,
)
def test_a_part_of_the_tier_need_not_prove_the_table(arguments: list[str]) -> None:
    assert run._selects(arguments)


@pytest.mark.parametrize(
    "arguments", [[], ["-x"], ["--maxfail=3", "--color=yes"], ["-s", "--durations=20"]], ids=" ".join
)
def test_all_of_it_has_to(arguments: list[str]) -> None:
    assert not run._selects(arguments)
