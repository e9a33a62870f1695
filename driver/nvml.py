"""Calls into NVML with its failures sorted into three kinds.

A value that this GPU does not have is unknown, never a failure. A GPU that does not answer is a fact about that GPU and
must not hide the others. Only a driver that does not work at all is an error of the inventory.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

from fracgpu.driver.errors import GpuLost, InventoryUnavailable

# nvmlReturn_t (nvml.h).
UNINITIALIZED: Final = 1
INVALID_ARGUMENT: Final = 2
NOT_SUPPORTED: Final = 3
NO_PERMISSION: Final = 4
NOT_FOUND: Final = 6
DRIVER_NOT_LOADED: Final = 9
LIBRARY_NOT_FOUND: Final = 12
FUNCTION_NOT_FOUND: Final = 13
LIB_RM_VERSION_MISMATCH: Final = 18
NO_DATA: Final = 21
ARGUMENT_VERSION_MISMATCH: Final = 25
DEPRECATED: Final = 26

_UNKNOWN_VALUE: Final = frozenset(
    {NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, FUNCTION_NOT_FOUND, NO_DATA, ARGUMENT_VERSION_MISMATCH, DEPRECATED}
)
_REMEDIES: Final = {
    UNINITIALIZED: "use the inventory as a context manager",
    DRIVER_NOT_LOADED: "load the nvidia kernel module (modprobe nvidia)",
    LIBRARY_NOT_FOUND: "install the NVIDIA driver, or point the driver root at the tree that has libnvidia-ml.so.1",
    LIB_RM_VERSION_MISMATCH: "reboot, or reload the kernel module: library and module are of two driver versions",
    NO_PERMISSION: "run where /dev/nvidiactl can be opened",
}
_SUBJECT: Final = "NVML"


class Nvml:
    """One NVML session over the given `pynvml` module.

    `library` is loaded first, globally; pynvml opens the library by its SONAME and then gets exactly that one.
    """

    def __init__(self, module: Any, library: Path | None) -> None:
        self._module = module
        self._library = library
        self.loaded = False
        """Whether this process has the library in its memory, working or not."""

    def start(self) -> None:
        """Load the library and open the session. Raises InventoryUnavailable with the remedy for the cause."""
        loaded = self._preload()
        try:
            self._module.nvmlInit()
        except self._errors() as error:
            self.loaded = loaded is not None or _code(error) != LIBRARY_NOT_FOUND
            raise self._unavailable(error) from error
        self.loaded = True
        if loaded is not None and not self._uses(loaded):
            self._module.nvmlShutdown()
            what = f"this process already uses another libnvidia-ml than {self._library}"
            raise InventoryUnavailable(_SUBJECT, what, remedy="use one driver root per process")

    def stop(self) -> None:
        """Close the session; a driver that went away meanwhile is no reason to fail."""
        try:
            self._module.nvmlShutdown()
        except self._errors():
            return

    def node(self, function: str, *arguments: object) -> Any:
        """Call a function without which there is no inventory. Raises InventoryUnavailable."""
        try:
            return getattr(self._module, function)(*arguments)
        except self._errors() as error:
            raise self._unavailable(error) from error

    def node_optional(self, function: str, *arguments: object) -> Any:
        """Like `node`, but None where the driver does not have the value."""
        try:
            return self.node(function, *arguments)
        except InventoryUnavailable as error:
            if _code(error.__cause__) in _UNKNOWN_VALUE:
                return None
            raise

    def device(self, subject: str, function: str, *arguments: object) -> Any:
        """Call a function that every working GPU answers.

        Raises GpuLost, naming `subject`, if this GPU does not, and InventoryUnavailable if the driver does not work.
        """
        try:
            return getattr(self._module, function)(*arguments)
        except self._errors() as error:
            if _code(error) in (UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH):
                raise self._unavailable(error) from error
            remedy = "look for Xid errors in the kernel log; a lost GPU needs a reset or a reboot"
            raise GpuLost(subject, f"{function} failed: {error}", remedy=remedy) from error

    def optional(self, subject: str, function: str, *arguments: object) -> Any:
        """Call a function whose value may be unknown: None where this GPU or this driver does not have it.

        Raises like `device` for every other failure.
        """
        try:
            return self.device(subject, function, *arguments)
        except GpuLost as lost:
            if _code(lost.__cause__) in _UNKNOWN_VALUE:
                return None
            raise

    def _preload(self) -> ctypes.CDLL | None:
        if self._library is None:
            return None
        try:
            return ctypes.CDLL(str(self._library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            remedy = "install the NVIDIA driver there, or point the driver root elsewhere"
            raise InventoryUnavailable(
                f"library {self._library}", f"cannot be loaded: {error}", remedy=remedy
            ) from error

    def _uses(self, loaded: ctypes.CDLL) -> bool:
        # The loader gives one handle per library, however often and by whatever name it is opened.
        current = getattr(self._module, "nvmlLib", None)
        return current is None or current._handle == loaded._handle

    def _errors(self) -> tuple[type[Exception], ...]:
        # The second is what pynvml raises for an unversioned function that an older driver lacks.
        return (self._module.NVMLError, self._module.NVMLLibraryMismatchError)

    def _unavailable(self, error: Exception) -> InventoryUnavailable:
        remedy = _REMEDIES.get(_code(error), "check that nvidia-smi works on this node")
        return InventoryUnavailable(_SUBJECT, f"does not work: {error}", remedy=remedy)


def _code(error: BaseException | None) -> int:
    return int(getattr(error, "value", FUNCTION_NOT_FOUND))
