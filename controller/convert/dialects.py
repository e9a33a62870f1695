"""The words of other GPU sharers: resources, annotations and environment variables, as they document them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Resource names of one sharer. Memory is in MiB, percentages are of one GPU; empty where it has no such word.

    `shared` tells that `count` counts shares without an amount. `ignored` resources have no meaning for a claim.
    """

    name: str
    count: str
    memory: str = ""
    percent: str = ""
    cores: str = ""
    ignored: tuple[str, ...] = ()
    shared: bool = False

    @property
    def resources(self) -> tuple[str, ...]:
        """All resource names of this sharer."""
        return tuple(name for name in (self.count, self.memory, self.percent, self.cores, *self.ignored) if name)


HAMI: Final = Dialect(
    name="HAMi",
    count="nvidia.com/gpu",
    memory="nvidia.com/gpumem",
    percent="nvidia.com/gpumem-percentage",
    cores="nvidia.com/gpucores",
    ignored=("nvidia.com/priority",),
)
DIALECTS: Final = (
    HAMI,
    Dialect(
        name="vgpu-manager",
        count="nvidia.com/vgpu-number",
        memory="nvidia.com/vgpu-memory",
        cores="nvidia.com/vgpu-cores",
    ),
    Dialect(
        name="Volcano",
        count="volcano.sh/vgpu-number",
        memory="volcano.sh/vgpu-memory",
        percent="volcano.sh/vgpu-memory-percentage",
        cores="volcano.sh/vgpu-cores",
    ),
    Dialect(name="NVIDIA's device plugin", count="nvidia.com/gpu.shared", shared=True),
)
MIG_PREFIX: Final = "nvidia.com/mig-"
NVIDIA_PREFIX: Final = "nvidia.com/"
_KNOWN: Final = frozenset(name for dialect in DIALECTS for name in dialect.resources)

SCHEDULERS: Final = ("hami-scheduler", "vgpu-scheduler")
RUNTIME_CLASSES: Final = ("nvidia", "nvidia-cdi", "nvidia-legacy")

USE_TYPE: Final = ("nvidia.com/use-gputype", "nvidia.com/include-gpu-type")
NOUSE_TYPE: Final = ("nvidia.com/nouse-gputype", "nvidia.com/exclude-gpu-type")
USE_UUID: Final = ("nvidia.com/use-gpuuuid", "nvidia.com/include-gpu-uuid")
NOUSE_UUID: Final = ("nvidia.com/nouse-gpuuuid", "nvidia.com/exclude-gpu-uuid")
NODE_POLICY: Final = ("hami.io/node-scheduler-policy", "nvidia.com/node-scheduler-policy")
GPU_POLICY: Final = ("hami.io/gpu-scheduler-policy", "nvidia.com/device-scheduler-policy")
NUMA_BIND: Final = "nvidia.com/numa-bind"
TOPOLOGY_MODE: Final = "nvidia.com/device-topology-mode"
MODE: Final = "nvidia.com/vgpu-mode"
COMPUTE_POLICY: Final = "nvidia.com/vgpu-compute-policy"
MEMORY_POLICY: Final = "nvidia.com/memory-scheduler-policy"
SCORING_WEIGHTS: Final = "hami.io/device-scoring-weights"
# What a scheduler writes on pods that it has placed: found in manifests that were read from a cluster.
_PLACED: Final = (
    "hami.io/bind-phase",
    "hami.io/bind-time",
    "hami.io/vgpu-devices-allocated",
    "hami.io/vgpu-devices-to-allocate",
    "hami.io/vgpu-node",
    "hami.io/vgpu-time",
    "nvidia.com/pre-allocated",
    "nvidia.com/predicate-node",
    "nvidia.com/predicate-time",
    "nvidia.com/real-allocated",
)
ANNOTATIONS: Final = frozenset(
    (
        *USE_TYPE,
        *NOUSE_TYPE,
        *USE_UUID,
        *NOUSE_UUID,
        *NODE_POLICY,
        *GPU_POLICY,
        NUMA_BIND,
        TOPOLOGY_MODE,
        MODE,
        COMPUTE_POLICY,
        MEMORY_POLICY,
        SCORING_WEIGHTS,
        *_PLACED,
    )
)
"""Annotations that mean something to those sharers only."""

_ENV_EXACT: Final = (
    "NVIDIA_VISIBLE_DEVICES",
    "CUDA_DEVICE_MEMORY_LIMIT",
    "CUDA_DEVICE_SM_LIMIT",
    "CUDA_DEVICE_MEMORY_SHARED_CACHE",
    "CUDA_OVERSUBSCRIBE",
    "CUDA_TASK_PRIORITY",
    "CUDA_DISABLE_CONTROL",
    "GPU_CORE_UTILIZATION_POLICY",
    "ACTIVE_OOM_KILLER",
    "LIBCUDA_LOG_LEVEL",
    "DISABLE_VGPU_CONTROL",
)
_ENV_PREFIXES: Final = (
    "CUDA_DEVICE_MEMORY_LIMIT_",
    "CUDA_DEVICE_SM_LIMIT_",
    "CUDA_MEM_",
    "CUDA_CORE_LIMIT",
    "CUDA_CORE_SOFT_LIMIT",
    "MANAGER_VISIBLE_DEVICE",
)
_PRELOADS: Final = ("libvgpu.so", "libvgpu-control.so")


def is_resource(name: str) -> bool:
    """Tell whether a resource is one of those sharers', MIG devices included."""
    return name in _KNOWN or name.startswith(MIG_PREFIX)


def is_strange_resource(name: str) -> bool:
    """Tell whether a resource is NVIDIA's, but not one for GPUs that is known here."""
    return name.startswith(NVIDIA_PREFIX) and not is_resource(name)


def is_environment(name: str, value: object) -> bool:
    """Tell whether an environment variable speaks to one of those sharers, or asks their runtime for GPUs."""
    if name == "LD_PRELOAD":
        return any(library in str(value) for library in _PRELOADS)
    return name in _ENV_EXACT or name.startswith(_ENV_PREFIXES)
