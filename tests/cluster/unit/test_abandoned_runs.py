"""Nothing is left of a run of `make e2e` that was killed: no process and no mount at once, the rest next time.

A machine is made in new namespaces, which needs root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fracgpu.driver.errors import FracgpuError
from tests.cluster import run
from tests.cluster.build.cache import CACHE_ENV
from tests.cluster.machine import cgroups

_DEADLINE_S = 30.0
# `make e2e` with nothing built and another program in pytest's place: it says where it is, and stays.
_RUNNER = """\
import sys
from tests.cluster import run
run.build = lambda: None
sys.exit(run.run_on_own_machine(["sh", "-c", 'readlink /proc/self/ns/net > "$0"; exec sleep 600', sys.argv[1]]))
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a machine of its own needs root; make e2e needs it as well")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories in the place of the kernel's cgroups; a file `cgroup.procs` has to be emptied by hand."""
    hierarchy = tmp_path / "cgroup" / "memory"
    hierarchy.mkdir(parents=True)
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path / "cgroup")
    return hierarchy


@contextlib.contextmanager
def _running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start a run; yield its process and the network namespace of its machine."""
    mark = tmp_path / "namespace"
    runner = subprocess.Popen([sys.executable, "-c", _RUNNER, mark], cwd=Path(__file__).parents[3])
    try:
        _wait(lambda: mark.exists() and mark.read_text().strip() != "", "start of the machine")
        yield runner, mark.read_text().strip()
    finally:
        runner.kill()
        runner.wait()


def _wait(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def _members(namespace: str) -> list[str]:
    """Return the processes in a network namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "ns" / "net").readlink().name == namespace:
                found.append((process / "cmdline").read_text())
    return found


def _cgroups_of(name: str) -> list[Path]:
    """Return the cgroups of the run with a directory of that name."""
    return list(Path("/sys/fs/cgroup").glob(f"**/{cgroups.cgroup_name(name.removeprefix('run-'))}"))


@needs_root
def test_a_killed_runner_takes_its_machine_with_it_and_the_next_run_the_rest(tmp_path: Path, cache: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    with _running(tmp_path) as (runner, namespace):
        assert _members(namespace)
        # What is mounted there is not mounted here.
        assert Path("/proc/self/mountinfo").read_text() == mounts
        (left,) = (path.name for path in (cache / "runs").glob("run-*"))
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        _wait(lambda: not _members(namespace), "end of every process of the machine")

    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert _cgroups_of(left)
    with run._run_directory() as base:
        assert {path.name for path in base.parent.glob("run-*")} == {base.name}
        assert _cgroups_of(left) == []


@needs_root
def test_a_run_that_goes_on_keeps_its_directory_and_its_cgroups(tmp_path: Path, cache: Path) -> None:
    with _running(tmp_path) as (_, namespace):
        (other,) = (path.name for path in (cache / "runs").glob("run-*"))
        groups = _cgroups_of(other)
        with run._run_directory() as base:
            assert {path.name for path in base.parent.glob("run-*")} == {base.name, other}
            assert _cgroups_of(other) == groups
        assert _members(namespace)


def test_its_own_directory_goes_when_a_run_fails(cache: Path, hierarchy: Path) -> None:
    def fails() -> None:
        with run._run_directory() as base:
            (hierarchy / cgroups.cgroup_name(base.name.removeprefix("run-")) / "kubepods").mkdir(parents=True)
            (base / "disk").mkdir()
            raise FracgpuError("a run", "fails", remedy="none")

    with pytest.raises(FracgpuError):
        fails()
    assert not list((cache / "runs").glob("run-*"))
    assert list(hierarchy.iterdir()) == []


def test_cgroups_are_taken_by_their_processes_not_by_a_directory(cache: Path, hierarchy: Path) -> None:
    """A run may have another cache, whose directories nobody knows here."""
    for name in ("fracgpu-e2e-dead", "fracgpu-e2e-alive", "somebody-elses"):
        (hierarchy / name / "kubepods" / "pod1").mkdir(parents=True)
    # The kernel removes its own files with the directory; these are ordinary ones.
    procs = hierarchy / "fracgpu-e2e-alive" / "kubepods" / "pod1" / "cgroup.procs"
    procs.write_text("17\n")

    with run._run_directory():
        assert {path.name for path in hierarchy.iterdir()} == {"fracgpu-e2e-alive", "somebody-elses"}
    procs.write_text("")
    assert cgroups.abandoned_runs() == {"alive"}


def test_a_directory_without_a_lock_is_a_leftover(cache: Path, hierarchy: Path) -> None:
    del hierarchy
    left = cache / "runs" / "run-killed-early"
    (left / "disk" / "kubelet").mkdir(parents=True)

    with run._run_directory():
        assert not left.exists()
