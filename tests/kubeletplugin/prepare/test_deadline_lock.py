"""The node lock: exclusive between threads and processes, waited for only so long, and never lost to a dead holder."""

import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fracgpu.kubeletplugin.errors import NodeLockTimeout
from fracgpu.kubeletplugin.prepare import node_lock as module
from fracgpu.kubeletplugin.prepare.node_lock import node_lock

GENEROUS_SECONDS = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.lock"


def test_one_holder_at_a_time_among_threads_and_all_of_them_get_it(path: Path) -> None:
    inside, most, turns = 0, 0, [0] * 16

    def work(number: int) -> None:
        nonlocal inside, most
        for _ in range(10):
            with node_lock(path, GENEROUS_SECONDS):
                inside += 1
                most = max(most, inside)
                turns[number] += 1
                inside -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert most == 1
    assert turns == [10] * 16


def test_waiting_ends_with_the_name_of_the_lock_and_of_its_holder(path: Path) -> None:
    with node_lock(path, 1), pytest.raises(NodeLockTimeout) as error, node_lock(path, 0.01):
        pass
    assert re.fullmatch(
        f"node lock {re.escape(str(path))}: was not to be had within 0 s(: process {os.getpid()} holds it)?; "
        "it is tried again; if that process hangs, look at its disk and restart it",
        str(error.value),
    )
    with node_lock(path, 0):
        pass


LOCKS = """\
1: POSIX  ADVISORY  WRITE 11 08:02:{inode} 0 EOF
2: FLOCK  ADVISORY  WRITE 4711 00:1f:{inode} 0 EOF
2: -> FLOCK  ADVISORY  WRITE 12 00:1f:{inode} 0 EOF
3: FLOCK  ADVISORY  WRITE 13 08:02:1 0 EOF
4: OFDLCK ADVISORY  WRITE -1 08:02:{inode} 0 EOF
"""


@pytest.mark.parametrize(
    ("locks", "said"),
    [(LOCKS, ": process 4711 holds it"), (LOCKS.replace("4711", "0"), ""), ("", ""), (None, "")],
    ids=["known", "other-pid-namespace", "empty", "unreadable"],
)
def test_the_holder_is_what_the_kernel_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str | None, said: str
) -> None:
    path.touch()
    listing = tmp_path / "locks"
    if locks is not None:
        listing.write_text(locks.format(inode=path.stat().st_ino))
    monkeypatch.setattr(module, "_LOCKS", listing)
    with path.open("rb") as file:
        assert module._holders(file.fileno()) == said


def test_another_process_is_excluded_and_a_killed_one_loses_it(path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with node_lock(path, 1):
                os.write(writer, b"x")
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    with pytest.raises(NodeLockTimeout), node_lock(path, 0.01):
        pass
    waited = threading.Event()

    def wait() -> None:
        with node_lock(path, GENEROUS_SECONDS):
            waited.set()

    thread = threading.Thread(target=wait)
    thread.start()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert waited.wait(GENEROUS_SECONDS)
    thread.join(GENEROUS_SECONDS)
