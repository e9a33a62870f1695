"""One container over its restarts.

A thread of its own starts the container, waits for it and starts it again as the restart policy says, with growing
pauses. What the API shows as the container's state is kept as the JSON that it shows.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.node.clock import now
from fracgpu.sim.node.container import ContainerProcess, ContainerSpec, run_to_end
from fracgpu.sim.node.errors import ContainerStartError
from fracgpu.sim.node.timings import Timings, backoff

_START_ERROR_CODE = 128


@dataclass(frozen=True, slots=True)
class ContainerView:
    """State and last state as ContainerStatus shows them; ``finished``: it will not run again."""

    state: dict[str, Any] = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: dict[str, Any] = field(default_factory=dict)
    restart_count: int = 0
    container_id: str = ""
    finished: bool = False

    @property
    def has_run(self) -> bool:
        """Tell whether the container runs or has run."""
        return "running" in self.state or self.exit_code is not None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last run, if there was one."""
        for state in (self.state, self.last_state):
            if "terminated" in state:
                code: int = state["terminated"]["exitCode"]
                return code
        return None


class ContainerRunner:
    """Runs one container of a pod until it may not run again or `stop` is called.

    ``make_spec`` is called before every start, because CDI spec files are resolved at every start. ``on_change`` is
    called, without any lock held, after the view changed; ``on_event`` with kind, reason and message of news.
    """

    def __init__(
        self,
        *,
        name: str,
        make_spec: Callable[[], ContainerSpec],
        log_path: Callable[[int], Path],
        restart_policy: str,
        timings: Timings,
        on_change: Callable[[], None],
        on_event: Callable[[str, str, str], None],
        restarts: int = 0,
    ) -> None:
        self.name = name
        self._make_spec = make_spec
        self._log_path = log_path
        self._restart_policy = restart_policy
        self._timings = timings
        self._on_change = on_change
        self._on_event = on_event
        self._lock = threading.Lock()
        self._view = ContainerView(restart_count=restarts)
        self._process: ContainerProcess | None = None
        self._inside: set[ContainerProcess] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"container-{name}", daemon=True)

    @property
    def view(self) -> ContainerView:
        """The present state."""
        with self._lock:
            return self._view

    def start(self) -> None:
        """Start the container's thread."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """End the container: SIGTERM, after ``grace_s`` SIGKILL; returns when it has ended."""
        self._stop.set()
        self._signal(ContainerProcess.terminate)
        self._thread.join(grace_s)
        while self._thread.is_alive():
            self._signal(ContainerProcess.kill)
            self._thread.join(1.0)

    def execute(self, argv: tuple[str, ...], *, stdout: int | IO[bytes], stderr: int | IO[bytes]) -> ContainerProcess:
        """Run a further process inside the running container (`kubectl exec`); it ends with the container.

        Raises:
            ContainerStartError: the container is not running, or the command cannot be started.

        """
        with self._lock:
            if self._process is None:
                raise ContainerStartError(f"container {self.name}", "it is not running", remedy="wait until it runs")
            main = self._process
            spec = replace(main.spec, argv=argv, mounts=())
            process = ContainerProcess(spec, stdout=stdout, stderr=stderr, join_pid=main.pid)
            self._inside.add(process)
        return process

    def _signal(self, send: Callable[[ContainerProcess], None]) -> None:
        with self._lock:
            if self._process is not None:
                send(self._process)

    def _run(self) -> None:
        create_delays, restart_delays = backoff(self._timings.create_retry), backoff(self._timings.restart_backoff)
        pause = 0.0
        while not self._stop.is_set():
            try:
                code = self._run_once()
            except FracgpuError as error:
                self._on_event("Warning", "Failed", f"Error: {error}")
                self._set(state={"waiting": {"reason": "CreateContainerError", "message": str(error)}})
                self._stop.wait(next(create_delays))
                continue
            if self._stop.is_set() or not self._restarts_after(code):
                break
            if pause:
                waiting = {"reason": "CrashLoopBackOff", "message": f"back-off {pause:g}s restarting {self.name}"}
                self._on_event("Warning", "BackOff", f"Back-off restarting failed container {self.name}")
                self._set(state={"waiting": waiting}, last_state=self.view.state)
            # As the kubelet does: the first restart comes at once.
            self._stop.wait(pause)
            pause = next(restart_delays)
            self._set(restart_count=self.view.restart_count + 1)
        self._set(finished=True)

    def _restarts_after(self, code: int) -> bool:
        return self._restart_policy == "Always" or (self._restart_policy == "OnFailure" and code != 0)

    def _run_once(self) -> int:
        """Run the container once and record how it ended; a command that cannot be executed ends with code 128."""
        spec = self._make_spec()
        started_at, container_id = now(), f"fracgpu-sim://{uuid.uuid4().hex}"
        previous = self.view.state
        message = ""
        try:
            code = run_to_end(
                spec,
                lambda process: self._started(process, started_at, container_id),
                self._log_path(self.view.restart_count),
            )
            reason = "Completed" if code == 0 else "Error"
        except ContainerStartError as error:
            code, reason, message = _START_ERROR_CODE, "StartError", str(error)
            self._on_event("Warning", "Failed", f"Error: {error}")
        self._ended()
        ended = {"exitCode": code, "reason": reason, "startedAt": started_at, "finishedAt": now()}
        ended |= {"containerID": container_id} | ({"message": message} if message else {})
        last = previous if "terminated" in previous else self.view.last_state
        self._set(state={"terminated": ended}, last_state=last, container_id=container_id)
        return code

    def _started(self, process: ContainerProcess, started_at: str, container_id: str) -> None:
        with self._lock:
            self._process = process
            if self._stop.is_set():
                process.terminate()
        last = self.view.state if "terminated" in self.view.state else self.view.last_state
        self._on_event("Normal", "Started", f"Started container {self.name}")
        self._set(state={"running": {"startedAt": started_at}}, last_state=last, container_id=container_id)

    def _ended(self) -> None:
        with self._lock:
            self._process = None
            inside, self._inside = self._inside, set()
        for process in inside:
            process.kill()

    def _set(self, **changes: Any) -> None:
        with self._lock:
            self._view = replace(self._view, **changes)
        self._on_change()
