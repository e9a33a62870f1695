"""What was seen of the allocations and GPUs of this node at one moment, as plain values.

The observer makes them, status on the claim and metrics tell of them; so both say the same.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from fracgpu.driver.usage import GpuMemory
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord
from fracgpu.kubeletplugin.prepare.claim import ClaimRef


class Truth(StrEnum):
    """Status of a Kubernetes condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition: status, a CamelCase reason that never changes its meaning, and a sentence with the numbers."""

    truth: Truth
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationObservation:
    """One allocation. Amounts are bytes, None where the state file can not be read.

    `processes` counts those of its containers that the driver lists on the GPU; `driver_bytes` is what the driver
    counts for them, contexts included, None where it does not say or can not tell this allocation from another.
    `memory_limit_bytes` is what holds now, by the config page; `suspended` says whether new work has to wait.
    `host_pinned_bytes` is memory of the host that they pinned, which no limit is set for.
    """

    claim: ClaimRef
    record: AllocationRecord
    library_digest: str
    prepared: Finding
    enforced: Finding
    within_limit: Finding
    compatible: Finding
    used_bytes: int | None
    peak_bytes: int | None
    refusals: int | None
    processes: int
    observed_at: datetime
    driver_bytes: int | None = None
    memory_limit_bytes: int | None = None
    suspended: bool = False
    host_pinned_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuObservation:
    """One GPU: whether it answers, its memory, and how many processes on it belong to no allocation of ours.

    `hidden_processes` are those that the plugin can not see, because it runs in a PID namespace of its own or they are
    just ending: nobody knows whose they are.
    """

    gpu_uuid: str
    healthy: bool
    memory: GpuMemory
    foreign_processes: int
    hidden_processes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeObservation:
    """All allocations and GPUs of this node, seen together."""

    allocations: tuple[AllocationObservation, ...]
    gpus: tuple[GpuObservation, ...]
