"""Random programs in several processes and threads, with kills: the account is never below what the GPU really holds.

Hypothesis makes byte programs, tests/native/programs/replay*.c runs them, the modelled GPU keeps its own books. After
each step: held <= charged <= limit, and a request is refused only where it really did not fit.
"""

import contextlib
import itertools
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracgpu.native.fake_gpu import read_usage, reset_peak
from fracgpu.native.state_file import read_state_file

UUID: Final = "GPU-11111111-2222-3333-4444-555555555555"
MIB: Final = 1 << 20
LIMIT: Final = 512 * MIB
GRANULE: Final = 2 * MIB
POOL_GROWTH: Final = 32 * MIB
PROCESSES: Final = 3
PLACES: Final = 3
OUT_OF_MEMORY: Final = 2
# How many of replay's sizes are large enough that no two allocations share a granule; the others follow them.
LARGE_SIZES: Final = 16
ALL_SIZES: Final = 21
KILL, BURST, END = 253, 254, 255
# First bytes that begin a burst, and its threads.
BURSTS: Final = {245: 2, 246: 2, 247: 3, 248: 3, 249: 4}
BURST_LENGTH: Final = 24
WORD_BYTES: Final = 5
PROGRAM_BYTES: Final = WORD_BYTES * 160
EXAMPLES: Final = int(os.environ.get("FRACGPU_REPLAY_EXAMPLES", "80"))
NAMES: Final = re.findall(r"ONE\((\w+), do_", (Path(__file__).parent / "programs" / "replay.h").read_text())


@dataclass(frozen=True)
class Step:
    """One operation of one process: an index of NAMES or one of the numbers above. `burst` runs in `size` threads."""

    process: int
    code: int
    place: int = 0
    size: int = 0
    extra: int = 0
    burst: tuple["Step", ...] = ()

    def packed(self) -> bytes:
        return bytes((self.code, self.place, self.size, self.extra)) + b"".join(one.packed() for one in self.burst)

    def __repr__(self) -> str:
        name = {KILL: "kill", BURST: "burst", END: "end"}.get(self.code) or NAMES[self.code]
        return f"{self.process}:{name}({self.place}, {self.size}, {self.extra}){list(self.burst) or ''}"


def steps_of(program: bytes, size_count: int) -> Iterator[Step]:
    """Read a byte program: five bytes are a step, whatever they are, and a burst takes those that follow it."""
    words = iter([program[at : at + WORD_BYTES] for at in range(0, len(program), WORD_BYTES)])
    for word in words:
        process = word[1] % PROCESSES
        if word[0] == KILL or word[0] == END:
            yield Step(process, word[0])
        elif word[0] in BURSTS:
            together = tuple(simple_step(one, size_count) for one in itertools.islice(words, BURST_LENGTH))
            yield Step(process, BURST, len(together), BURSTS[word[0]], 0, together)
        else:
            yield simple_step(word, size_count)


def simple_step(word: bytes, size_count: int) -> Step:
    process, code, place, size, extra = word
    return Step(process % PROCESSES, code % len(NAMES), place % PLACES, size % size_count, extra)


