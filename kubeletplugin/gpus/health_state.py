"""What is held to be true of the GPUs, given what one look after another saw.

Pure. One odd look must not taint a GPU, because every change of the slice wakes all schedulers, and must not lift a
taint either. So a verdict changes only after several looks in a row that contradict it: an intermittent GPU keeps the
verdict that it has. When the driver as a whole does not answer, nothing is known about any GPU; that is said, and what
is published stays as it was.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import GpuUuid

LOST_AFTER_LOOKS: Final = 2
BACK_AFTER_LOOKS: Final = 3
SILENT_AFTER_LOOKS: Final = 2


class Health(IntEnum):
    """Health of a device, with the numbers of the kubelet's DRAResourceHealth service."""

    UNKNOWN = 0
    HEALTHY = 1
    UNHEALTHY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """One GPU: as it was described last, whether it is held to answer, how many looks in a row said otherwise."""

    gpu: Gpu
    answering: bool
    contrary_looks: int = 0

    @property
    def published(self) -> Gpu:
        """The GPU as the slice shows it."""
        return replace(self.gpu, healthy=self.answering)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    """All GPUs that were ever seen. `silence` says why the driver does not answer, empty when it does.

    `looked_at` is the time of the last look in Unix seconds, 0 before the first; `answered` says that the driver has
    ever listed its GPUs, also if there are none.
    """

    states: Mapping[GpuUuid, GpuState] = field(default_factory=dict)
    silent_looks: int = 0
    silence: str = ""
    looked_at: float = 0.0
    answered: bool = False

    @property
    def silent(self) -> bool:
        """Whether the driver has been silent for so long that nothing is known about the GPUs."""
        return self.silent_looks >= SILENT_AFTER_LOOKS

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs to publish, by index."""
        published = (state.published for state in self.states.values())
        return tuple(sorted(published, key=lambda gpu: (gpu.index, gpu.uuid)))

    def health(self, uuid: GpuUuid) -> Health:
        """Return the verdict about one GPU. Raises KeyError for one that was never seen."""
        if self.silent:
            return Health.UNKNOWN
        return Health.HEALTHY if self.states[uuid].answering else Health.UNHEALTHY

    def says_the_same(self, other: "NodeHealth") -> bool:
        """Whether a reader of slice and health stream would see no difference, times and counts aside."""
        return self.gpus == other.gpus and (self.silent, self.silence * self.silent) == (
            other.silent,
            other.silence * other.silent,
        )


def after_look(before: NodeHealth, seen: Iterable[Gpu], *, now: float) -> NodeHealth:
    """Return what is held to be true after the driver has listed `seen`.

    A GPU that is known and not listed counts as not answering: running allocations still refer to it.
    """
    listed = {gpu.uuid: gpu for gpu in seen}
    states = {uuid: _judged(before.states.get(uuid), gpu) for uuid, gpu in listed.items()}
    for uuid, state in before.states.items():
        if uuid not in listed:
            states[uuid] = _judged(state, replace(state.gpu, healthy=False))
    return NodeHealth(states=states, looked_at=now, answered=True)


def after_silence(before: NodeHealth, why: str, *, now: float) -> NodeHealth:
    """Return what is held to be true after the driver gave no answer, for the reason `why`."""
    return replace(before, silent_looks=before.silent_looks + 1, silence=why, looked_at=now)


def _judged(before: GpuState | None, gpu: Gpu) -> GpuState:
    if before is None:
        return GpuState(gpu=gpu, answering=gpu.healthy)
    described = gpu if gpu.healthy else before.gpu
    if gpu.healthy == before.answering:
        return GpuState(gpu=described, answering=before.answering)
    looks = before.contrary_looks + 1
    if looks < (BACK_AFTER_LOOKS if gpu.healthy else LOST_AFTER_LOOKS):
        return GpuState(gpu=described, answering=before.answering, contrary_looks=looks)
    return GpuState(gpu=described, answering=gpu.healthy)
