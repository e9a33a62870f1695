"""What the driver counts on a GPU: processes and memory, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with a context on a GPU: host PID, memory in bytes (None: the driver does not say)."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of a whole GPU in bytes, the driver's own reservation within `used`; zeros when the driver cannot say."""

    total: int
    used: int
    free: int
