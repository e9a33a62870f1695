"""A program that builds something is quiet, says why it failed, and does not outlive the build."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.build.command import run
from tests.cluster.build.errors import CommandFailed

ROOT = Path(__file__).resolve().parents[3]
_DEADLINE_S = 20.0


def test_output_is_returned_and_not_shown(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    printed = run(["sh", "-c", 'echo "$WORD"; pwd; echo aside >&2'], cwd=tmp_path, environment={"WORD": "said"})
    assert printed == f"said\n{tmp_path}\n"
    assert capfd.readouterr() == ("", "")


def test_a_failure_names_the_program_and_has_its_last_words() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "seq 100; echo because >&2; exit 3"])
    text = str(caught.value)
    assert text.startswith("sh -c seq 100; echo because >&2; exit 3: exit status 3; ")
    assert text.endswith("\n99\n100\nbecause")
    assert "\n50\n" not in text


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"nowhere: exit status 127"):
        run([tmp_path / "nowhere"])


def test_a_killed_build_takes_its_program_with_it(tmp_path: Path) -> None:
    program = (
        f'from tests.cluster.build.command import run; run(["sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 60"])'
    )
    building = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    pid = await_number(tmp_path / "pid")
    building.send_signal(signal.SIGKILL)
    building.wait()
    end = time.monotonic() + _DEADLINE_S
    while is_alive(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


def await_number(path: Path) -> int:
    end = time.monotonic() + _DEADLINE_S
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(path.read_text())


def is_alive(pid: int) -> bool:
    """Tell whether a process is more than a zombie: whoever inherits it may take its time to bury it."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
