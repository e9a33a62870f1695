"""The sandbox's program ends when told, and buries what is orphaned to it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "binaries" / "pause.c"
_DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def pause(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("pause") / "pause"
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.17"]
    subprocess.run([*zig, "-Wall", "-Wextra", "-Werror", "-o", program, SOURCE], check=True)
    return program


@pytest.fixture
def running(pause: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start it in the place of a shell that had two children: one has ended by then, one stays."""
    command = ["/bin/sh", "-c", f'sh -c "exit 0" & sleep 60 & sleep 0.1; exec "{pause}"']
    process = subprocess.Popen(command)
    wait_for(lambda: Path(f"/proc/{process.pid}/exe").resolve() == pause)
    wait_for(lambda: len(children(process)) == 1)
    (orphan,) = children(process)
    yield process
    process.kill()
    process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(orphan, signal.SIGKILL)


def children(process: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_buries_the_dead_and_stays(running: subprocess.Popen[bytes]) -> None:
    os.kill(children(running)[0], signal.SIGKILL)
    wait_for(lambda: children(running) == [])
    assert running.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told(running: subprocess.Popen[bytes], number: signal.Signals) -> None:
    running.send_signal(number)
    assert running.wait(timeout=_DEADLINE_S) == 0