class Account:
    """Several processes of one allocation on one modelled GPU."""

    def __init__(self, prefix: Any, program: Path, state: Path) -> None:
        self.prefix, self.program, self.state = prefix, program, state
        self.sizes = [int(line) for line in prefix.run(program, "sizes").stdout.split()]
        assert len(self.sizes) == ALL_SIZES
        assert [size for size in self.sizes if 0 < size <= MIB] == self.sizes[LARGE_SIZES:]
        self.running = [self._start() for _ in range(PROCESSES)]

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [str(self.program)], env=self.prefix.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._answer(process) == 0
        return process

    @staticmethod
    def _answer(process: subprocess.Popen[bytes]) -> int:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the program ended by itself: {process.wait()}"
        return int(line)

    def perform(self, step: Step) -> int:
        """Return the driver's answer, -1 if there was nothing to do."""
        process = self.running[step.process]
        if step.code == KILL:
            self._kill(process)
            self.running[step.process] = self._start()
            return 0
        assert process.stdin is not None
        process.stdin.write(step.packed())
        process.stdin.flush()
        return self._answer(process)

    def end(self) -> None:
        for process in self.running:
            self._kill(process)

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.communicate()

    def held(self) -> int:
        """Return what the GPU holds, in bytes."""
        return read_usage(self.prefix.machine)[0].used_bytes

    def peak(self) -> int:
        return read_usage(self.prefix.machine)[0].peak_used_bytes

    def charged(self) -> int:
        return read_state_file(self.state).used_bytes

    def worst_case(self, step: Step) -> int:
        """Return what a request may take of the GPU at most, in bytes."""
        name, size = NAMES[step.code], self.sizes[step.size]
        if name == "alloc_pitch" and size:
            width = step.extra * 100 + 1
            size = -(-width // 512) * 512 * (size // width + 1)
        if name in ("array", "mipmap") and size:
            size = image_bytes(size, step.extra) * (2 if name == "mipmap" else 1)
        # A request to a pool may need a whole new block.
        unit = POOL_GROWTH if name in ("pool_alloc", "async_alloc") else GRANULE
        return -(-size // unit) * unit


def image_bytes(size: int, extra: int) -> int:
    """Return what the shape that replay_arrays.c makes of them takes at most; its mip levels add less than as much.

    Rows are multiples of 64 bytes, and their number is rounded up to a power of two or to a multiple of 256.
    """
    width, layers = extra % 64 * 32 + 1, extra % 7 + 1 if extra >= 128 else 1
    height = size // (16 * width) + 1
    height = height // layers + 1 if extra >= 128 else height
    rows = max(8, min(2 * height, height + 255))
    return -(-16 * width // 64) * 64 * rows * layers


def replay(account: Account, steps: Iterable[Step], slack: int, seen: Counter[str]) -> None:
    """Run a program and judge each step; `slack` is what the GPU may hold in bytes beyond the account."""
    for step in steps:
        before = account.charged()
        code = account.perform(step)
        held, charged = account.held(), account.charged()
        assert held <= charged + slack, f"{step}: {held} bytes held, {charged} charged"
        assert charged <= LIMIT, step
        assert account.peak() <= LIMIT + slack, step
        if code == OUT_OF_MEMORY:
            seen[f"refused {NAMES[step.code]}"] += 1
            assert before + account.worst_case(step) > LIMIT, f"{step} refused with {before} of {LIMIT} charged"
        elif code == 0 and step.code < len(NAMES):
            seen[NAMES[step.code]] += 1
    for index in range(PROCESSES):
        assert account.perform(Step(index, END)) == 0
    assert (account.charged(), account.held()) == (0, 0)


@pytest.mark.parametrize(
    ("size_count", "slack"),
    [
        pytest.param(LARGE_SIZES, 0, id="large"),
        # Each small allocation may be the only one left in its granule.
        pytest.param(ALL_SIZES, GRANULE * PLACES * PROCESSES, id="all"),
    ],
)
def test_the_account_is_never_below_what_the_gpu_holds(
    prefix: Any, program: Callable[[str], Path], size_count: int, slack: int
) -> None:
    state = prefix.allocate(UUID, LIMIT // MIB)
    seen: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.binary(min_size=PROGRAM_BYTES, max_size=PROGRAM_BYTES))
    def check(byte_program: bytes) -> None:
        reset_peak(prefix.machine)
        account = Account(prefix, program("replay"), state)
        try:
            replay(account, steps_of(byte_program, size_count), slack, seen)
        finally:
            account.end()
        assert read_state_file(state).processes == ()

    check()
    # Every operation has succeeded, and the limit was met: otherwise nothing was tested.
    assert [name for name in NAMES if not seen[name]] == [], seen
    assert [name for name in ("alloc", "create", "async_alloc") if not seen[f"refused {name}"]] == [], seen
