"""What NVML says about this machine's GPUs, as far as sharing them is concerned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pynvml

from fracgpu.cli.bounded import answer_within
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.inventory import NvmlInventory
from fracgpu.driver.nvml import Nvml

_TIMEOUT_SECONDS = 20.0
# nvmlGpuVirtualizationMode_t (nvml.h).
_VIRTUALISATION_VGPU_GUEST = 2
_VIRTUALISATION_VGPU_HOST = (3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU. `mig` tells that it is divided by MIG; `vgpu` is "guest", "host" or empty."""

    gpu: Gpu
    mig: bool
    vgpu: str


@dataclass(frozen=True, slots=True)
class NvmlFacts:
    """All GPUs by index."""

    gpus: tuple[GpuFacts, ...]


def ask_nvml(library: Path) -> NvmlFacts:
    """Ask the libnvidia-ml at `library`, in a process of its own and for a limited time.

    Raises InventoryUnavailable when it does not work and NoAnswer when it hangs.
    """
    return answer_within(_TIMEOUT_SECONDS, "NVML", lambda: _facts(library))


def _facts(library: Path) -> NvmlFacts:
    with NvmlInventory(library) as inventory:
        nvml = Nvml(pynvml, None)
        return NvmlFacts(tuple(_gpu_facts(nvml, gpu) for gpu in inventory.list_gpus()))


def _gpu_facts(nvml: Nvml, gpu: Gpu) -> GpuFacts:
    if not gpu.healthy:
        return GpuFacts(gpu=gpu, mig=False, vgpu="")
    subject = f"GPU {gpu.uuid}"
    handle = nvml.device(subject, "nvmlDeviceGetHandleByUUID", gpu.uuid)
    mig = nvml.optional(subject, "nvmlDeviceGetMigMode", handle)
    mode = nvml.optional(subject, "nvmlDeviceGetVirtualizationMode", handle)
    vgpu = "guest" if mode == _VIRTUALISATION_VGPU_GUEST else "host" if mode in _VIRTUALISATION_VGPU_HOST else ""
    return GpuFacts(gpu=gpu, mig=bool(mig) and mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE, vgpu=vgpu)
