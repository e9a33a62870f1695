"""/proc as a directory of the test's own, and the real one."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fracgpu.kubeletplugin.proof.cgroup import ContainerRef
from fracgpu.kubeletplugin.proof.mountinfo import parse_mountinfo
from fracgpu.kubeletplugin.proof.processes import ProcessTable, file_id

UID = "0a1b2c3d-1111-2222-3333-444455556666"
MOUNTS = "1 0 0:30 / / rw - overlay o rw\n2 1 8:1 /x /run/fracgpu/allocations/a/config ro - ext4 d rw\n"


def anything(_path: str) -> bool:
    return True


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Process 4711, which is 7 in its own PID namespace, and this process's own mounts."""
    place = tmp_path / "proc" / "4711"
    (place / "ns").mkdir(parents=True)
    (place / "root").mkdir()
    (place / "ns" / "mnt").symlink_to("mnt:[1]")
    (place / "ns" / "pid").touch()
    (place / "comm").write_bytes(b"py\x1bthon\xff\n")
    (place / "stat").write_text("4711 (a ) b) S " + " ".join(str(n) for n in range(4, 53)))
    (place / "status").write_text("Name:\tpython\nNSpid:\t4711\t52\t7\nThreads:\t1\n")
    (place / "cgroup").write_text(f"0::/kubepods/pod{UID}/{'1' * 64}\n")
    (place / "mountinfo").write_text(MOUNTS)
    return tmp_path / "proc"


def test_everything_about_a_process(proc: Path) -> None:
    facts = ProcessTable(proc).read(4711)
    assert facts is not None
    assert (facts.pid, facts.command, facts.start_time_ticks, facts.namespaced_pid) == (4711, "py?thon\ufffd", 22, 7)
    assert facts.pid_namespace_inode == (proc / "4711" / "ns" / "pid").stat().st_ino
    assert facts.container == ContainerRef(UID, "1" * 64)
    assert facts.mounts == parse_mountinfo(MOUNTS.encode())


@pytest.mark.parametrize("missing", ["comm", "stat", "status", "cgroup", "mountinfo", "ns/pid", "ns/mnt"])
def test_a_process_that_ends_meanwhile_is_not_there(proc: Path, missing: str) -> None:
    (proc / "4711" / missing).unlink()
    assert ProcessTable(proc).read(4711) is None


@pytest.mark.parametrize(("name", "content"), [("stat", "4711 (x"), ("stat", "4711 (x) S 1"), ("status", "Name:\tx\n")])
def test_nonsense_is_no_process(proc: Path, name: str, content: str) -> None:
    (proc / "4711" / name).write_text(content)
    assert ProcessTable(proc).read(4711) is None


def test_a_process_whose_first_thread_ended_is_seen_through_another(proc: Path) -> None:
    place = proc / "4711"
    task = place / "task" / "4720"
    task.parent.mkdir()
    (place / "ns" / "mnt").unlink()
    (place / "task" / "4711").mkdir()
    task.mkdir()
    for name in ("mountinfo", "ns"):
        (place / name).rename(task / name)
    (task / "ns" / "mnt").symlink_to("mnt:[1]")
    facts = ProcessTable(proc).read(4711)
    assert facts is not None
    assert facts.mounts == parse_mountinfo(MOUNTS.encode())


def test_more_mounts_than_can_be_read_are_none_rather_than_a_part(proc: Path) -> None:
    line = "99 1 0:9 / /mnt/{} rw - tmpfs t rw\n"
    whole = MOUNTS + "".join(line.format(n) for n in range(40_000))
    for content, complete in ((whole[: 1 << 20], True), (whole, False)):
        (proc / "4711" / "mountinfo").write_text(content)
        facts = ProcessTable(proc).read(4711)
        assert facts is not None
        assert facts.mounts.complete is complete
        assert bool(facts.mounts.mounts) is complete


def test_one_thread_that_goes_on_keeps_a_process(proc: Path) -> None:
    for tid, flags in ((4711, 4), (4712, 0), (4713, 4)):
        place = proc / "4711" / "task" / str(tid)
        place.mkdir(parents=True)
        (place / "stat").write_text(f"{tid} (python) D 1 1 1 0 -1 {flags} 0 0")
    assert not ProcessTable(proc).is_ending(4711)
    (proc / "4711" / "task" / "4712" / "stat").write_text("4712 (python) D 1 1 1 0 -1 4 0 0")
    assert ProcessTable(proc).is_ending(4711)


