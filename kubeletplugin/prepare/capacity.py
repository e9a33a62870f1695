"""Does what a claim takes still fit on this node's GPUs?

The allocator has decided that it does. But two allocators may have been at work, or one with an old view, and the API
server checks no sum. The node is the last to see all of it, so it counts once more, and refuses rather than overcommit
beyond what its administrator set.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.gpu import Gpu, scaled_cores
from fracgpu.driver.quantity import format_mib
from fracgpu.kubeletplugin.errors import ClaimRefused
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, Checkpoint, ClaimEntry, EntryState
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.state_locks import processes


@dataclass(frozen=True, slots=True)
class _Total:
    """Amounts on one GPU: memory in bytes, cores in percent, slots in sharers."""

    memory_bytes: int
    cores: int
    slots: int

    @classmethod
    def of(cls, records: Iterable[AllocationRecord], gpu_uuid: str) -> "_Total":
        # Admin access needs no exception here: its amounts are zero.
        counted = [record for record in records if record.gpu_uuid == gpu_uuid]
        return cls(
            sum(record.memory_bytes for record in counted),
            sum(record.cores for record in counted),
            sum(record.slots for record in counted),
        )


def check_capacity(
    ref: ClaimRef,
    records: tuple[AllocationRecord, ...],
    gpus: Iterable[Gpu],
    *,
    options: PluginOptions,
    checkpoint: Checkpoint,
    users: Mapping[str, int],
) -> None:
    """Raise ClaimRefused, with the numbers, unless `records` fit beside all other claims.

    Claims in preparation count, and so do claims that were taken back but are still in use: `users` has their numbers
    of processes by claim UID. A GPU has its physical memory times the memory scale, 100 cores times the cores scale,
    and the slots of the options.
    """
    entries = [entry for entry in checkpoint.entries.values() if entry.claim_uid != ref.uid]
    others = [record for entry in entries for record in entry.allocations]
    for gpu in gpus:
        asked = _Total.of(records, gpu.uuid)
        if asked == _Total(0, 0, 0):
            continue
        limit = _Total(gpu.scaled_memory_bytes(options.memory_scale), scaled_cores(options.cores_scale), options.slots)
        held = _still_in_use(entries, gpu.uuid, users)
        _compare(f"{ref} device {gpu.device_name}", asked, _Total.of(others, gpu.uuid), limit, held)


def _still_in_use(entries: Iterable[ClaimEntry], gpu_uuid: str, users: Mapping[str, int]) -> str:
    claims = [
        f"{entry.namespace}/{entry.name} ({processes(users.get(entry.claim_uid, 0))})"
        for entry in entries
        if entry.state is EntryState.RELEASING and gpu_uuid in entry.gpu_uuids
    ]
    return ", ".join(claims)


def _compare(subject: str, asked: _Total, given: _Total, limit: _Total, held: str) -> None:
    checks = (
        ("memory", ReasonCode.CARD_INSUFFICIENT_MEMORY, asked.memory_bytes, given.memory_bytes, limit.memory_bytes),
        ("cores", ReasonCode.CARD_INSUFFICIENT_CORE, asked.cores, given.cores, limit.cores),
        ("slots", ReasonCode.CARD_TIME_SLICING_EXHAUSTED, asked.slots, given.slots, limit.slots),
    )
    for name, code, need, used, most in checks:
        if need and used + need > most:
            show = format_mib if name == "memory" else str
            numbers = f"{code} (need {show(need)} {name}, free {show(max(0, most - used))} of {show(most)})"
            if held:
                raise ClaimRefused(
                    subject,
                    f"{numbers}; claims that were taken back are still in use: {held}",
                    code=code,
                    remedy="it is tried again; if those processes do not end by themselves, end them",
                )
            raise ClaimRefused(
                subject,
                numbers,
                code=code,
                remedy="delete the claim so that it is allocated again, and see that only one allocator uses this GPU",
            )
