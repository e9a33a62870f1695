"""Eight processes of one claim allocate in every spelling and die by SIGKILL at any moment.

The modelled GPU is the judge: it keeps its own books and remembers the most that it ever held.
"""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fracgpu.native.fake_gpu import read_usage
from fracgpu.native.state_file import read_state_file

UUID = "GPU-11111111-2222-3333-4444-555555555555"
MIB = 1 << 20
LIMIT_MIB = 1024
PROCESSES = 8
KILLS = 100


def test_limit_holds_and_nothing_stays_charged(prefix: Any, program: Callable[[str], Path]) -> None:
    state = prefix.allocate(UUID, LIMIT_MIB)
    chance = random.Random(20261121)  # noqa: S311
    seeds = iter(range(1, 10_000))

    def begin() -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = prefix.start(program("killed"), str(next(seeds)), str(LIMIT_MIB))
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    running = [begin() for _ in range(PROCESSES)]
    try:
        for _ in range(KILLS):
            victim = running.pop(chance.randrange(len(running)))
            assert victim.poll() is None, "a process ended by itself: it got an unexpected result"
            victim.kill()
            victim.wait()
            running.append(begin())
            assert read_usage(prefix.machine)[0].used_bytes <= LIMIT_MIB * MIB
    finally:
        for process in running:
            process.kill()
            process.communicate()

    assert read_usage(prefix.machine)[0].peak_used_bytes <= LIMIT_MIB * MIB
    after = read_state_file(state)
    assert (after.used_bytes, after.processes) == (0, ())
    assert LIMIT_MIB * MIB * 0.8 < after.peak_bytes <= LIMIT_MIB * MIB
    assert after.refusals > 0, "the limit was never reached, so nothing was tested"
    result = prefix.run(program("client"), "init", "device", "0", "alloc", str(LIMIT_MIB), "info")
    assert result.stdout == f"init 0\nalloc 0\ninfo 0 0 {LIMIT_MIB}\n"
