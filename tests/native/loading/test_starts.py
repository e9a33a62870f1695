"""However a program is started, it has its slice: without an environment, as another user, in a chroot, by any call."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.fake_gpu import read_usage
from fracgpu.native.state_file import read_state_file
from tests.native.loading.image import Image
from tests.native.loading.setting import CAPPED, LIMIT_MIB, MIB

PROGRAMS = 300
NO_LIBRARY = 3


def assert_capped(image: Image, result: subprocess.CompletedProcess[str]) -> None:
    assert result.stdout.splitlines() == CAPPED, result.stderr
    assert result.stderr == ""
    snapshot = read_state_file(image.state)
    assert (snapshot.peak_bytes, snapshot.processes) == (LIMIT_MIB * MIB, ())


def test_a_program_in_a_chroot_with_an_empty_environment(image: Image, ways: Callable[[str], Path]) -> None:
    assert_capped(image, image.run(image.add(ways("soname"), "ways"), "soname"))


@pytest.mark.parametrize("variable", ["LD_PRELOAD=", "LD_BIND_NOW=1", "LD_LIBRARY_PATH=/tmp:/nowhere"])
def test_variables_of_the_linker_change_nothing(image: Image, ways: Callable[[str], Path], variable: str) -> None:
    assert_capped(image, image.run(image.add(ways("needed"), "ways"), "needed", env=[variable]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a program that runs as another user")
def test_a_setuid_program_of_another_user(image: Image, ways: Callable[[str], Path]) -> None:
    """The linker forgets LD_LIBRARY_PATH and LD_PRELOAD for it; the mounts are in the default places."""
    (image.root / "machine").chmod(0o666)
    program = image.add(ways("soname"), "ways", mode=0o4755)
    result = image.run(program, "soname", env=["LD_LIBRARY_PATH=/nowhere"], namespaces="-m", user=65534)
    assert_capped(image, result)


def test_a_chroot_without_the_mounts_has_no_driver(image: Image, ways: Callable[[str], Path]) -> None:
    """A copy of the shim somewhere else needs the real driver at its place, and limits that the node mounted."""
    program = image.add(ways("soname"), "ways")
    shutil.rmtree(image.root / "run/fracgpu/allocations")
    closed = image.run(program, "soname")
    assert closed.stdout.splitlines()[0] == "init 802"
    assert " 0" not in closed.stdout.replace("nvml 999 0 0", "")
    shutil.rmtree(image.root / "run/fracgpu")
    assert image.run(program, "soname").returncode == NO_LIBRARY


@pytest.mark.parametrize("how", ["vfork", "spawn", "daemon"])
def test_a_program_that_starts_another(capped: Any, compiled: Callable[..., Path], how: str) -> None:
    """Each has its own account, and both together stay below the limit."""
    program = compiled("starts")
    result = capped.run(program, how)
    assert result.stdout.splitlines() == ["parent 0 0", "child 0 2 0", "ended 0", "parent 0"]


def test_three_hundred_programs_at_once(capped: Any, compiled: Callable[..., Path]) -> None:
    process = capped.start(compiled("crowd"), str(PROGRAMS))
    try:
        well, seconds, other = process.stdout.readline().split()
        assert int(well) == PROGRAMS, f"{well} in {seconds} s, one of the others got {other}"
        snapshot = read_state_file(capped.state)
        assert len(snapshot.processes) == PROGRAMS
        assert {slot.committed_bytes for slot in snapshot.processes} == {MIB}
        assert len({slot.pid for slot in snapshot.processes}) == PROGRAMS
        assert (snapshot.used_bytes, snapshot.refusals) == (PROGRAMS * MIB, 0)
        (usage,) = (one for one in read_usage(capped.machine) if one.used_bytes)
        assert usage.used_bytes <= snapshot.used_bytes * 2
    finally:
        process.communicate("")
    assert read_state_file(capped.state).processes == ()
