"""Evidence about one allocation, sound unless a test says otherwise."""

from dataclasses import replace
from typing import Any

from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, ClaimEntry, EntryState
from fracgpu.kubeletplugin.proof.evidence import AllocationEvidence, FileTrouble, ProcessEvidence, Trouble
from fracgpu.kubeletplugin.proof.verdict_mounts import Replaced
from fracgpu.native.config_page import ConfigPage
from fracgpu.native.state_file import SlotSnapshot, StateSnapshot

GIB = 1 << 30
UUID = "GPU-11111111-2222-3333-4444-555555555555"
RECORD = AllocationRecord(
    allocation_id="u-gpu-gpu-11111111-0",
    index=0,
    request="gpu",
    pool="n1",
    device="gpu-11111111",
    gpu_uuid=UUID,
    share_id=None,
    memory_bytes=8 * GIB,
    cores=30,
    slots=1,
    limited=True,
    admin=False,
)
ENTRY = ClaimEntry(
    claim_uid="u",
    namespace="ns",
    name="c1",
    state=EntryState.PREPARED,
    library_digest="d" * 64,
    allocations=(RECORD,),
)
PAGE = ConfigPage(allocation_id=RECORD.allocation_id, device_uuid=UUID, memory_limit_bytes=8 * GIB, cores_percent=30)
SLOT = SlotSnapshot(
    index=0,
    pid=7,
    start_time_ticks=100,
    pid_namespace_inode=1,
    generation=1,
    committed_bytes=0,
    pending_bytes=0,
    overhead_bytes=0,
    pool_bytes=0,
    managed_bytes=0,
    host_pinned_bytes=0,
)


def account(used: int = 0) -> StateSnapshot:
    return StateSnapshot(
        device_uuid=UUID,
        used_bytes=used,
        peak_bytes=used,
        refusals=0,
        last_refusal_ns=0,
        last_refused_bytes=0,
        reaped_slots=0,
        slot_count=1024,
        slots_used=1,
        processes=(SLOT,),
    )


def process(pid: int = 4711, **changes: Any) -> ProcessEvidence:
    fields: dict[str, Any] = {
        "pid": pid,
        "command": "python",
        "start_time_ticks": 100,
        "replaced": None,
        "has_slot": True,
        "driver_bytes": GIB,
    }
    return ProcessEvidence(**fields | changes)


def evidence(*processes: ProcessEvidence, **changes: Any) -> AllocationEvidence:
    fields: dict[str, Any] = {
        "entry": ENTRY,
        "record": RECORD,
        "processes": processes,
        "hidden_pids": (),
        "silent": None,
        "account": account(),
        "page": PAGE,
        "spec_present": True,
        "library_present": True,
    }
    return AllocationEvidence(**fields | changes)


REPLACED = Replaced("/usr/lib64/libcuda.so.1", "/x/libcuda.so of device 8:1 (ext4)")
FORGED = Replaced("/run/fracgpu/allocations/z/config", "the image's own file, or none", is_page=True)
UNLIMITED = replace(RECORD, limited=False, admin=True)
MISSING = FileTrouble(Trouble.MISSING, "is not there")
DAMAGED = FileTrouble(Trouble.DAMAGED, "is 3 bytes long")
UNREADABLE = FileTrouble(Trouble.UNREADABLE, "can not be read: Input/output error")
NEWER = FileTrouble(Trouble.OTHER_VERSION, "ABI version 2, expected 1")
