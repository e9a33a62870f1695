"""Signals: each reaches the command once, whoever sent it, and fracgpu itself outlives it to clean up."""

import errno
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from fracgpu.cli.main import main
from fracgpu.cli.run_command import run
from fracgpu.cli.run_command.child import HeldSignals
from fracgpu.cli.run_command.options import RunOptions
from tests.cli.machine import DEADLINE_SECONDS, Machine

FORWARDED = ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH"]
# Counts what it is sent; ends, with the counts, at SIGALRM, which fracgpu does not know. It waits for signals and does
# not handle them: a handler comes in the middle of anything, or just before the pause that was to wait for it.
COUNTER = """
import collections, os, signal, sys
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
awaited = {signal.SIGALRM, *(getattr(signal, name) for name in sys.argv[1:])}
signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
say("pid", os.getpid())
seen = collections.Counter()
while (number := signal.sigwait(awaited)) != signal.SIGALRM:
    seen[number.name] += 1
    say("got", number.name)
say("seen", dict(seen))
sys.exit(3)
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


def test_a_terminal_that_goes_away_ends_the_command(machine: Machine) -> None:
    """As after a lost ssh connection. The kernel tells the leader of the session alone, which fracgpu is."""
    end = machine.driver_root / "end"
    os.mkfifo(end)
    program = (
        "import os, signal, sys\n"
        "end = os.open(sys.argv[1], os.O_WRONLY)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})\n"
        "os.write(1, b'ready\\n')\n"
        "signal.sigwait({signal.SIGHUP})\n"
        "os.write(end, b'hung up')\n"
    )
    pid, terminal = on_terminal(machine, program, str(end))
    reader = os.open(end, os.O_RDONLY)
    read_until(terminal, "ready")
    os.close(terminal)
    try:
        assert select.select([reader], [], [], DEADLINE_SECONDS)[0], "the command was not told"
        assert os.read(reader, 64) == b"hung up"
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert machine.prefixes() == []


def test_a_command_of_another_user_can_not_be_signalled_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sudo and its kind. Giving up on it would leave it running without anybody who cleans up."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    program = f"import os, sys; os.read({reader}, 1); sys.exit(5)"

    def refuse(_: int, number: int) -> None:
        assert number == signal.SIGTERM
        os.close(writer)
        raise PermissionError(1, "Operation not permitted")

    try:
        with HeldSignals() as signals:
            pid = signals.start([sys.executable, "-c", program], dict(os.environ))
            os.kill(os.getpid(), signal.SIGTERM)
            monkeypatch.setattr(os, "kill", refuse)
            assert signals.wait(pid) == 5
    finally:
        os.close(reader)


def test_an_interrupt_while_the_driver_is_asked_is_no_traceback(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_list_gpus", interrupted)
    arguments = ["run", "--memory", "1Gi", "--driver-root", str(machine.driver_root), "--", "true"]
    assert main(arguments) == 128 + signal.SIGINT
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_said_where_it_is(
    machine: Machine, prepared: RunOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "install_libraries", full)
    assert run.run_command(prepared) == run.EXIT_REFUSED
    text = capsys.readouterr().err
    assert text.startswith(f"fracgpu run: temporary directory {machine.temporary}/fracgpu-run-")
    assert text.endswith(
        "can not be filled: No space left on device; make room there, or set TMPDIR to another directory\n"
    )
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
