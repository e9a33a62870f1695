"""One container as one process of the machine: its environment, its mounts, its life and its end.

A container runs in namespaces made by the launcher or, where the machine does not allow that, with a directory of its
own in the place of the mounts (`standalone`). Either way the process is the leader of its own session, and stopping
the container reaches exactly that process group.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fracgpu.sim.node.cdi_registry import Mount
from fracgpu.sim.node.errors import ContainerCreateError, ContainerStartError

_LAUNCHER = "fracgpu.sim.node.launcher"
# What the launcher itself may need to find its modules; the command gets the container's environment only.
_LAUNCHER_ENV = ("PATH", "PYTHONPATH", "PYTHONHOME")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything the launcher needs: what to run, with which whole environment, in which namespaces, with which mounts.

    ``subject`` names the container in errors (``container ns/pod/name``). No namespaces means no mounts.
    """

    subject: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    namespaces: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    cwd: str = "/"


class ContainerProcess:
    """A started container, or a further process inside one (``join_pid``).

    The kernel ties the process to the thread that starts it: when that thread ends, the process is killed
    (``PR_SET_PDEATHSIG``, prctl(2)). So nothing survives a runtime that dies, and whoever starts a container stays to
    wait for it.

    Raises:
        ContainerCreateError: namespaces or mounts could not be made.
        ContainerStartError: the command could not be executed.

    """

    def __init__(
        self, spec: ContainerSpec, *, stdout: int | IO[bytes], stderr: int | IO[bytes], join_pid: int | None = None
    ) -> None:
        self.spec = spec
        self._reaping = threading.Lock()
        self._popen = _start(spec, stdout=stdout, stderr=stderr, join_pid=join_pid)
        self.pid = self._popen.pid
        self.stdout = self._popen.stdout
        self.stderr = self._popen.stderr

    def lines(self) -> Iterator[bytes]:
        """Yield what the process writes to its stdout pipe, line by line, until it closes it."""
        # Iterating over the stream itself would close it as soon as the reader has seen enough.
        while self.stdout is not None and (line := self.stdout.readline()):
            yield line

    def communicate(self) -> tuple[int, bytes, bytes]:
        """Read what the process writes to its two pipes until it ends; return exit code, stdout and stderr."""
        with ThreadPoolExecutor(max_workers=2) as readers:
            outputs = [readers.submit(stream.read) for stream in (self.stdout, self.stderr) if stream is not None]
        stdout, stderr = (output.result() for output in outputs)
        return self.wait(), stdout, stderr

    def wait(self) -> int:
        """Wait for the command, end what it left in its process group, return its exit code (128 + signal number)."""
        # Not reaped yet: as long as the leader is a zombie nobody else can have its process group id.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.kill()
        with self._reaping:
            status = self._popen.wait()
        return 128 - status if status < 0 else status

    @property
    def exit_code(self) -> int | None:
        """What `wait` returns if the command has ended, None while it runs."""
        with self._reaping:
            if self._popen.returncode is None and not os.waitid(
                os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG
            ):
                return None
        return self.wait()

    def terminate(self) -> None:
        """Ask the container to end (SIGTERM to its process group)."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the container (SIGKILL to its process group)."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with self._reaping, contextlib.suppress(ProcessLookupError):
            if self._popen.returncode is None:
                os.killpg(self.pid, number)


def _start(
    spec: ContainerSpec, *, stdout: int | IO[bytes], stderr: int | IO[bytes], join_pid: int | None
) -> subprocess.Popen[bytes]:
    status_read, status_write = os.pipe()
    spec_read, spec_write = os.pipe()
    try:
        popen = subprocess.Popen(
            [sys.executable, "-m", _LAUNCHER, str(spec_read)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd="/",
            env={name: value for name in _LAUNCHER_ENV if (value := os.environ.get(name)) is not None},
            pass_fds=(spec_read, status_write),
            start_new_session=True,
        )
        os.close(spec_read)
        os.close(status_write)
        with os.fdopen(spec_write, "w") as stream:
            json.dump(_launch_document(spec, status_write, join_pid), stream)
        with os.fdopen(status_read, "rb") as stream:
            report = stream.read()
    except OSError as error:
        raise ContainerCreateError(spec.subject, f"the launcher failed: {error}", remedy="see the log") from error
    if report:
        popen.wait()
        _raise_report(spec, json.loads(report))
    return popen


def _launch_document(spec: ContainerSpec, status_fd: int, join_pid: int | None) -> dict[str, Any]:
    return {
        "argv": list(spec.argv),
        "env": dict(spec.env),
        "cwd": spec.cwd,
        "namespaces": list(spec.namespaces),
        "mounts": [
            {"source": mount.host_path, "target": mount.container_path, "read_only": mount.read_only}
            for mount in spec.mounts
        ],
        "join_pid": join_pid,
        "status_fd": status_fd,
        "parent_pid": os.getpid(),
    }


def _raise_report(spec: ContainerSpec, report: dict[str, Any]) -> None:
    if report["at_exec"]:
        raise ContainerStartError(spec.subject, report["message"], remedy="correct the container's command")
    raise ContainerCreateError(spec.subject, report["message"], remedy="see the mounts in the claim's CDI spec file")


def run_to_end(spec: ContainerSpec, notify: Callable[[ContainerProcess], None], log: Path) -> int:
    """Start a container with its output appended to ``log``, call ``notify`` with it, and wait for its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = ContainerProcess(spec, stdout=output, stderr=subprocess.STDOUT)
    notify(process)
    return process.wait()
