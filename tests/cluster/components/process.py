"""One component of the cluster as a process: started, waited for, stopped by its own pid, with a log of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cluster.errors import ClusterUnavailable

_LOOK_S: Final = 0.1
_LOG_LINES: Final = 25


class Component:
    """A process that serves until it is stopped.

    `ready` tells, without blocking for long, whether it serves. Restartable: `stop`, then `start`.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        start_s: float = 90.0,
        stop_s: float = 20.0,
    ) -> None:
        """Describe the component; nothing is started."""
        self.name, self.log = name, log
        self._argv = list(map(str, argv))
        self._ready = ready
        self._env = {**os.environ, **(env or {})}
        self._start_s, self._stop_s = start_s, stop_s
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it serves.

        Raises:
            ClusterUnavailable: it ended or did not get ready in time; the text has the end of its log.

        """
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start the process without waiting for it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def await_ready(self) -> None:
        """Wait until the launched process serves; raises as `start`."""
        end = time.monotonic() + self._start_s
        while not self._ready():
            if self.exit_code is not None:
                raise self._unavailable(f"ended with {self.exit_code}")
            if time.monotonic() > end:
                raise self._unavailable(f"is not ready after {self._start_s:g} s")
            time.sleep(_LOOK_S)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """End the process: `sig`, and SIGKILL when it takes too long. Harmless when it does not run."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(sig)
        try:
            process.wait(self._stop_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int | None:
        """Process id, None while it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last process, None while it runs or after `stop`."""
        return None if self._process is None else self._process.poll()

    def _unavailable(self, what: str) -> ClusterUnavailable:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        return ClusterUnavailable(self.name, f"{what}; the end of its log:\n{tail}", remedy=f"see {self.log}")
