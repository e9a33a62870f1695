"""Every verdict about what the node has of an allocation, by tables."""

from dataclasses import replace

import pytest

from fracgpu.kubeletplugin.prepare.checkpoint import ClaimEntry, EntryState
from fracgpu.kubeletplugin.proof.evidence import AllocationEvidence
from fracgpu.kubeletplugin.proof.verdict_node import compatible, prepared
from tests.kubeletplugin.proof.verdict_setting import (
    DAMAGED,
    ENTRY,
    GIB,
    MISSING,
    NEWER,
    PAGE,
    UNLIMITED,
    UNREADABLE,
    UUID,
    evidence,
)


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
    "a lowered limit": (evidence(page=replace(PAGE, memory_limit_bytes=GIB, suspend=True)), "True/Compatible", ""),
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
