"""Limits that the host changes while programs run: at once, in place, and whatever happens to the one who writes."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native import config_change
from fracgpu.native.config_change import change_config_page, read_config_page
from fracgpu.native.config_page import ConfigPage
from fracgpu.native.state_file import read_state_file

GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
MIB = 1 << 20
# Below what is left of the 500 ms after which a waiting thread looks by itself (suspended.c says `held` early in its
# second slice): whoever is that quick was woken.
WOKEN_SECONDS = 0.3


def limit(mib: int) -> Callable[[ConfigPage], ConfigPage]:
    return lambda page: replace(page, memory_limit_bytes=mib * MIB)


def suspend(page: ConfigPage) -> ConfigPage:
    return replace(page, suspend=True)


def resume(page: ConfigPage) -> ConfigPage:
    return replace(page, suspend=False)


@pytest.fixture
def client(program: Callable[[str], Path]) -> Path:
    return program("client")


class Suspended:
    """The program suspended.c in a container, stopped while its threads wait."""

    def __init__(self, container: Any, program: Path, pages: list[Path], threads: int) -> None:
        self.process = container.start(program, str(threads)).process
        assert self.line() == "ready"
        for page in pages:
            change_config_page(page, suspend)
        self.go_on()
        assert self.line() == "held"

    def line(self) -> str:
        line: str = self.process.stdout.readline()
        return line.strip()

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def passed(self) -> list[tuple[int, float]]:
        """Return code and time (seconds, CLOCK_MONOTONIC) of each thread."""
        self.go_on()
        output = self.process.communicate(timeout=30)[0].split("\n")
        assert self.process.returncode == 0
        fields = [line.split() for line in output if line.startswith("passed")]
        return [(int(one[1]), int(one[2]) / 1e9) for one in fields]


@pytest.fixture
def suspended(container: Any, program: Callable[[str], Path]) -> Iterator[Callable[..., Suspended]]:
    made: list[Suspended] = []

    def start(pages: list[Path], threads: int = 5) -> Suspended:
        made.append(Suspended(container, program("suspended"), pages, threads))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


def test_growing_and_shrinking_count_at_once_for_calls_and_views(container: Any, client: Path) -> None:
    page = container.allocate(GPUS[0], 1024) / "config"
    views = ["info", "total", "0", "nvml", "0"]
    running = container.start(
        client, *["init", "device", "0", "alloc", "600", "ready"], *views, "alloc", "2", "ready", *views, "alloc", "99"
    )
    assert running.until_ready() == ["init 0", "alloc 0"]
    # Nothing is taken away, nothing more is given, and no view goes below zero.
    change_config_page(page, limit(500))
    assert running.until_ready() == ["info 0 0 500", "total 0 500", "nvml 0 500 500 0", "alloc 2"]
    change_config_page(page, limit(4096))
    assert running.until_end() == ["info 0 3496 4096", "total 0 4096", "nvml 0 4096 600 3496", "alloc 0"]


def test_change_keeps_the_inode_and_everything_it_is_not_about(container: Any) -> None:
    page = container.allocate(GPUS[0], 1024) / "config"
    before, inode, size = read_config_page(page), page.stat().st_ino, page.stat().st_size
    changed = change_config_page(page, lambda now: replace(now, cores_percent=30))
    assert changed == replace(before, cores_percent=30, generation=before.generation + 2) == read_config_page(page)
    assert (page.stat().st_ino, page.stat().st_size) == (inode, size)
    assert change_config_page(page, lambda now: now) == changed


def test_suspended_allocations_wait_and_nothing_else_does(container: Any, suspended: Callable[..., Suspended]) -> None:
    """The program frees, looks, forks and gets signals meanwhile; resumed, all go on within milliseconds."""
    page = container.allocate(GPUS[0], 64) / "config"
    held = suspended([page])
    began = time.monotonic()
    change_config_page(page, resume)
    passed = held.passed()
    assert [code for code, _ in passed] == [0] * 5
    assert max(moment for _, moment in passed) - began < WOKEN_SECONDS


def test_without_a_wake_they_look_by_themselves(
    container: Any, suspended: Callable[..., Suspended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer may die between its change and the wake."""
    page = container.allocate(GPUS[0], 64) / "config"
    held = suspended([page], 2)
    monkeypatch.setattr(config_change, "_wake", lambda _: None)
    change_config_page(page, resume)
    assert [code for code, _ in held.passed()] == [0, 0]


