"""What a lab can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fracgpu.sim.node.runtime import CdiResolver
from fracgpu.sim.node.timings import Timings

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model GPU: product name, memory in MiB, compute capability."""

    product_name: str = "NVIDIA L40S (model)"
    memory_mib: int = 49140
    compute_capability: str = "8.9"


def _read_cdi_as_written(directories: Sequence[Path]) -> CdiResolver:
    # Imported late: options are needed where the node is not.
    from fracgpu.sim.node.cdi_registry import CdiRegistry

    return CdiRegistry(directories)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabOptions:
    """One embedded cluster with one node.

    ``cards`` are its GPUs, ``allocator`` is who gives them to claims: fracgpu's controller or kube-scheduler.
    ``fallback`` forces containers without namespaces. ``plugin`` False leaves the driver's plugin out, ``controller``
    False its controller. ``cdi`` makes the container runtime's reader of CDI files: a test that must prove that the lab
    can fail passes one that loses something. ``deadline_s`` bounds every single wait. ``base_dir`` is where the
    temporary directory goes (default: the first place that may hold libraries).
    """

    cards: tuple[Card, ...] = (Card(),)
    node_name: str = "lab-node"
    allocator: Literal["controller", "scheduler"] = "controller"
    fallback: bool = False
    plugin: bool = True
    controller: bool = True
    cdi: Callable[[Sequence[Path]], CdiResolver] = _read_cdi_as_written
    timings: Timings = field(default_factory=Timings)
    deadline_s: float = 60.0
    base_dir: Path | None = None
    log_level: str = "info"
