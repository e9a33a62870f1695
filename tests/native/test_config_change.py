"""Changing a config page in place: what is refused, who waits for whom, and a writer killed at any step."""

import fcntl
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fracgpu.driver import kill_points
from fracgpu.native.config_change import change_config_page, read_config_page
from fracgpu.native.config_page import ConfigPage, decode_config_page, encode_config_page
from fracgpu.native.errors import ConfigPageBusy, ConfigPageInvalid

GPU = "GPU-11111111-2222-3333-4444-555555555555"
PAGE = ConfigPage(allocation_id="a", device_uuid=GPU, memory_limit_bytes=1 << 30, cores_percent=30, generation=4)
ALL_NEW = {"memory_limit_bytes": 5, "cores_percent": 7, "suspend": True}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "config"
    target.write_bytes(encode_config_page(PAGE))
    return target


def all_new(page: ConfigPage) -> ConfigPage:
    return replace(page, memory_limit_bytes=5, cores_percent=7, suspend=True)


def test_change_is_written_between_two_generations(path: Path) -> None:
    assert change_config_page(path, all_new) == replace(all_new(PAGE), generation=6)
    # Byte for byte what a new page would be, the feedback section included.
    assert path.read_bytes() == encode_config_page(replace(all_new(PAGE), generation=6))


def test_feedback_and_flags_of_a_later_version_stay(path: Path) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<I", 1 << 31), 52)
        os.pwrite(file.fileno(), b"\x07" * 100, 4096)
    change_config_page(path, lambda page: replace(page, suspend=True))
    content = path.read_bytes()
    assert struct.unpack_from("<I", content, 52) == ((1 << 31) | 1,)
    assert content[4096:4196] == b"\x07" * 100


def test_page_of_an_older_host_can_be_changed(path: Path) -> None:
    os.truncate(path, 4096)
    assert change_config_page(path, all_new).suspend
    assert path.stat().st_size == 4096


@pytest.mark.parametrize(
    "change",
    [
        {"memory_limit_bytes": 0},
        {"memory_limit_bytes": -1},
        {"cores_percent": 101},
        {"allocation_id": "b"},
        {"device_uuid": GPU.replace("1", "2")},
        {"generation": 8},
    ],
    ids=str,
)
def test_what_can_not_be_enforced_is_refused_and_nothing_changes(path: Path, change: dict[str, object]) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigPageInvalid):
        change_config_page(path, lambda page: replace(page, **change))  # type: ignore[arg-type]
    assert path.read_bytes() == before


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (Path.unlink, FileNotFoundError),
        (lambda path: os.truncate(path, 4095), ConfigPageInvalid),
        (lambda path: path.write_bytes(b"\0" * 4096), ConfigPageInvalid),
        (a_pipe, ConfigPageInvalid),
        (a_link, OSError),
    ],
    ids=["absent", "short", "zeros", "a pipe", "a link"],
)
def test_what_is_no_page_is_left_alone(path: Path, damage: Callable[[Path], object], error: type[Exception]) -> None:
    damage(path)
    with pytest.raises(error):
        change_config_page(path, all_new)


class _Killed(BaseException):
    pass


def _steps(path: Path) -> list[str]:
    seen: list[str] = []
    with kill_points.watched(seen.append):
        change_config_page(path, all_new)
    path.write_bytes(encode_config_page(PAGE))
    return seen


def test_writer_killed_at_any_step_is_made_good_by_the_next_change(path: Path) -> None:
    steps = _steps(path)
    assert len(steps) == 6
    for place, step in enumerate(steps):
        path.write_bytes(encode_config_page(PAGE))
        left = list(steps[:place])

        def die(effect: str, left: list[str] = left) -> None:
            if not left:
                raise _Killed
            assert left.pop(0) == effect

        with kill_points.watched(die), pytest.raises(_Killed):
            change_config_page(path, all_new)
        odd = path.read_bytes()[16] % 2 == 1
        assert odd == (0 < place < 5), step
        if odd:
            with pytest.raises(ConfigPageInvalid, match="odd"):
                read_config_page(path)
        # A change that changes nothing makes it good, with values of which each is the old or the new one.
        repaired = change_config_page(path, lambda page: page)
        assert repaired == read_config_page(path)
        for name, new in ALL_NEW.items():
            assert getattr(repaired, name) in (new, getattr(PAGE, name)), step
        assert change_config_page(path, all_new) == replace(all_new(PAGE), generation=read_config_page(path).generation)


def test_killed_writer_in_a_process_of_its_own(path: Path) -> None:
    """The lock goes with its holder, and what it wrote through its mapping stays."""
    script = """if True:
        import os, signal, sys
        from dataclasses import replace
        from pathlib import Path
        from fracgpu.driver import kill_points
        from fracgpu.native.config_change import change_config_page

        def die(effect):
            if effect.endswith("flags"):
                os.kill(os.getpid(), signal.SIGKILL)

        with kill_points.watched(die):
            change_config_page(Path(sys.argv[1]), lambda page: replace(page, memory_limit_bytes=5, suspend=True))
    """
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    assert path.read_bytes()[16] % 2 == 1
    repaired = change_config_page(path, lambda page: page)
    assert (repaired.memory_limit_bytes, repaired.suspend) == (5, False)


def test_changes_of_many_threads_are_all_there(path: Path) -> None:
    def grow() -> None:
        for _ in range(50):
            change_config_page(path, lambda page: replace(page, memory_limit_bytes=(page.memory_limit_bytes or 0) + 1))

    threads = [threading.Thread(target=grow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    page = decode_config_page(path.read_bytes())
    assert (page.memory_limit_bytes, page.generation) == ((1 << 30) + 200, 4 + 400)


def test_change_that_does_not_end_is_named(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        with pytest.raises(ConfigPageBusy, match="config"):
            change_config_page(path, all_new, lock_seconds=0.05)
    finally:
        os.close(directory)
    assert change_config_page(path, all_new).suspend


def test_container_that_locks_its_page_delays_nobody(path: Path) -> None:
    page = os.open(path, os.O_RDONLY)
    fcntl.flock(page, fcntl.LOCK_EX)
    fcntl.fcntl(page, fcntl.F_OFD_SETLK, struct.pack("@hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    try:
        assert change_config_page(path, all_new, lock_seconds=0.0).suspend
    finally:
        os.close(page)