def test_limit_changed_while_suspended_holds_for_those_who_waited(
    container: Any, suspended: Callable[..., Suspended]
) -> None:
    page = container.allocate(GPUS[0], 64) / "config"
    held = suspended([page], 1)
    change_config_page(page, limit(32))
    change_config_page(page, lambda now: replace(now, memory_limit_bytes=MIB // 2))
    change_config_page(page, resume)
    assert [code for code, _ in held.passed()] == [2]


def test_one_suspended_allocation_suspends_its_gpu(container: Any, suspended: Callable[..., Suspended]) -> None:
    container.allocate(GPUS[0], 32, name="a")
    page = container.allocate(GPUS[0], 32, name="b") / "config"
    held = suspended([page], 5)
    began = time.monotonic()
    change_config_page(page, resume)
    passed = held.passed()
    assert [code for code, _ in passed] == [0] * 5
    assert max(moment for _, moment in passed) - began < WOKEN_SECONDS


def test_other_gpus_go_on(container: Any, client: Path) -> None:
    change_config_page(container.allocate(GPUS[0], 64) / "config", suspend)
    container.allocate(GPUS[1], 64)
    result = container.run(client, "init", "device", "1", "alloc", "2", "device", "0", "info")
    assert result.stdout.splitlines() == ["init 0", "alloc 0", "info 0 64 64"]


def test_taken_back_allocation_ends_the_wait(container: Any, suspended: Callable[..., Suspended]) -> None:
    page = container.allocate(GPUS[0], 64) / "config"
    held = suspended([page])
    began = time.monotonic()
    page.unlink()
    passed = held.passed()
    assert [code for code, _ in passed] == [802] * 5
    assert max(moment for _, moment in passed) - began < 3


def test_killed_while_waiting_leaves_nothing(container: Any, suspended: Callable[..., Suspended], client: Path) -> None:
    directory = container.allocate(GPUS[0], 64)
    held = suspended([directory / "config"])
    assert len(read_state_file(directory / "state").processes) == 1
    held.process.kill()
    held.process.wait()
    change_config_page(directory / "config", resume)
    result = container.run(client, "init", "device", "0", "alloc", "64", "info")
    assert result.stdout.splitlines() == ["init 0", "alloc 0", "info 0 0 64"]


def test_cut_off_resume_is_made_good_by_the_next_change(container: Any, suspended: Callable[..., Suspended]) -> None:
    page = container.allocate(GPUS[0], 64) / "config"
    held = suspended([page], 2)
    content = bytearray(page.read_bytes())
    with page.open("r+b") as file:
        os.pwrite(file.fileno(), (int.from_bytes(content[16:24], "little") + 1).to_bytes(8, "little"), 16)
    time.sleep(0.1)
    began = time.monotonic()
    change_config_page(page, resume)
    passed = held.passed()
    assert [code for code, _ in passed] == [0, 0]
    assert max(moment for _, moment in passed) - began < WOKEN_SECONDS


def test_no_reader_sees_a_mixture(container: Any, client: Path) -> None:
    """A program that starts, allocates and looks all the time, while the limit goes up and down all the time."""
    page = container.allocate(GPUS[0], 100) / "config"
    stop = threading.Event()

    def change_all_the_time() -> None:
        limits = (100, 300)
        for index in range(1 << 20):
            if stop.is_set():
                return
            change_config_page(page, limit(limits[index % 2]))

    thread = threading.Thread(target=change_all_the_time)
    thread.start()
    try:
        for _ in range(10):
            result = container.run(client, "init", "device", "0", "alloc", "50", *["info", "nvml", "0"] * 50)
            seen = set(result.stdout.splitlines())
            low, high = {"info 0 50 100", "nvml 0 100 50 50"}, {"info 0 250 300", "nvml 0 300 50 250"}
            assert seen <= {"init 0", "alloc 0"} | low | high
    finally:
        stop.set()
        thread.join()


def test_suspended_program_uses_no_processor(container: Any, suspended: Callable[..., Suspended]) -> None:
    seconds = 0.2
    page = container.allocate(GPUS[0], 64) / "config"
    held = suspended([page])
    # unshare replaces itself by the program.
    clock = Path(f"/proc/{held.process.pid}/stat")

    def ticks() -> int:
        fields = clock.read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(seconds)
    assert ticks() - before <= seconds * os.sysconf("SC_CLK_TCK") / 4
    change_config_page(page, resume)
    assert len(held.passed()) == 5


def test_standalone_program_is_not_suspended_by_the_environment(prefix: Any, client: Path) -> None:
    """Limits of a standalone run come from its environment, which nobody changes from outside."""
    prefix.allocate(GPUS[0], 64)
    result: subprocess.CompletedProcess[str] = prefix.run(client, "init", "device", "0", "alloc", "2")
    assert result.stdout.splitlines() == ["init 0", "alloc 0"]
