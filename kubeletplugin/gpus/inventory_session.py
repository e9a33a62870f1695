"""NVML for as long as the plugin runs, whatever happens to the driver meanwhile.

A driver may come after the plugin, lose its kernel module and get it back, or be replaced by another version. The
session is opened when it is first needed and again whenever it broke. What it can not do is change libraries: a process
that has loaded one libnvidia-ml must not load a second one beside it (both keep state and threads of their own, and
pynvml knows one only). A working session is never given up because files changed; but once the driver stopped working
and another library lies in its place, nothing helps but a new process, and `on_replaced` is told so.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from fracgpu.driver.errors import FracgpuError, InventoryUnavailable
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.inventory import GpuInventory, GpuMemory, GpuProcess, NvmlInventory
from fracgpu.driver.names import GpuUuid

_Answer = TypeVar("_Answer")
_SUBJECT: Final = "NVML"


class NvmlSession(GpuInventory, Protocol):
    """What the session works with; implemented by fracgpu.driver.inventory.NvmlInventory."""

    @property
    def library_loaded(self) -> bool:
        """Whether this process has the library in its memory now."""

    def __enter__(self) -> Self:
        """Open the session. Raises InventoryUnavailable."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""


@dataclass(frozen=True, slots=True)
class _Library:
    """A file and its content, as far as stat(2) tells one file from another."""

    path: Path
    device: int
    inode: int
    bytes: int
    modified_ns: int

    @classmethod
    def at(cls, path: Path) -> "_Library":
        status = path.stat()
        return cls(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class InventorySession:
    """GpuInventory over the driver that `find_library` finds. Calls come one at a time: NVML is one session.

    `find_library` returns the path of libnvidia-ml, or raises FracgpuError or OSError. `on_replaced` is called, each
    time that a call fails for it, when only a new process can use the driver that is there now.
    """

    def __init__(
        self,
        find_library: Callable[[], Path],
        *,
        on_replaced: Callable[[], None],
        make_session: Callable[[Path], NvmlSession] = NvmlInventory,
    ) -> None:
        self._find_library = find_library
        self._on_replaced = on_replaced
        self._make_session = make_session
        self._lock = threading.Lock()
        self._session: NvmlSession | None = None
        self._library: _Library | None = None
        self._open = False

    def list_gpus(self) -> tuple[Gpu, ...]:
        """Return all GPUs by index. Raises InventoryUnavailable."""
        return self._ask(lambda session: session.list_gpus())

    def processes(self, uuid: GpuUuid) -> tuple[GpuProcess, ...]:
        """Return the processes on one GPU, by PID. Raises GpuNotFound, GpuLost or InventoryUnavailable."""
        return self._ask(lambda session: session.processes(uuid))

    def memory(self, uuid: GpuUuid) -> GpuMemory:
        """Return the memory of one GPU. Raises GpuNotFound, GpuLost or InventoryUnavailable."""
        return self._ask(lambda session: session.memory(uuid))

    def _ask(self, question: Callable[[NvmlSession], _Answer]) -> _Answer:
        with self._lock:
            reopened = not self._open
            session = self._opened()
            try:
                return question(session)
            except InventoryUnavailable:
                self._close(session)
                if reopened:
                    raise
            # A kernel module that was loaded anew ends every session; the next one works.
            session = self._opened()
            try:
                return question(session)
            except InventoryUnavailable:
                self._close(session)
                raise

    def _opened(self) -> NvmlSession:
        if self._session is not None and self._open:
            return self._session
        library = self._present_library()
        if self._session is None or library != self._library:
            if self._session is not None and self._session.library_loaded:
                self._on_replaced()
                raise InventoryUnavailable(
                    _SUBJECT,
                    f"{library.path} is another library than this process has loaded",
                    remedy="the plugin ends to be started again with the new driver; containers go on meanwhile",
                )
            self._session, self._library = self._make_session(library.path), library
        self._session.__enter__()
        self._open = True
        return self._session

    def _present_library(self) -> _Library:
        try:
            return _Library.at(self._find_library())
        except (FracgpuError, OSError) as error:
            # What is missing and what to do stands in the cause's text; the type says what it means here.
            remedy = error.remedy if isinstance(error, FracgpuError) else "install the NVIDIA driver on this node"
            what = f"no usable driver: {error.subject}: {error.what}" if isinstance(error, FracgpuError) else str(error)
            raise InventoryUnavailable(_SUBJECT, what, remedy=remedy) from error

    def _close(self, session: NvmlSession) -> None:
        self._open = False
        session.__exit__(None, None, None)
