"""State files that a container has written whatever it liked into: bounded for everybody, fatal for nobody else.

The rogue process is this test: it opens the file as any process of the container can.
"""

import fcntl
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native import abi
from fracgpu.native.errors import StateFileInvalid
from fracgpu.native.state_file import read_state_file

GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
MIB = 1 << 20
U64_MAX = 2**64 - 1
# Generous: each of these answers takes milliseconds. What must not be is a wait that somebody else can draw out.
BOUND_SECONDS = 5.0
HIGH_WATER_OFFSET = 24
PLAIN = ["init", "device", "0", "alloc", "600", "info", "alloc", "500", "nvml", "0"]
PLAIN_ANSWER = ["init 0", "alloc 0", "info 0 424 1024", "alloc 2", "nvml 0 1024 600 424"]


@pytest.fixture
def client(program: Callable[[str], Path]) -> Path:
    return program("client")


class Rogue:
    """What a process of the container may do to its state file."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR)

    def forge(self, index: int, *, state: int = abi.SLOT_LIVE, committed: int = 0, pending: int = 0) -> None:
        fields = struct.pack("<IiQQQQQQ", state, 1, 0, 0, U64_MAX, committed, pending, 0)
        os.pwrite(self.descriptor, fields, abi.STATE_HEADER_BYTES + index * abi.SLOT_STRIDE_BYTES)

    def lock(self, first: int = 0, count: int = 0) -> None:
        """Hold the bytes of `count` slots from `first` on, and all that lies between; 0: the whole file."""
        start = 0 if not count else abi.STATE_HEADER_BYTES + first * abi.SLOT_STRIDE_BYTES
        request = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, count * abi.SLOT_STRIDE_BYTES, 0)
        fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, request)

    def high_water(self, mark: int) -> None:
        os.pwrite(self.descriptor, struct.pack("<Q", mark), HIGH_WATER_OFFSET)


@pytest.fixture
def state(container: Any) -> Path:
    path: Path = container.allocate(GPUS[0], 1024) / "state"
    return path


@pytest.fixture
def rogue(state: Path) -> Iterator[Rogue]:
    made = Rogue(state)
    yield made
    os.close(made.descriptor)


def answers(container: Any, client: Path, *commands: str) -> list[str]:
    began = time.monotonic()
    lines: list[str] = container.run(client, *commands).stdout.splitlines()
    assert time.monotonic() - began < BOUND_SECONDS
    return lines


@pytest.mark.parametrize("amount", [1, 2**48, 2**63 - 1, 2**63, U64_MAX])
def test_forged_slots_without_a_lock_do_not_count(container: Any, client: Path, rogue: Rogue, amount: int) -> None:
    for index in range(abi.SLOT_COUNT):
        rogue.forge(index, committed=amount, pending=amount)
    rogue.high_water(abi.SLOT_COUNT)
    assert answers(container, client, *PLAIN) == PLAIN_ANSWER


@pytest.mark.parametrize("state_word", [0, 1, 3, 4, 2**31, 2**32 - 1])
def test_forged_states_of_slots_do_not_count(container: Any, client: Path, rogue: Rogue, state_word: int) -> None:
    for index in range(abi.SLOT_COUNT):
        rogue.forge(index, state=state_word, committed=U64_MAX - index, pending=2**40)
    assert answers(container, client, *PLAIN) == PLAIN_ANSWER


@pytest.mark.parametrize("mark", [0, abi.SLOT_COUNT, abi.SLOT_COUNT + 1, 2**32, U64_MAX])
def test_any_high_water_mark_will_do(container: Any, client: Path, rogue: Rogue, mark: int) -> None:
    rogue.high_water(mark)
    assert answers(container, client, *PLAIN) == PLAIN_ANSWER


def test_shared_line_of_nonsense_changes_nothing(container: Any, client: Path, rogue: Rogue, state: Path) -> None:
    os.pwrite(rogue.descriptor, b"\xff" * 64, 128)
    assert answers(container, client, *PLAIN) == PLAIN_ANSWER
    assert read_state_file(state).peak_bytes == 2**48


def test_every_lock_held_closes_the_gpu_to_newcomers_at_once(
    container: Any, client: Path, rogue: Rogue, state: Path
) -> None:
    rogue.lock()
    # NVML takes no slot, and still answers.
    assert answers(container, client, "init", "nvml", "0") == ["init 802", "nvml 0 1024 0 1024"]
    assert read_state_file(state).processes == ()


def test_locked_slots_with_absurd_counters_refuse_what_is_asked_and_no_more(
    container: Any, client: Path, rogue: Rogue, state: Path
) -> None:
    """The container harms itself: its own programs get the out-of-memory that they would get from a full GPU."""
    for index in range(1, abi.SLOT_COUNT):
        rogue.forge(index, committed=2**63 - 1)
    rogue.lock(1, abi.SLOT_COUNT - 1)
    rogue.high_water(U64_MAX)
    commands = ["init", "device", "0", "alloc", "1", "info", "pool", "1", "nvml", "0"]
    expected = ["init 0", "alloc 2", "info 0 0 1024", "pool 2", "nvml 0 1024 1024 0"]
    assert answers(container, client, *commands) == expected
    assert read_state_file(state).used_bytes == 2**48 * (abi.SLOT_COUNT - 1)


def test_announcement_that_never_ends_delays_by_a_moment(container: Any, client: Path, rogue: Rogue) -> None:
    rogue.forge(1, pending=2**40)
    rogue.lock(1, 1)
    rogue.high_water(2)
    running = ["init", "device", "0", *["alloc", "1"] * 20]
    assert answers(container, client, *running) == ["init 0", *["alloc 2"] * 20]


@pytest.mark.parametrize("size", [0, 100, abi.STATE_HEADER_BYTES])
def test_truncation_ends_the_containers_own_processes_and_nobody_elses(
    container: Any, client: Path, rogue: Rogue, state: Path, size: int
) -> None:
    other = container.allocate(GPUS[1], 1024, name="other")
    mine = container.start(client, "init", "device", "0", "alloc", "1", "ready", "alloc", "1", "info")
    theirs = container.start(client, "init", "device", "1", "alloc", "1", "ready", "alloc", "1", "info")
    assert mine.until_ready() == ["init 0", "alloc 0"]
    assert theirs.until_ready() == ["init 0", "alloc 0"]
    os.ftruncate(rogue.descriptor, size)
    mine.until_end()
    assert mine.process.returncode == -signal.SIGBUS
    assert theirs.until_end() == ["alloc 0", "info 0 1022 1024"]
    # The host, and what monitors in the container, read and say so.
    with pytest.raises(StateFileInvalid, match="bytes long"):
        read_state_file(state)
    read_state_file(other / "state")
    assert answers(container, client, "nvml", "0", "nvml", "1")[0] == "nvml 999"
    # Both GPUs are the container's; the sound one is still open to newcomers.
    assert answers(container, client, "init", "device", "1", "alloc", "1", "device", "0", "alloc", "1") == [
        "init 0",
        "alloc 0",
        "alloc 802",
    ]


def test_truncation_under_readers_never_ends_them(container: Any, client: Path, rogue: Rogue, state: Path) -> None:
    """Host and NVML read with pread: cut and grown again all the time, the file gives them answers or errors."""
    commands = ["nvml", "0"] * 300
    reader = container.start(client, *commands)
    whole = state.stat().st_size
    content = state.read_bytes()
    kinds = set()
    while reader.process.poll() is None:
        os.ftruncate(rogue.descriptor, 100)
        kinds.add(_read(state))
        os.pwrite(rogue.descriptor, content, 0)
        os.ftruncate(rogue.descriptor, whole)
        kinds.add(_read(state))
    assert reader.process.returncode == 0
    assert kinds == {"read", "refused"}
    assert set(reader.process.stdout.read().split("\n")) <= {"nvml 999", "nvml 0 1024 0 1024", ""}


def _read(path: Path) -> str:
    try:
        read_state_file(path)
    except StateFileInvalid:
        return "refused"
    return "read"


def test_slot_of_a_running_program_overwritten(container: Any, client: Path, rogue: Rogue, state: Path) -> None:
    """A program's own slot is the container's too. It goes on, and nothing that it holds is more than its limit."""
    running = container.start(
        client, "init", "device", "0", "alloc", "600", "ready", "info", "alloc", "500", "free", "info", "nvml", "0"
    )
    running.until_ready()
    (slot,) = read_state_file(state).processes
    rogue.forge(slot.index, state=abi.SLOT_DEAD, committed=U64_MAX, pending=U64_MAX)
    lines = running.until_end()
    assert running.process.returncode == 0
    assert [line.split()[0] for line in lines] == ["info", "alloc", "free", "info", "nvml"]
    # What the container hid from its own programs is seen on the host: by the driver's own numbers.
    assert read_state_file(state).processes == ()


def test_swapped_file_is_not_followed(container: Any, client: Path, state: Path, rogue: Rogue) -> None:
    """Another file in the place of the state file: who has the old one goes on with it, nothing is declared dead."""
    running = container.start(
        client, "init", "device", "0", "alloc", "600", "ready", "alloc", "500", "info", "free", "alloc", "1000"
    )
    running.until_ready()
    content = state.read_bytes()
    state.unlink()
    state.write_bytes(content)
    assert running.until_end() == ["alloc 2", "info 0 424 1024", "free 0", "alloc 0"]


def test_standalone_run_bears_it_too(prefix: Any, client: Path) -> None:
    path = prefix.allocate(GPUS[0], 1024)
    rogue = Rogue(path)
    rogue.high_water(U64_MAX)
    for index in range(abi.SLOT_COUNT):
        rogue.forge(index, committed=2**63 - 1)
    result: subprocess.CompletedProcess[str] = prefix.run(client, *PLAIN)
    os.close(rogue.descriptor)
    assert result.stdout.splitlines() == PLAIN_ANSWER
