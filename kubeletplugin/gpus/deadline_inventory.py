"""A GPU inventory that answers in time, or says that the driver does not.

When a GPU falls off the bus a call into NVML may never return, and a thread that is inside the kernel can not be ended.
So all calls are made by one thread of their own. Callers wait for it as long as the limit says; while it is stuck
they are told so at once, and nothing piles up behind it. When the driver answers after all, the thread goes on.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from fracgpu.driver.errors import InventoryUnavailable
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.inventory import GpuInventory
from fracgpu.driver.names import GpuUuid
from fracgpu.driver.usage import GpuMemory, GpuProcess

NVML_SECONDS: Final = 15.0
"""How long the driver may take for one answer. Without persistence mode it initialises each GPU anew: seconds."""

_Result = TypeVar("_Result")
_LIMIT_SECONDS: Final[ContextVar[float | None]] = ContextVar("fracgpu_nvml_limit_seconds", default=None)


@contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """Have calls in the block, from this thread, wait for `seconds` at most: a caller may have less time than NVML."""
    token = _LIMIT_SECONDS.set(seconds)
    try:
        yield
    finally:
        _LIMIT_SECONDS.reset(token)


@dataclass(eq=False, slots=True)
class _Job:
    """One call. `since_seconds` is when it was asked, then when the thread took it, in Unix seconds.

    `abandoned` says that its caller has gone.
    """

    name: str
    function: Callable[[], Any]
    since_seconds: float
    abandoned: bool = False
    result: Any = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class DeadlineInventory:
    """GpuInventory with a time limit for each call of `inventory`. Safe to use from several threads.

    Every method raises InventoryUnavailable after `timeout_seconds` without an answer (less in `answer_within`), and at
    once while an earlier call that took longer still has none; apart from that, what `inventory` raises. `clock` gives
    Unix seconds.
    """

    def __init__(
        self,
        inventory: GpuInventory,
        *,
        timeout_seconds: float = NVML_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._inventory = inventory
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._running: _Job | None = None
        self._stuck = False

    def list_gpus(self) -> tuple[Gpu, ...]:
        """Return all GPUs by index."""
        return self._call("the list of GPUs", self._inventory.list_gpus)

    def processes(self, uuid: GpuUuid) -> tuple[GpuProcess, ...]:
        """Return the processes on one GPU, by PID."""
        return self._call(f"the processes of GPU {uuid}", lambda: self._inventory.processes(uuid))

    def memory(self, uuid: GpuUuid) -> GpuMemory:
        """Return the memory of one GPU."""
        return self._call(f"the memory of GPU {uuid}", lambda: self._inventory.memory(uuid))

    def close(self) -> None:
        """Let the thread end when it has answered what was asked; does not wait for it."""
        with self._lock:
            if self._thread is not None:
                self._jobs.put(None)
                self._thread = None

    def _call(self, name: str, function: Callable[[], _Result]) -> _Result:
        job = _Job(name, function, self._clock())
        asked_limit = _LIMIT_SECONDS.get()
        limit = self._timeout_seconds if asked_limit is None else min(asked_limit, self._timeout_seconds)
        with self._lock:
            if self._stuck:
                raise self._silent(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="nvml", daemon=True)
                self._thread.start()
            self._jobs.put(job)
        if not job.done.wait(limit):
            with self._lock:
                # Between the wait and the lock the answer may have come.
                if not job.done.is_set():
                    job.abandoned = True
                    # A caller in a hurry says nothing about the driver.
                    self._stuck = self._stuck or (self._running is not None and limit >= self._timeout_seconds)
                    raise self._silent(job)
        if job.error is not None:
            raise job.error
        result: _Result = job.result
        return result

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                if job.abandoned:
                    continue
                self._running, job.since_seconds = job, self._clock()
            try:
                job.result = job.function()
            except Exception as error:
                job.error = error
            with self._lock:
                self._running, self._stuck = None, False
                job.done.set()

    def _silent(self, job: _Job) -> InventoryUnavailable:
        asked = self._running or job
        # The moment, not the time since: the text goes into events and logs, where another one is another trouble.
        since = datetime.fromtimestamp(asked.since_seconds, UTC)
        return InventoryUnavailable(
            "NVML",
            f"has not answered since {since:%Y-%m-%d %H:%M:%S} UTC, asked for {asked.name}",
            remedy="look for Xid in the kernel log of the node and reset the GPU; it goes on when the driver answers",
        )
