"""Where prefixes lie, and which of them may go."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fracgpu.cli.errors import RunRefused
from fracgpu.cli.run_command import place
from fracgpu.cli.run_command.place import (
    make_prefix_directory,
    name_prefix,
    own_prefixes,
    prefix_users,
    remove_stale_prefixes,
    temporary_places,
)
from fracgpu.native import abi
from fracgpu.native.prefix import STATE_FILE, allocation_path
from fracgpu.native.state_file import new_state_file
from tests.native.test_state_file import take_slot

UUID = "GPU-11111111-2222-3333-4444-555555555555"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with one process that has nothing to do with us."""
    path = tmp_path / "proc"
    process(path, 7, b"HOME=/root\0FRACGPU_PREFIX=/somewhere/else\0")
    return path


def process(proc: Path, pid: int, environ: bytes) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "environ").write_bytes(environ)
    (proc / str(pid) / "maps").write_bytes(b"7f00-7f01 r--p 00000000 00:01 5 /usr/lib/libc.so.6\n")


def dead_prefix(directory: Path) -> Path:
    """A prefix whose owner is gone: nobody holds its lock."""
    prefix = make_prefix_directory([directory])
    state = allocation_path(prefix.path, "run", STATE_FILE)
    state.parent.mkdir(parents=True)
    state.write_bytes(new_state_file(UUID))
    prefix.leave()
    return prefix.path


@contextmanager
def slot(prefix: Path) -> Iterator[None]:
    descriptor = os.open(allocation_path(prefix, "run", STATE_FILE), os.O_RDWR)
    try:
        take_slot(descriptor, 5, 100)
        yield
    finally:
        os.close(descriptor)


def test_a_prefix_is_made_in_the_first_place_that_suits(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "a:b").mkdir()
    (tmp_path / "good").mkdir()
    made = make_prefix_directory([tmp_path / name for name in ("none", "file", "a:b", "good")])
    assert made.path.parent == tmp_path / "good"
    assert made.path.stat().st_mode & 0o777 == 0o700
    made.remove()
    assert list((tmp_path / "good").iterdir()) == []


def test_a_noexec_place_does_not_suit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.statvfs

    def noexec(path: Path) -> os.statvfs_result:
        values = list(really(path))
        values[8] |= os.ST_NOEXEC
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", noexec)
    with pytest.raises(RunRefused, match=f"none of {tmp_path} can be written to and is free of the noexec .* TMPDIR"):
        make_prefix_directory([tmp_path])


def test_places_are_the_users_choice_first_and_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert temporary_places() == (tmp_path, Path("/var/tmp"), Path("/dev/shm"))


def test_the_prefix_of_a_dead_run_goes(tmp_path: Path, proc: Path) -> None:
    prefix = dead_prefix(tmp_path)
    assert remove_stale_prefixes([tmp_path, tmp_path / "none"], proc=proc) == (prefix,)
    assert not prefix.exists()


def test_the_prefix_of_a_living_run_stays(tmp_path: Path, proc: Path) -> None:
    living = make_prefix_directory([tmp_path])
    assert remove_stale_prefixes([tmp_path], proc=proc) == ()
    living.leave()
    assert remove_stale_prefixes([tmp_path], proc=proc) == (living.path,)


def test_a_prefix_with_a_live_slot_stays(tmp_path: Path, proc: Path) -> None:
    prefix = dead_prefix(tmp_path)
    with slot(prefix):
        assert prefix_users(prefix, proc=proc) == {7}
        assert remove_stale_prefixes([tmp_path], proc=proc) == ()
    assert remove_stale_prefixes([tmp_path], proc=proc) == (prefix,)


def test_a_prefix_that_a_process_may_still_load_from_stays(tmp_path: Path, proc: Path) -> None:
    """It has not used the GPU yet. Without the prefix it would find the real driver, and no limit."""
    prefix = dead_prefix(tmp_path)
    process(proc, 11, f"A=1\0FRACGPU_PREFIX={prefix}\0B=2\0".encode())
    process(proc, 12, f"FRACGPU_PREFIX={prefix}x\0".encode())
    assert prefix_users(prefix, proc=proc) == {11}
    assert remove_stale_prefixes([tmp_path], proc=proc) == ()


