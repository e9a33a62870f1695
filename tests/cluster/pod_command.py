"""A command inside a pod by `kubectl exec`, with the handle that the lab's containers offer: lines, signals, result.

`kubectl exec` forwards no signals, so the command says its process id first, and is signalled by a second exec.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Final

from fracgpu.sim.lab.errors import CommandFailed
from tests.cluster.kubectl import Kubectl

_ANNOUNCE: Final = 'echo "$$" && exec "$@"'
_END_S: Final = 30.0


class PodCommand:
    """A running command; raises CommandFailed if it cannot be started. `target` are kubectl's words for the place."""

    def __init__(self, kubectl: Kubectl, target: Sequence[str], argv: Sequence[str]) -> None:
        """Start the command and wait until it says its process id."""
        self._kubectl, self._target = kubectl, list(target)
        command = kubectl.command("exec", *target, "--", "sh", "-c", _ANNOUNCE, "sh", *argv)
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        first = self._stdout.readline().strip()
        if not first.isdigit():
            _, errors = self._process.communicate()
            what = f"{argv[0]} was not started: {errors.decode(errors='replace').strip()}"
            raise CommandFailed(" ".join(target), what, remedy="see the events of the pod")
        self.pid_in_container = int(first)

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        """What the command writes to stderr."""
        return self._process.stderr

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of stdout as they come."""
        yield from iter(self._stdout.readline, b"")

    def communicate(self) -> tuple[int, bytes, bytes]:
        """Wait for the end; return exit code and what is left of stdout and stderr."""
        stdout, stderr = self._process.communicate()
        return self._process.returncode, stdout, stderr

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        return self._process.wait()

    @property
    def exit_code(self) -> int | None:
        """Exit code, None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask the command to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the command; harmless when it has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is not None:
            return
        # The pod may be gone, and with it the other end, or the command may not listen.
        impatience = threading.Timer(_END_S, self._process.kill)
        impatience.daemon = True
        impatience.start()
        # The shell's own kill: small images have no program of that name.
        line = f"kill -{int(number)} {self.pid_in_container}"
        self._kubectl.run("exec", *self._target, "--", "sh", "-c", line)