def test_names_in_a_directory_of_the_process(proc: Path) -> None:
    table = ProcessTable(proc)
    assert table.names(4711, "/run/x", most=3) == ()
    for name in "abcd":
        (proc / "4711" / "root" / "run" / "x" / name).mkdir(parents=True)
    assert sorted(table.names(4711, "/run/x", most=9)) == ["a", "b", "c", "d"]
    assert len(table.names(4711, "/run/x", most=3)) == 3


def test_whether_it_sees_all_is_told_by_its_pid_namespace(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ProcessTable(proc).sees_all()
    (proc / "self" / "ns").mkdir(parents=True)
    (proc / "self" / "ns" / "pid").touch()
    assert not ProcessTable(proc).sees_all()
    inode = (proc / "self" / "ns" / "pid").stat().st_ino
    monkeypatch.setattr("fracgpu.kubeletplugin.proof.processes._FIRST_PID_NAMESPACE", inode)
    assert ProcessTable(proc).sees_all()


def test_this_process_is_seen_as_it_is() -> None:
    facts = ProcessTable().read(os.getpid())
    assert facts is not None
    assert facts.namespaced_pid == os.getpid()
    assert facts.pid_namespace_inode == Path("/proc/self/ns/pid").stat().st_ino
    assert facts.start_time_ticks > 0
    assert facts.mounts.identity("/") is not None
    assert facts.command
    assert ProcessTable().own_mounts().identity("/") == facts.mounts.identity("/")


def test_nobody_is_not_there() -> None:
    assert ProcessTable().read(2**22 + 1) is None


def test_a_thread_is_not_taken_for_another_process() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        facts = ProcessTable().read(thread.native_id or 0)
        assert facts is None or facts.mounts.identity("/") is not None
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("flags", "ending"),
    [([0x400004], True), ([0x4, 0x4], True), ([0x4, 0x40], False), ([0x400040], False), ([], False)],
)
def test_a_process_is_ending_when_all_its_threads_are(proc: Path, flags: list[int], ending: bool) -> None:
    for number, one in enumerate(flags):
        task = proc / "4711" / "task" / str(4711 + number)
        task.mkdir(parents=True)
        (task / "stat").write_text(f"{4711 + number} (a ) b) S 1 1 1 0 -1 {one} 0 0")
    assert ProcessTable(proc).is_ending(4711) == ending


def test_who_runs_is_not_ending_and_a_zombie_is() -> None:
    process = subprocess.Popen(["sh", "-c", "exit 0"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert ProcessTable().is_ending(process.pid)
        assert ProcessTable().read(process.pid) is None
    finally:
        process.wait()
    assert not ProcessTable().is_ending(process.pid)
    assert not ProcessTable().is_ending(os.getpid())


@pytest.mark.parametrize(
    ("links", "path", "expected"),
    [
        ({}, "/usr/lib64/x", "/usr/lib64/x"),
        ({"usr/lib64": "lib"}, "/usr/lib64/x", "/usr/lib/x"),
        ({"usr/lib64": "/other/./y"}, "/usr/lib64/x", "/other/y/x"),
        ({"usr/lib64": "../../../opt"}, "/usr/lib64/x", "/opt/x"),
        ({"usr/lib64": "lib", "usr/lib/x": "x.2", "usr/lib/x.2": "/f"}, "/usr/lib64/x", "/f"),
        ({"usr/lib64": "lib64"}, "/usr/lib64/x", "/usr/lib64/x"),
    ],
)
def test_links_are_followed_as_the_process_would(proc: Path, links: dict[str, str], path: str, expected: str) -> None:
    root = proc / "4711" / "root"
    for name, target in links.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    assert ProcessTable(proc).resolve(4711, path, anything) == expected


def test_what_may_block_is_not_looked_up(proc: Path) -> None:
    root = proc / "4711" / "root"
    (root / "usr").mkdir()
    (root / "usr" / "lib64").symlink_to("/trap")
    (root / "trap").mkdir()
    (root / "trap" / "x").symlink_to("/usr/y")
    table = ProcessTable(proc)
    assert table.resolve(4711, "/usr/lib64/x", anything) == "/usr/y"
    allowed: Callable[[str], bool] = lambda path: not path.startswith("/trap")  # noqa: E731
    assert table.resolve(4711, "/usr/lib64/x", allowed) == "/trap/x"


def test_a_file_is_known_by_its_inode(proc: Path, tmp_path: Path) -> None:
    stored = tmp_path / "stored"
    stored.touch()
    os.link(stored, proc / "4711" / "root" / "seen")
    (proc / "4711" / "root" / "link").symlink_to("/seen")
    table = ProcessTable(proc)
    assert table.file_id(4711, "/seen") == file_id(str(stored)) is not None
    assert table.file_id(4711, "/link") != file_id(str(stored))
    assert table.file_id(4711, "/absent") is None
