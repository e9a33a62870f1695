"""Every verdict and its reason, by tables; and what must hold for any evidence."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, ClaimEntry, EntryState
from fracgpu.kubeletplugin.proof.evidence import AllocationEvidence, FileTrouble, ProcessEvidence, Trouble
from fracgpu.kubeletplugin.proof.observation import Truth
from fracgpu.kubeletplugin.proof.verdict import driver_bytes, enforced, suspicions, within_limit
from fracgpu.kubeletplugin.proof.verdict_mounts import Replaced
from fracgpu.kubeletplugin.proof.verdict_node import compatible, prepared
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
UNLIMITED = replace(RECORD, limited=False, admin=True)
MISSING = FileTrouble(Trouble.MISSING, "is not there")
DAMAGED = FileTrouble(Trouble.DAMAGED, "is 3 bytes long")
UNREADABLE = FileTrouble(Trouble.UNREADABLE, "can not be read: Input/output error")
NEWER = FileTrouble(Trouble.OTHER_VERSION, "ABI version 2, expected 1")

# Evidence; truth and reason when it is seen for the first time, and when it is seen again; a part of the message.
ENFORCED: dict[str, tuple[AllocationEvidence, str, str, str]] = {
    "no process": (evidence(), "Unknown/NoProcess", "Unknown/NoProcess", "no process of the claim"),
    "attached": (evidence(process()), "True/InterceptorAttached", "True/InterceptorAttached", "memory limit 8192Mi"),
    "two": (evidence(process(), process(2)), "True/InterceptorAttached", "True/InterceptorAttached", "2 processes"),
    "admin": (evidence(process(), record=UNLIMITED), "True/NoLimit", "True/NoLimit", "no limit to enforce"),
    "replaced": (
        evidence(process(replaced=REPLACED)),
        "Unknown/NoProcess",
        "False/LibraryReplaced",
        "process 4711 (python) uses a driver library without limits: at /usr/lib64/libcuda.so.1 lies /x/libcuda.so of",
    ),
    "admin replaced": (
        evidence(process(replaced=REPLACED), record=UNLIMITED),
        "Unknown/NoProcess",
        "False/LibraryReplaced",
        "/usr/lib64/libcuda.so.1",
    ),
    "no slot": (
        evidence(process(has_slot=False)),
        "Unknown/NoProcess",
        "False/LibraryNotLoaded",
        "process 4711 (python) uses the GPU without the interceptor",
    ),
    "one of three without slot": (
        evidence(process(1), process(2, has_slot=False, command="cat"), process(3)),
        "True/InterceptorAttached",
        "False/LibraryNotLoaded",
        "process 2 (cat), one of 3, uses the GPU without the interceptor",
    ),
    "two of three without slot": (
        evidence(process(1), process(2, has_slot=False), process(3, has_slot=False)),
        "True/InterceptorAttached",
        "False/LibraryNotLoaded",
        "2 of 3 processes, among them process 2 (python), use the GPU",
    ),
    "replaced comes before no slot": (
        evidence(process(1, has_slot=False), process(2, replaced=REPLACED)),
        "Unknown/NoProcess",
        "False/LibraryReplaced",
        "process 2 (python), one of 2, uses a driver library",
    ),
    "damaged": (
        evidence(account=DAMAGED),
        "Unknown/NoProcess",
        "False/AccountDamaged",
        "the state file is 3 bytes long",
    ),
    "taken away": (
        evidence(process(), account=MISSING),
        "Unknown/NoProcess",
        "False/AccountDamaged",
        "is not there",
    ),
    "rebooted": (evidence(account=MISSING), "Unknown/NoProcess", "Unknown/NoProcess", "no process"),
    "unreadable": (
        evidence(process(), account=UNREADABLE),
        "Unknown/AccountUnreadable",
        "Unknown/AccountUnreadable",
        "Input/output error",
    ),
    "of a newer plugin": (
        evidence(process(), account=NEWER),
        "Unknown/AccountUnreadable",
        "Unknown/AccountUnreadable",
        "ABI version 2",
    ),
    "silent": (
        evidence(silent="fell off the bus"),
        "Unknown/DriverSilent",
        "Unknown/DriverSilent",
        f"GPU {UUID}: fell off the bus",
    ),
    "hidden": (
        evidence(process(), hidden_pids=(99, 12)),
        "True/InterceptorAttached",
        "Unknown/ProcessNotVisible",
        "(PID 12, 99): run it with hostPID",
    ),
    "hidden and bypassed": (
        evidence(process(has_slot=False), hidden_pids=(99,)),
        "Unknown/NoProcess",
        "False/LibraryNotLoaded",
        "process 4711",
    ),
    "in use, but none listed": (
        evidence(account=account(GIB)),
        "Unknown/NoProcess",
        "Unknown/ProcessNotVisible",
        "1 processes hold 1024Mi by their account, but the driver lists none",
    ),
}


@pytest.mark.parametrize(("found", "first", "second", "text"), ENFORCED.values(), ids=ENFORCED)
def test_enforced(found: AllocationEvidence, first: str, second: str, text: str) -> None:
    one = enforced(found, frozenset())
    assert f"{one.truth}/{one.reason}" == first
    two = enforced(found, suspicions(found))
    assert f"{two.truth}/{two.reason}" == second
    assert text in two.message


def test_what_another_process_did_before_is_not_held_against_a_new_one() -> None:
    before = suspicions(evidence(process(start_time_ticks=1, has_slot=False)))
    assert enforced(evidence(process(start_time_ticks=2, has_slot=False)), before).reason == "NoProcess"
    assert enforced(evidence(process(2, start_time_ticks=1, has_slot=False)), before).reason == "NoProcess"


WITHIN: dict[str, tuple[AllocationEvidence, str, str, str]] = {
    "nothing used": (evidence(), "True/WithinLimit", "True/WithinLimit", "0Mi of 8192Mi"),
    "all used": (evidence(account=account(8 * GIB)), "True/WithinLimit", "True/WithinLimit", "8192Mi of 8192Mi"),
    "more": (evidence(account=account(9 * GIB)), "True/WithinLimit", "False/OverLimit", "9216Mi is charged, the limit"),
    "no limit": (
        evidence(account=account(9 * GIB), record=UNLIMITED),
        "True/NoLimit",
        "True/NoLimit",
        "9216Mi is charged, and there is no limit",
    ),
    "contexts are not charged": (
        evidence(process(driver_bytes=9 * GIB), account=account(8 * GIB)),
        "True/WithinLimit",
        "True/WithinLimit",
        "8192Mi of",
    ),
    "past the interceptor": (
        evidence(process(driver_bytes=9 * GIB + 1)),
        "True/WithinLimit",
        "False/OverLimit",
        "the driver counts 9216Mi for the claim's processes, the limit is 8192Mi",
    ),
    "two processes may have two contexts": (
        evidence(process(1, driver_bytes=5 * GIB), process(2, driver_bytes=5 * GIB)),
        "True/WithinLimit",
        "True/WithinLimit",
        "",
    ),
    "a process of two allocations": (
        evidence(process(driver_bytes=20 * GIB, sole=False)),
        "True/WithinLimit",
        "True/WithinLimit",
        "",
    ),
    "no limit, whatever the driver counts": (
        evidence(process(driver_bytes=40 * GIB), record=UNLIMITED),
        "True/NoLimit",
        "True/NoLimit",
        "",
    ),
    "missing": (evidence(account=MISSING), "Unknown/FilesMissing", "Unknown/FilesMissing", "is not there"),
    "unreadable": (
        evidence(account=UNREADABLE),
        "Unknown/AccountUnreadable",
        "Unknown/AccountUnreadable",
        "Input/output",
    ),
    "damaged, but the driver knows": (
        evidence(process(driver_bytes=20 * GIB), account=DAMAGED),
        "Unknown/AccountUnreadable",
        "False/OverLimit",
        "past the interceptor",
    ),
}


@pytest.mark.parametrize(("found", "first", "second", "text"), WITHIN.values(), ids=WITHIN)
def test_within_limit(found: AllocationEvidence, first: str, second: str, text: str) -> None:
    one, two = within_limit(found, frozenset()), within_limit(found, suspicions(found))
    assert (f"{one.truth}/{one.reason}", f"{two.truth}/{two.reason}") == (first, second)
    assert text in two.message


def state(value: EntryState) -> ClaimEntry:
    return replace(ENTRY, state=value)


PREPARED = {
    "prepared": (evidence(), "True/Prepared", "are on the node"),
    "preparing": (evidence(entry=state(EntryState.PREPARING)), "False/Preparing", "is being prepared"),
    "releasing": (evidence(entry=state(EntryState.RELEASING)), "False/Releasing", "the last process"),
    "rebooted": (
        evidence(account=MISSING, page=MISSING, spec_present=False),
        "False/FilesMissing",
        "config page, state file, CDI spec;",
    ),
    "no spec": (evidence(spec_present=False), "False/FilesMissing", "not on the node: CDI spec;"),
    "damaged is there": (evidence(account=DAMAGED), "True/Prepared", ""),
}


@pytest.mark.parametrize(("found", "verdict", "text"), PREPARED.values(), ids=PREPARED)
def test_prepared(found: AllocationEvidence, verdict: str, text: str) -> None:
    finding = prepared(found)
    assert f"{finding.truth}/{finding.reason}" == verdict
    assert text in finding.message


COMPATIBLE = {
    "compatible": (evidence(), "True/Compatible", "interceptor dddddddddddd, ABI version 1"),
    "no library": (evidence(library_present=False), "False/LibraryMissing", "dddddddddddd is not on this node"),
    "no page": (evidence(page=MISSING), "Unknown/FilesMissing", "is not there"),
    "broken page": (evidence(page=DAMAGED), "False/ConfigPageInvalid", "3 bytes"),
    "page unreadable": (evidence(page=UNREADABLE), "Unknown/ConfigPageUnreadable", "Input/output"),
    "newer page": (evidence(page=NEWER), "False/VersionMismatch", "config page ABI version 2"),
    "newer account": (evidence(account=NEWER), "False/VersionMismatch", "state file ABI version 2"),
    "another limit": (
        evidence(page=replace(PAGE, memory_limit_bytes=9 * GIB)),
        "False/ConfigPageDiffers",
        "states other limits",
    ),
    "limit lost": (evidence(page=replace(PAGE, memory_limit_bytes=None)), "False/ConfigPageDiffers", ""),
    "another GPU": (evidence(page=replace(PAGE, device_uuid=UUID[:-1] + "6")), "False/ConfigPageDiffers", ""),
    "none, as it should be": (
        evidence(page=replace(PAGE, memory_limit_bytes=None), record=UNLIMITED),
        "True/Compatible",
        "",
    ),
}


@pytest.mark.parametrize(("found", "verdict", "text"), COMPATIBLE.values(), ids=COMPATIBLE)
def test_compatible(found: AllocationEvidence, verdict: str, text: str) -> None:
    finding = compatible(found)
    assert f"{finding.truth}/{finding.reason}" == verdict
    assert text in finding.message


PROCESSES = st.builds(
    process,
    st.integers(1, 5),
    start_time_ticks=st.integers(0, 3),
    replaced=st.sampled_from([None, REPLACED]),
    has_slot=st.booleans(),
    driver_bytes=st.none() | st.integers(0, 20 * GIB),
    sole=st.booleans(),
)
ACCOUNTS = st.sampled_from([MISSING, DAMAGED, UNREADABLE, NEWER]) | st.integers(0, 20 * GIB).map(account)
EVIDENCE = st.builds(
    lambda processes, **rest: evidence(*processes, **rest),
    st.lists(PROCESSES, max_size=4, unique_by=lambda one: one.pid),
    hidden_pids=st.lists(st.integers(50, 60), max_size=2, unique=True).map(tuple),
    silent=st.sampled_from([None, "fell off the bus"]),
    account=ACCOUNTS,
    record=st.sampled_from([RECORD, UNLIMITED]),
)


@given(EVIDENCE, EVIDENCE)
def test_whatever_is_seen(before: AllocationEvidence, now: AllocationEvidence) -> None:
    """A first sight is never a False; a True needs a process that is all right, and none that was wrong twice."""
    assert enforced(now, frozenset()).truth is not Truth.FALSE
    assert within_limit(now, frozenset()).truth is not Truth.FALSE
    finding = enforced(now, suspicions(before))
    again = enforced(now, suspicions(now))
    good = [one for one in now.processes if one.has_slot and one.replaced is None]
    if Truth.TRUE in (finding.truth, again.truth):
        assert good
        assert now.silent is None
        assert isinstance(now.account, StateSnapshot)
    if len(good) < len(now.processes) and isinstance(now.account, StateSnapshot):
        assert again.truth is Truth.FALSE
    if now.hidden_pids:
        assert again.truth is not Truth.TRUE
    confirmed = suspicions(before) & suspicions(now)
    if finding.truth is Truth.FALSE:
        assert {kind for kind, *_ in confirmed} & {"replaced", "slotless", "damaged"}


@given(EVIDENCE)
def test_the_drivers_count_is_whole_or_nothing(found: AllocationEvidence) -> None:
    counted = driver_bytes(found)
    whole = all(one.sole and one.driver_bytes is not None for one in found.processes)
    assert (counted is not None) == (whole and found.silent is None)
    if counted is not None:
        assert counted == sum(one.driver_bytes or 0 for one in found.processes)
