"""A part of the driver as a process of its own, started as its container would start it.

It is a container without namespaces: the kernel ends it with the lab, even if the lab is killed and can clean up
nothing, and Ctrl-C in a terminal does not reach it, because the lab stops it itself, late.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from fracgpu.sim.node.container import ContainerProcess, ContainerSpec

_STOP_S = 10.0


class DriverProcess:
    """A running ``fracgpu COMMAND``; a context manager. ``log`` receives its output, ``subject`` names it in errors.

    It ends with the thread that entered it, at the latest.

    Raises:
        ContainerCreateError: the process cannot be started.

    """

    def __init__(
        self, subject: str, command: str, arguments: Sequence[str], *, env: Mapping[str, str], log: Path
    ) -> None:
        self._spec = ContainerSpec(
            subject=subject,
            argv=(sys.executable, "-m", "fracgpu.cli.main", command, *arguments),
            env={**os.environ, **env},
        )
        self.log = log
        self._process: ContainerProcess | None = None

    def __enter__(self) -> Self:
        """Start the process."""
        with self.log.open("ab") as output:
            self._process = ContainerProcess(self._spec, stdout=output, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the process: SIGTERM, then SIGKILL."""
        if self._process is None:
            return
        impatience = threading.Timer(_STOP_S, self._process.kill)
        impatience.start()
        try:
            self._process.terminate()
            self._process.wait()
        finally:
            impatience.cancel()
            # Interrupted while waiting: its files are removed next, so it must not write any more.
            self._process.kill()

    @property
    def subject(self) -> str:
        """What it is, in errors."""
        return self._spec.subject

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, or None while it runs."""
        return None if self._process is None else self._process.exit_code

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
