"""What GPUs this node has, and who uses them.

The interface is small so that a test can stand in for a driver. The implementation asks NVML, and remembers each GPU
that it has seen: one that falls off the bus stays listed, unhealthy, because running allocations still refer to it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pynvml

from fracgpu.driver.errors import GpuLost, GpuNotFound
from fracgpu.driver.gpu import UNKNOWN_NUMA_NODE, Gpu
from fracgpu.driver.names import GpuUuid
from fracgpu.driver.nvml import INVALID_ARGUMENT, NOT_FOUND, Nvml
from fracgpu.driver.nvml_names import architecture_name, brand_name
from fracgpu.driver.pci import SYSFS_ROOT, normalise_pci_bus_id, numa_node, pcie_root
from fracgpu.driver.usage import GpuMemory, GpuProcess
from fracgpu.driver.versions import UNKNOWN_VERSION, normalise_version

__all__ = ["GpuInventory", "GpuMemory", "GpuProcess", "NvmlInventory"]

_log = logging.getLogger(__name__)


class GpuInventory(Protocol):
    """The GPUs of this node."""

    def list_gpus(self) -> tuple[Gpu, ...]:
        """Return all GPUs by index. Raises InventoryUnavailable."""

    def processes(self, uuid: GpuUuid) -> tuple[GpuProcess, ...]:
        """Return the processes on one GPU, by PID. Raises GpuNotFound, GpuLost or InventoryUnavailable."""

    def memory(self, uuid: GpuUuid) -> GpuMemory:
        """Return the memory of one GPU. Raises GpuNotFound, GpuLost or InventoryUnavailable."""


@dataclass(frozen=True, slots=True)
class _Versions:
    driver: str
    cuda: str


class NvmlInventory:
    """GpuInventory over NVML; a context manager, because NVML is a session.

    `library_path` names the libnvidia-ml.so.1 to use, by default the loader's. `nvml` is a module with pynvml's
    functions, `sysfs` the root of the sysfs tree. A GPU is listed as unhealthy when it does not answer but its UUID is
    known, from this call or an earlier one.
    """

    def __init__(self, library_path: Path | None = None, *, nvml: Any = pynvml, sysfs: Path = SYSFS_ROOT) -> None:
        self._nvml = Nvml(nvml, library_path)
        self._sysfs = sysfs
        self._known: dict[GpuUuid, Gpu] = {}

    def __enter__(self) -> Self:
        self._nvml.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nvml.stop()

    @property
    def library_loaded(self) -> bool:
        """Whether this process has the library in its memory now, working or not: it can not have another one then."""
        return self._nvml.loaded

    def list_gpus(self) -> tuple[Gpu, ...]:
        """Return all GPUs by index, those that were seen before and are gone or lost as unhealthy.

        Raises InventoryUnavailable.
        """
        versions = self._versions()
        present = {gpu.uuid: gpu for gpu in self._present(versions)}
        gone = {uuid: replace(gpu, healthy=False) for uuid, gpu in self._known.items() if uuid not in present}
        self._known = {**gone, **present}
        return tuple(sorted(self._known.values(), key=lambda gpu: (gpu.index, gpu.uuid)))

    def processes(self, uuid: GpuUuid) -> tuple[GpuProcess, ...]:
        """Return the processes on one GPU, by PID; none where the driver cannot list them.

        A process with a compute and a graphics context is listed once, with the larger number. Raises GpuNotFound,
        GpuLost or InventoryUnavailable.
        """
        handle = self._handle(uuid)
        used: dict[int, int | None] = {}
        for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            for process in self._nvml.optional(f"GPU {uuid}", function, handle) or ():
                amounts = [n for n in (used.get(process.pid), process.usedGpuMemory) if n is not None]
                used[process.pid] = max(amounts, default=None)
        return tuple(GpuProcess(pid, used[pid]) for pid in sorted(used))

    def memory(self, uuid: GpuUuid) -> GpuMemory:
        """Return the memory of one GPU in bytes, zeros where the driver cannot say.

        Raises GpuNotFound, GpuLost or InventoryUnavailable.
        """
        info = self._nvml.optional(f"GPU {uuid}", "nvmlDeviceGetMemoryInfo", self._handle(uuid))
        return GpuMemory(0, 0, 0) if info is None else GpuMemory(info.total, info.used, info.free)

    def _versions(self) -> _Versions:
        driver = self._nvml.node_optional("nvmlSystemGetDriverVersion")
        cuda = self._nvml.node_optional("nvmlSystemGetCudaDriverVersion_v2")
        # 13020 means 13.2.
        cuda_text = "" if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
        return _Versions(driver=normalise_version(_text(driver)), cuda=normalise_version(cuda_text))

    def _present(self, versions: _Versions) -> Iterator[Gpu]:
        for index in range(self._nvml.node("nvmlDeviceGetCount")):
            subject = f"GPU with index {index}"
            try:
                handle = self._nvml.device(subject, "nvmlDeviceGetHandleByIndex", index)
                uuid = GpuUuid(_text(self._nvml.device(subject, "nvmlDeviceGetUUID", handle)))
            except GpuLost as lost:
                # Without a UUID it has no name; an earlier sighting under the same index is added by the caller.
                _log.warning("%s", lost)
                continue
            yield self._describe(handle, uuid, index, versions)

    def _describe(self, handle: Any, uuid: GpuUuid, index: int, versions: _Versions) -> Gpu:
        blank = Gpu(
            uuid=uuid,
            product_name="",
            brand="",
            architecture="",
            pci_bus_id="",
            pcie_root=None,
            numa_node=UNKNOWN_NUMA_NODE,
            memory_total_bytes=0,
            minor_number=None,
            index=index,
            driver_version=versions.driver,
            cuda_driver_version=versions.cuda,
            compute_capability=UNKNOWN_VERSION,
            healthy=False,
        )
        try:
            return replace(blank, **self._attributes(f"GPU {uuid}", handle), healthy=True)
        except GpuLost as lost:
            _log.warning("%s", lost, extra={"gpu": uuid})
            return replace(self._known.get(uuid, blank), index=index, healthy=False)

    def _attributes(self, subject: str, handle: Any) -> dict[str, Any]:
        def ask(function: str) -> Any:
            return self._nvml.optional(subject, function, handle)

        memory = ask("nvmlDeviceGetMemoryInfo")
        pci = ask("nvmlDeviceGetPciInfo")
        address = "" if pci is None else normalise_pci_bus_id(_text(pci.busId))
        capability = ask("nvmlDeviceGetCudaComputeCapability")
        return {
            "product_name": _text(ask("nvmlDeviceGetName")),
            "brand": brand_name(ask("nvmlDeviceGetBrand")),
            "architecture": architecture_name(ask("nvmlDeviceGetArchitecture")),
            "pci_bus_id": address,
            "pcie_root": pcie_root(address, self._sysfs),
            "numa_node": numa_node(address, self._sysfs),
            "memory_total_bytes": 0 if memory is None else memory.total,
            "minor_number": ask("nvmlDeviceGetMinorNumber"),
            "compute_capability": normalise_version("" if capability is None else "{}.{}".format(*capability)),
        }

    def _handle(self, uuid: GpuUuid) -> Any:
        try:
            return self._nvml.device(f"GPU {uuid}", "nvmlDeviceGetHandleByUUID", uuid)
        except GpuLost as lost:
            if getattr(lost.__cause__, "value", None) in (NOT_FOUND, INVALID_ARGUMENT):
                remedy = "compare with nvidia-smi -L"
                raise GpuNotFound(f"GPU {uuid}", "is not visible to NVML", remedy=remedy) from lost
            raise


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)