@pytest.mark.parametrize(
    "variable", ["LD_LIBRARY_PATH={}", "LD_LIBRARY_PATH={}:/opt", "LD_LIBRARY_PATH=/opt:{}/driver"]
)
def test_any_variable_that_leads_to_a_prefix_keeps_it(tmp_path: Path, proc: Path, variable: str) -> None:
    prefix = dead_prefix(tmp_path)
    process(proc, 11, variable.format(prefix).encode())
    assert prefix_users(prefix, proc=proc) == {11}


def test_a_prefix_of_which_a_library_is_loaded_stays(tmp_path: Path) -> None:
    """The program has no environment, and took no slot yet."""
    prefix = dead_prefix(tmp_path)
    library = prefix / "libcuda.so.1"
    library.write_bytes(b"shim")
    program = (
        "import mmap, sys\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "print('mapped', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(library)]
    with subprocess.Popen(command, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "mapped\n"
        assert prefix_users(prefix) == {user.pid}
        assert remove_stale_prefixes([tmp_path]) == ()
    assert remove_stale_prefixes([tmp_path]) == (prefix,)


def test_a_process_that_can_not_be_seen_for_a_moment_keeps_a_prefix(
    tmp_path: Path, proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of execve(2) a process has no environment to show."""
    dead_prefix(tmp_path)
    process(proc, 11, b"")
    really = place._processes_naming
    looks: list[int] = []

    def look(prefix: Path, proc: Path) -> list[int]:
        found = list(really(prefix, proc))
        looks.append(len(found))
        (proc / "11" / "environ").write_bytes(f"FRACGPU_PREFIX={prefix}\0".encode())
        return found

    monkeypatch.setattr(place, "_processes_naming", look)
    assert remove_stale_prefixes([tmp_path], proc=proc) == ()
    assert looks == [0, 1]


def test_prefixes_of_other_machines_and_containers_are_not_ours_to_judge(
    tmp_path: Path, proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the directory, and their processes are in no /proc of ours."""
    prefix = dead_prefix(tmp_path)
    really = os.uname()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(os, "uname", lambda: os.uname_result((really[0], "other", *really[2:])))
        assert remove_stale_prefixes([tmp_path], proc=proc) == ()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(place, "_PID_NAMESPACE", tmp_path)
        assert remove_stale_prefixes([tmp_path], proc=proc) == ()
    assert remove_stale_prefixes([tmp_path], proc=proc) == (prefix,)


def test_a_broken_state_file_does_not_keep_a_prefix(tmp_path: Path, proc: Path) -> None:
    prefix = dead_prefix(tmp_path)
    allocation_path(prefix, "run", STATE_FILE).write_bytes(b"x" * abi.STATE_HEADER_BYTES)
    assert remove_stale_prefixes([tmp_path], proc=proc) == (prefix,)


def test_what_is_not_ours_is_not_touched(tmp_path: Path, proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / f"{name_prefix()}link").symlink_to(target)
    (tmp_path / f"{name_prefix()}file").write_text("")
    assert list(own_prefixes([tmp_path])) == []
    prefix = dead_prefix(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: prefix.stat().st_uid + 1)
    assert remove_stale_prefixes([tmp_path], proc=proc) == ()
    assert sorted(path.name for path in tmp_path.iterdir() if path != proc) == sorted(
        ["elsewhere", f"{name_prefix()}link", f"{name_prefix()}file", prefix.name]
    )


def test_a_directory_that_was_taken_for_stale_before_it_was_locked_is_made_anew(
    tmp_path: Path, proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = fcntl.flock
    removed: list[Path | None] = []

    def late(descriptor: int, operation: int) -> None:
        # Another run looks between our mkdir and our lock, once.
        if operation == fcntl.LOCK_EX and not removed:
            removed.append(None)
            removed.extend(remove_stale_prefixes([tmp_path], proc=proc))
        really(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    made = make_prefix_directory([tmp_path])
    assert len(removed) == 2
    assert made.path.is_dir()
    assert made.path != removed[1]
    made.remove()
