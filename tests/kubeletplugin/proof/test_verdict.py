"""Every verdict about processes and its reason, by tables; and what must hold for any evidence."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.kubeletplugin.proof.evidence import AllocationEvidence
from fracgpu.kubeletplugin.proof.observation import Truth
from fracgpu.kubeletplugin.proof.verdict import driver_bytes, enforced, suspicions, within_limit
from fracgpu.native.state_file import StateSnapshot
from tests.kubeletplugin.proof.verdict_setting import (
    DAMAGED,
    FORGED,
    GIB,
    MISSING,
    NEWER,
    PAGE,
    RECORD,
    REPLACED,
    UNLIMITED,
    UNREADABLE,
    UUID,
    account,
    evidence,
    process,
)

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
        "(PID 12, 99): run the plugin with hostPID",
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
        "1 processes hold 1024Mi by their account, but the driver lists none of them: run the plugin with hostPID",
    ),
    "hidden from a plugin that is where it should be": (
        evidence(hidden_pids=(99,), sees_all=True),
        "Unknown/NoProcess",
        "Unknown/ProcessNotVisible",
        "(PID 99): the plugin is in the host's PID namespace, so",
    ),
    "in use, and listed, but whose": (
        evidence(account=account(GIB), unattributed_pids=(12, 13)),
        "Unknown/NoProcess",
        "Unknown/ProcessNotAttributed",
        "1 processes hold 1024Mi by their account, and are on the GPU (PID 12, 13), but without the claim's files",
    ),
    "too many mounts": (
        evidence(process(1), process(2, mounts_read=False)),
        "True/InterceptorAttached",
        "Unknown/MountsUnreadable",
        "process 2 (python) has too many mounts to check",
    ),
    "too many mounts, alone": (
        evidence(process(mounts_read=False)),
        "Unknown/NoProcess",
        "Unknown/MountsUnreadable",
        "process 4711",
    ),
    "too many mounts and no slot": (
        evidence(process(2, mounts_read=False, has_slot=False)),
        "Unknown/NoProcess",
        "False/LibraryNotLoaded",
        "process 2",
    ),
    "a page of its own": (
        evidence(process(replaced=FORGED)),
        "Unknown/NoProcess",
        "False/ConfigPageReplaced",
        "process 4711 (python) uses a page of limits that the plugin did not make: at /run/fracgpu/allocations/z/co",
    ),
    "a name for terminals": (
        evidence(process(replaced=replace(REPLACED, found="/x\n\x1b[2Jno"))),
        "Unknown/NoProcess",
        "False/LibraryReplaced",
        "lies /x??[2Jno",
    ),
    "a page that gives more": (
        evidence(process(), page=replace(PAGE, memory_limit_bytes=9 * GIB)),
        "True/InterceptorAttached",
        "False/LimitDiffers",
        "gives more than the limit 8192Mi",
    ),
    "a page without a limit": (
        evidence(process(), page=replace(PAGE, memory_limit_bytes=None)),
        "True/InterceptorAttached",
        "False/LimitDiffers",
        "gives more",
    ),
    "a page that only observes": (
        evidence(process(), page=replace(PAGE, observe=True)),
        "True/InterceptorAttached",
        "False/LimitDiffers",
        "gives more",
    ),
    "a page that gives less": (
        evidence(process(), page=replace(PAGE, memory_limit_bytes=GIB)),
        "True/InterceptorAttached",
        "True/InterceptorAttached",
        "",
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


@pytest.mark.parametrize("wrong", [{"has_slot": False}, {"replaced": REPLACED}, {"mounts_read": False}])
def test_nobody_gets_away_by_starting_anew_each_second(wrong: dict[str, Any]) -> None:
    good = process(1)
    before: frozenset[Any] = frozenset()
    told = []
    # The fourth look finds nobody, so the counting begins again.
    for pid in (10, 11, 12, None, 13, 14, 15, 16):
        seen = evidence(good, process(pid, **wrong)) if pid else evidence(good)
        told.append(str(enforced(seen, before).truth))
        before = suspicions(seen, before)
    bad = "Unknown" if "mounts_read" in wrong else "False"
    assert told == ["True", "True", bad, "True", "True", "True", bad, bad]


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
    "lowered": (
        evidence(process(), account=account(GIB), page=replace(PAGE, memory_limit_bytes=2 * GIB)),
        "True/WithinLimit",
        "True/WithinLimit",
        "1024Mi of 2048Mi is charged",
    ),
    "lowered below use": (
        evidence(process(), account=account(3 * GIB), page=replace(PAGE, memory_limit_bytes=2 * GIB)),
        "False/LimitLowered",
        "False/LimitLowered",
        "the limit was lowered from 8192Mi to 2048Mi: nothing is taken away",
    ),
    "a page that gives more is not believed": (
        evidence(process(), account=account(GIB), page=replace(PAGE, memory_limit_bytes=20 * GIB)),
        "True/WithinLimit",
        "True/WithinLimit",
        "1024Mi of 8192Mi is charged",
    ),
}


@pytest.mark.parametrize(("found", "first", "second", "text"), WITHIN.values(), ids=WITHIN)
def test_within_limit(found: AllocationEvidence, first: str, second: str, text: str) -> None:
    one, two = within_limit(found, frozenset()), within_limit(found, suspicions(found))
    assert (f"{one.truth}/{one.reason}", f"{two.truth}/{two.reason}") == (first, second)
    assert text in two.message


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
