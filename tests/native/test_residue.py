"""What the host sees beyond the account is charged as overhead, as far as it is certain, and given back in time."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.feedback import Feedback, FeedbackWriter, SlotFeedback
from fracgpu.native.state_file import SlotSnapshot, read_state_file

MIB = 1 << 20
GPU = "GPU-11111111-2222-3333-4444-555555555555"
LIMIT_MIB = 1024
FLOOR = 64 * MIB
# Longer than two of the interceptor's intervals of half a second.
DEADLINE_SECONDS = 20.0
SESSION = """
import ctypes, json, sys
cuda = ctypes.CDLL("libcuda.so.1")
u64 = ctypes.c_uint64

def ok(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)

def start():
    context = ctypes.c_void_p()
    ok("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    ok("cuCtxSetCurrent", context)

def end():
    ok("cuDevicePrimaryCtxRelease_v2", 0)

def allocate(mib):
    address = u64()
    code = cuda.cuMemAlloc_v2(ctypes.byref(address), u64(mib << 20))
    return address.value if code == 0 else -code

def free(address):
    ok("cuMemFree_v2", u64(address))

def left():
    free_bytes, total = u64(), u64()
    ok("cuMemGetInfo_v2", ctypes.byref(free_bytes), ctypes.byref(total))
    return free_bytes.value

ok("cuInit", 0)
for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"""


class Program:
    """A program in a container, and the host that watches it."""

    def __init__(self, container: Any, **page: object) -> None:
        self.directory: Path = container.allocate(GPU, LIMIT_MIB, **page)
        self.process: subprocess.Popen[str] = container.start(sys.executable, "-c", SESSION).process
        self.writer = FeedbackWriter(self.directory / "config")

    def do(self, call: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(call + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def slot(self) -> SlotSnapshot:
        (slot,) = read_state_file(self.directory / "state").processes
        return slot

    def publish(self, used_bytes: int, *, asked_ns: int | None = None, generation: int | None = None) -> None:
        slot = self.slot()
        seen = SlotFeedback(
            index=slot.index,
            generation=slot.generation if generation is None else generation,
            used_bytes=used_bytes,
            host_pid=self.process.pid,
        )
        self.writer.publish(Feedback(slots=(seen,)), published_ns=asked_ns)

    def watch(self, used_bytes: int, seconds: float = 2.5) -> Iterator[int]:
        """Publish again and again; yields the overhead after the program has looked."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.publish(used_bytes)
            self.do("left()")
            yield self.slot().overhead_bytes
            time.sleep(0.1)

    def settles_at(self, used_bytes: int, overhead: int) -> None:
        assert any(abs(seen - overhead) <= 4 * MIB for seen in self.watch(used_bytes, DEADLINE_SECONDS))

    def end(self) -> None:
        self.writer.close()
        self.process.communicate()


@pytest.fixture
def program(container: Any) -> Iterator[Program]:
    program = Program(container, count_overhead=True)
    program.do("start()")
    yield program
    program.end()


def test_the_residue_counts_and_is_given_back(program: Program) -> None:
    assert program.slot().overhead_bytes == FLOOR
    program.settles_at(264 * MIB, 264 * MIB)
    assert program.do("left()") == (LIMIT_MIB - 264) * MIB
    assert program.do(f"allocate({LIMIT_MIB - 200})") == -2
    program.settles_at(FLOOR, FLOOR)
    assert program.do(f"allocate({LIMIT_MIB - 80})") > 0


def test_charged_memory_is_no_residue(program: Program) -> None:
    program.do("allocate(256)")
    assert set(program.watch(256 * MIB + FLOOR)) == {FLOOR}


def test_a_number_of_before_an_allocation_gives_nothing_back(program: Program) -> None:
    program.settles_at(264 * MIB, 264 * MIB)
    before = program.slot().overhead_bytes
    asked = time.monotonic_ns()
    program.do("allocate(256)")
    time.sleep(0.6)
    program.publish(264 * MIB, asked_ns=asked)
    program.do("left()")
    assert program.slot().overhead_bytes == before


def test_a_number_of_before_a_free_is_no_residue(program: Program) -> None:
    address = program.do("allocate(256)")
    assert set(program.watch(256 * MIB + FLOOR)) == {FLOOR}
    asked = time.monotonic_ns()
    program.do(f"free({address})")
    time.sleep(0.6)
    program.publish(256 * MIB + FLOOR, asked_ns=asked)
    program.do("left()")
    assert program.slot().overhead_bytes == FLOOR


def test_a_context_costs_its_floor_whatever_the_driver_says(program: Program) -> None:
    assert set(program.watch(0)) == {FLOOR}


def test_nothing_is_left_when_the_last_context_is_gone(program: Program) -> None:
    program.settles_at(264 * MIB, 264 * MIB)
    program.do("end()")
    assert program.slot().overhead_bytes == 0
    program.do("start()")
    assert program.slot().overhead_bytes == FLOOR


@pytest.mark.parametrize("change", [{"generation": 99}, {"asked_ns": 1}], ids=["another owner", "long ago"])
def test_what_is_not_about_it_changes_nothing(program: Program, change: dict[str, int]) -> None:
    for _ in range(12):
        program.publish(512 * MIB, **change)
        program.do("left()")
        time.sleep(0.1)
    assert program.slot().overhead_bytes == FLOOR


def test_overhead_can_be_left_out(container: Any) -> None:
    program = Program(container, count_overhead=False)
    program.do("start()")
    assert set(program.watch(512 * MIB)) == {0}
    assert program.do("left()") == LIMIT_MIB * MIB
    program.end()
