"""The container build: what it enforces comes from mounted pages alone, follows them, and is never assumed."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native import abi
from fracgpu.native.state_file import new_state_file, read_state_file

GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
MIB = 1 << 20


@pytest.fixture
def client(program: Callable[[str], Path]) -> Path:
    return program("client")


def lines(result: Any) -> list[str]:
    found: list[str] = result.stdout.splitlines()
    return found


def test_limit_of_the_page_holds(container: Any, client: Path) -> None:
    directory = container.allocate(GPUS[0], 1024)
    commands = ["init", "device", "0", "alloc", "600", "alloc", "500", "info", "total", "0", "nvml", "0"]
    result = container.run(client, *commands)
    assert lines(result) == ["init 0", "alloc 0", "alloc 2", "info 0 424 1024", "total 0 1024", "nvml 0 1024 600 424"]
    snapshot = read_state_file(directory / "state")
    assert (snapshot.peak_bytes, snapshot.refusals, snapshot.processes) == (600 * MIB, 1, ())


def test_environment_changes_nothing(container: Any, client: Path, tmp_path: Path) -> None:
    container.allocate(GPUS[0], 1024)
    claimed = {
        "FRACGPU_ALLOCATION_0123456789abcdef": f"gpu {GPUS[0]} 8192Mi 0",
        "FRACGPU_PREFIX": str(tmp_path),
        "CUDA_DEVICE_MEMORY_LIMIT_0": "8192m",
    }
    result = container.run(client, "init", "device", "0", "info", env=claimed)
    assert lines(result) == ["init 0", "info 0 1024 1024"]


def change(page: Path, limit_mib: int, generation: int) -> None:
    """Write a limit as the host does: odd generation, values, even generation."""
    with page.open("r+b") as file:
        for offset, value in ((16, generation - 1), (40, limit_mib * MIB), (16, generation)):
            os.pwrite(file.fileno(), struct.pack("<Q", value), offset)


def test_changed_page_counts_at_once(container: Any, client: Path) -> None:
    page = container.allocate(GPUS[0], 1024) / "config"
    running = container.start(
        client,
        *["init", "device", "0", "alloc", "600", "ready"],
        *["info", "alloc", "2", "ready"],
        "info",
        "alloc",
        "2000",
    )
    assert running.until_ready() == ["init 0", "alloc 0"]
    # Below what is used: nothing is taken away, nothing more is given, and the view does not go below zero.
    change(page, 500, 4)
    assert running.until_ready() == ["info 0 0 500", "alloc 2"]
    change(page, 4096, 6)
    assert running.until_end() == ["info 0 3496 4096", "alloc 0"]


def test_host_that_dies_while_it_writes_stops_nobody(container: Any, client: Path) -> None:
    page = container.allocate(GPUS[0], 1024) / "config"
    running = container.start(
        client, "init", "device", "0", "alloc", "600", "ready", "info", "alloc", "500", "alloc", "400"
    )
    assert running.until_ready() == ["init 0", "alloc 0"]
    with page.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<Q", 3), 16)
        os.pwrite(file.fileno(), struct.pack("<Q", 8192 * MIB), 40)
    assert running.until_end() == ["info 0 424 1024", "alloc 2", "alloc 0"]


@pytest.mark.parametrize(("memory_mib", "observe"), [(None, False), (1024, True)], ids=["no limit", "observe"])
def test_without_a_limit_everything_is_real_and_counted(
    container: Any, client: Path, memory_mib: int | None, observe: bool
) -> None:
    directory = container.allocate(GPUS[0], memory_mib, observe=observe)
    commands = ["init", "device", "0", "alloc", "6000", "info", "total", "0", "nvml", "0", "alloc", "3000"]
    result = container.run(client, *commands)
    assert lines(result) == [
        "init 0",
        "alloc 0",
        "info 0 2192 8192",
        "total 0 8192",
        "nvml 0 8192 6000 2192",
        "alloc 2",
    ]
    snapshot = read_state_file(directory / "state")
    # The driver's own out-of-memory is not a refusal of ours.
    assert snapshot.refusals == 0
    assert snapshot.peak_bytes >= 6000 * MIB


def test_two_claims_of_one_gpu_add_up(container: Any, client: Path) -> None:
    first = container.allocate(GPUS[0], 300, name="a")
    second = container.allocate(GPUS[0], 1000, name="b")
    result = container.run(client, "init", "device", "0", "alloc", "250", "alloc", "60", "alloc", "50", "info")
    assert lines(result) == ["init 0", "alloc 0", "alloc 0", "alloc 0", "info 0 940 1300"]
    assert read_state_file(first / "state").peak_bytes == 300 * MIB
    assert read_state_file(second / "state").peak_bytes == 60 * MIB


def damage(name: str, change: Callable[[Path], object]) -> Any:
    return pytest.param(change, id=name)


def write(offset: int, layout: str, value: int) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), struct.pack(layout, value), offset)

    return change


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def another_gpu(path: Path) -> None:
    path.write_bytes(new_state_file(GPUS[1]))


def unlimited_slots(path: Path) -> None:
    write(16, "<I", 2**32 - 1)(path)


@pytest.mark.parametrize(
    "change",
    [
        damage("absent", Path.unlink),
        damage("empty", lambda path: os.truncate(path, 0)),
        damage("truncated", lambda path: os.truncate(path, abi.CONFIG_FILE_BYTES - 1)),
        damage("a directory", become_a_directory),
        damage("a pipe", become_a_pipe),
        damage("bad magic", write(0, "<Q", 0)),
        damage("version of the future", write(8, "<I", 2)),
        damage("impossible header", write(12, "<I", 0)),
        damage("generation odd for ever", write(16, "<Q", 3)),
        damage("limit zero", write(40, "<Q", 0)),
        damage("another allocation's", write(120, "<Q", 0x4141414141414141)),
        damage("no allocation id", write(120, "<Q", 0)),
    ],
)
def test_unusable_page_closes_the_gpu(container: Any, client: Path, change: Callable[[Path], object]) -> None:
    directory = container.allocate(GPUS[0], 1024)
    change(directory / "config")
    result = container.run(client, "init", "total", "0", "info", "alloc", "2", "nvml", "0")
    assert lines(result)[0] == "init 802"
    assert lines(result)[3:] == ["alloc 802", "nvml 999"]
    assert "touched" not in result.stdout


@pytest.mark.parametrize(
    "change",
    [
        damage("absent", Path.unlink),
        damage("empty", lambda path: os.truncate(path, 0)),
        damage("short", lambda path: os.truncate(path, abi.STATE_FILE_BYTES - 1)),
        damage("a directory", become_a_directory),
        damage("bad magic", write(0, "<Q", 0)),
        damage("version of the future", write(8, "<I", 2)),
        damage("impossible header", write(12, "<I", 0)),
        damage("no slots", write(16, "<I", 0)),
        damage("impossibly many slots", unlimited_slots),
        damage("tiny slots", write(20, "<I", 8)),
        damage("another GPU's", another_gpu),
    ],
)
def test_unusable_state_closes_the_gpu(container: Any, client: Path, change: Callable[[Path], object]) -> None:
    directory = container.allocate(GPUS[0], 1024)
    change(directory / "state")
    result = container.run(client, "init", "total", "0", "info", "alloc", "2", "nvml", "0")
    assert lines(result)[0] == "init 802"
    assert lines(result)[3:] == ["alloc 802", "nvml 999"]
    assert "touched" not in result.stdout


def test_no_allocations_at_all_close_everything(container: Any, client: Path) -> None:
    result = container.run(client, "init", "alloc", "2", "nvml", "0")
    assert lines(result) == ["init 802", "alloc 802", "nvml 999"]
    (container.root / "allocations").rmdir()
    assert lines(container.run(client, "init")) == ["init 802"]


def test_too_many_allocations_close_everything(container: Any, client: Path) -> None:
    for index in range(65):
        container.allocate(GPUS[0], 1024, name=f"claim{index}")
    assert lines(container.run(client, "init")) == ["init 802"]


def test_visible_gpu_without_a_page_stays_closed(container: Any, client: Path) -> None:
    container.allocate(GPUS[0], 1024)
    damaged = container.allocate(GPUS[1], 1024)
    os.truncate(damaged / "config", 10)
    commands = ["init", "device", "1", "alloc", "2", "pool", "2", "info", "total", "1", "nvml", "1"]
    result = container.run(client, *commands, "device", "0", "alloc", "2", "info")
    closed = ["alloc 802", "pool 802", "info 802", "total 802", "nvml 999"]
    assert lines(result) == ["init 0", *closed, "alloc 0", "info 0 1022 1024"]


def test_closed_gpu_opens_when_the_page_is_there(container: Any, client: Path) -> None:
    """A program that tries again is not held to its first answer."""
    page = container.allocate(GPUS[0], 1024) / "config"
    content = page.read_bytes()
    os.truncate(page, 10)
    running = container.start(client, "init", "ready", "init", "device", "0", "info")
    assert running.until_ready() == ["init 802"]
    page.write_bytes(content)
    assert running.until_end() == ["init 0", "info 0 1024 1024"]


def test_page_that_the_container_made_adds_nothing(container: Any, client: Path, tmp_path: Path) -> None:
    """Limits of one GPU add up, so a page of the container's own would be a limit of its own."""
    container.allocate(GPUS[0], 1024)
    own = container.allocate(GPUS[0], 8192, name="own")
    own = own.rename(tmp_path / own.name)
    copy = 'cp -r "$0" /run/fracgpu/allocations/ && exec "$@"'
    result = container.run("sh", "-c", copy, own, client, "init", "device", "0", "info", "alloc", "2000", "nvml", "0")
    assert lines(result) == ["init 0", "info 0 1024 1024", "alloc 2", "nvml 0 1024 0 1024"]
    assert (container.root / "allocations" / own.name / "config").is_file()


@pytest.mark.parametrize(
    "tampering",
    ['mount -o remount,bind,rw "$0"/config', 'umount "$0"/config && mount --bind -o ro "$0" "$0"'],
    ids=["a page that can be written to", "a read-only directory"],
)
def test_page_that_the_node_did_not_mount_closes_the_gpu(container: Any, client: Path, tampering: str) -> None:
    page = container.allocate(GPUS[0], 1024)
    result = container.run("sh", "-c", f'{tampering} && exec "$@"', page, client, "init", "nvml", "0")
    assert lines(result) == ["init 802", "nvml 999"]
