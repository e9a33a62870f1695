"""Signals: each reaches the command once, whoever sent it, and fracgpu itself outlives it to clean up."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fracgpu.cli.run_command import run
from fracgpu.cli.run_command.options import RunOptions
from tests.cli.machine import Machine

FORWARDED = ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH"]
# Counts what it is sent; ends, with the counts, at SIGALRM, which fracgpu does not know.
COUNTER = """
import collections, os, signal, sys
seen = collections.Counter()
def count(number, frame):
    seen[signal.Signals(number).name] += 1
    print("got", signal.Signals(number).name, flush=True)
def end(number, frame):
    print("seen", dict(seen), flush=True)
    sys.exit(3)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), count)
signal.signal(signal.SIGALRM, end)
print("pid", os.getpid(), flush=True)
while True:
    signal.pause()
"""

Start = Callable[..., subprocess.Popen[str]]


def start_counter(start: Start, *names: str) -> tuple[subprocess.Popen[str], int]:
    process = start("--memory", "1Gi", "--quiet", "--", sys.executable, "-c", COUNTER, *names)
    assert process.stdout is not None
    return process, int(process.stdout.readline().split()[1])


def test_signals_from_other_processes_are_passed_on_once(machine: Machine, start: Start) -> None:
    process, child = start_counter(start, *FORWARDED)
    assert process.stdout is not None
    for name in FORWARDED:
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == f"got {name}\n"
    os.kill(child, signal.SIGALRM)
    assert process.communicate()[0] == f"seen {dict.fromkeys(FORWARDED, 1)}\n"
    assert process.returncode == 3
    assert machine.prefixes() == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_command_without_handlers_ends_as_it_would_alone(machine: Machine, start: Start, name: str) -> None:
    process = start("--memory", "1Gi", "--quiet", "--", "sh", "-c", "echo ready; exec sleep 600")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(getattr(signal, name))
    process.communicate()
    assert process.returncode == 128 + getattr(signal, name)
    assert machine.prefixes() == []


def test_what_was_ignored_stays_ignored(machine: Machine) -> None:
    """As under nohup."""
    program = "import signal; print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    result = subprocess.run(
        machine.arguments("--memory", "1Gi", "--quiet", "--", sys.executable, "-c", program),
        env=machine.environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert result.stdout == "True\n"


def test_the_command_starts_with_the_usual_signals(machine: Machine) -> None:
    """Nothing that Python ignores or fracgpu holds back is handed down."""
    command = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    given = machine.run("--memory", "1Gi", "--quiet", "--", *command).stdout
    usual = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert standard_signals(given) == standard_signals(usual)


def standard_signals(status: str) -> list[int]:
    """The masks without signals 32 and above: glibc has two of its own there, and posix_spawn ignores them."""
    return [int(line.split()[1], 16) & 0x7FFFFFFF for line in status.splitlines()]


def test_a_parent_that_ignores_sigchld_loses_no_exit_status(machine: Machine) -> None:
    result = subprocess.run(
        machine.arguments("--memory", "1Gi", "--quiet", "--", "sh", "-c", "exit 7"),
        env=machine.environment(),
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )
    assert result.returncode == 7


def on_terminal(machine: Machine, program: str, *arguments: str) -> tuple[int, int]:
    """Start a run as the leader of a new terminal's foreground group; return its pid and the terminal's other end."""
    command = machine.arguments("--memory", "1Gi", "--quiet", "--", sys.executable, "-c", program, *arguments)
    environment = machine.environment()
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(command[0], command, environment)  # noqa: S606
    return pid, terminal


def read_until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # EIO: the last process has closed the terminal
            part = b""
        assert part, f"{text!r} never came: {seen!r}"
        seen += part.decode()
    return seen


def test_ctrl_c_reaches_the_command_once(machine: Machine) -> None:
    """The terminal sends it to both; passing it on once more would be the second Ctrl-C that many programs obey."""
    pid, terminal = on_terminal(machine, COUNTER, "SIGINT", "SIGUSR1")
    child = int(read_until(terminal, "\n").split()[1])
    # Two of the same kind that are pending at once are one. So fracgpu stands still until the command has had its own,
    # and what it is sent after that comes after any SIGINT that it might pass on: lower numbers are taken first.
    os.kill(pid, signal.SIGSTOP)
    os.write(terminal, b"\x03")
    read_until(terminal, "got SIGINT")
    os.kill(pid, signal.SIGUSR1)
    os.kill(pid, signal.SIGCONT)
    read_until(terminal, "got SIGUSR1")
    os.kill(child, signal.SIGALRM)
    assert "{'SIGINT': 1, 'SIGUSR1': 1}" in read_until(terminal, "}")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    os.close(terminal)
    assert machine.prefixes() == []


def test_ctrl_c_ends_a_plain_command_and_leaves_nothing(machine: Machine) -> None:
    pid, terminal = on_terminal(machine, "import os; print('ready', flush=True); os.execvp('sleep', ['sleep', '600'])")
    read_until(terminal, "ready")
    wait_for_program(pid, "sleep")
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGINT
    os.close(terminal)
    assert machine.prefixes() == []


def wait_for_program(parent: int, name: str) -> None:
    """Wait until the only child of `parent` has become the program `name`."""
    children = Path("/proc") / str(parent) / "task" / str(parent) / "children"
    while True:
        (child,) = children.read_text().split()
        if (Path("/proc") / child / "comm").read_text().strip() == name:
            return


@pytest.fixture
def prepared(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    """Options for a run in this process, whose signals are given back afterwards."""
    for key, value in machine.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("tempfile.tempdir", None)
    return RunOptions(
        memory_bytes=1 << 30, cores_percent=0, gpus=(), driver_root=machine.driver_root, quiet=True, command=("true",)
    )


def test_a_signal_before_the_command_starts_ends_the_run(
    machine: Machine, prepared: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent while the prefix is being made: the command is never started, and the prefix goes."""
    monkeypatch.setattr(run, "install_libraries", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    # Were the command started, it would not be found, and that would be the exit status.
    assert run.run_command(replace(prepared, command=("fracgpu-no-such-command",))) == 128 + signal.SIGTERM
    assert machine.prefixes() == []


def test_an_ignored_signal_before_the_command_starts_is_nothing(
    prepared: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "install_libraries", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run.run_command(prepared) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
