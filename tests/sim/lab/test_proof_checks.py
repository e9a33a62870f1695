"""The checks of what claims say: each of them fails when the claim says something else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from fracgpu.sim.lab.evidence import Evidence
from fracgpu.sim.lab.options import MIB
from fracgpu.sim.lab.proof_checks import CONDITIONS, PodView, check_enforced, check_not_claimed, our_entry

Json = dict[str, Any]
VIEW = PodView(total_bytes=8000 * MIB, used_bytes=7936 * MIB, gpu_uuid="GPU-1")


def make_entry() -> Json:
    conditions = [
        {"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind in CONDITIONS
    ]
    data: Json = {
        "backend": "interceptor",
        "libraryDigest": "ab" * 32,
        "memoryLimitBytes": 8000 * MIB,
        "memoryUsedBytes": 7936 * MIB,
        "memoryPeakBytes": 7936 * MIB,
        "coresPercent": 25,
        "refusals": 1,
        "processes": 1,
        "gpuUUID": "GPU-1",
        "observedAt": "2026-01-01T00:00:00Z",
    }
    return {"driver": "gpu.fracgpu.dev", "conditions": conditions, "data": data}


def failed(entry: Json, view: PodView = VIEW) -> list[str]:
    evidence = Evidence()
    check_enforced(evidence, "a", entry, view)
    return [check.expected.removeprefix("a: ") for check in evidence.checks if not check.held]


def test_the_truth_passes() -> None:
    assert failed(make_entry()) == []


def test_less_in_use_when_it_was_written_passes_too() -> None:
    entry = make_entry()
    entry["data"]["memoryUsedBytes"] = 256 * MIB
    assert failed(entry) == []


@pytest.mark.parametrize("kind", CONDITIONS)
@pytest.mark.parametrize("status", ["False", "Unknown", None])
def test_every_condition_is_needed(kind: str, status: str | None) -> None:
    entry = make_entry()
    if status is None:
        entry["conditions"] = [one for one in entry["conditions"] if one["type"] != kind]
    for one in entry["conditions"]:
        if one["type"] == kind:
            one["status"] = status
    assert failed(entry) == [f"its claim says {kind}"]


@pytest.mark.parametrize("key", sorted(make_entry()["data"]))
def test_every_datum_is_needed(key: str) -> None:
    entry = make_entry()
    del entry["data"][key]
    assert "its claim carries the data" in failed(entry)
    entry["data"][key] = True
    assert "its claim carries the data" in failed(entry)


def data(**changes: Any) -> Callable[[Json], None]:
    return lambda entry: entry["data"].update(changes)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (data(memoryLimitBytes=49140 * MIB), "claim and pod agree on limit and GPU"),
        (data(gpuUUID="GPU-2"), "claim and pod agree on limit and GPU"),
        (data(memoryUsedBytes=0), "the claim says what the pod uses"),
        (data(memoryUsedBytes=7937 * MIB), "the claim says what the pod uses"),
        (data(processes=0), "the claim says what the pod uses"),
    ],
    ids=["limit", "gpu", "nothing used", "more than there is", "no process"],
)
def test_numbers_that_are_not_the_pods_fail(spoil: Callable[[Json], None], expected: str) -> None:
    entry = make_entry()
    spoil(entry)
    assert failed(entry) == [expected]


def test_a_claim_that_says_nothing_fails_in_everything() -> None:
    assert len(failed({})) == len(CONDITIONS) + 3


def test_a_pod_that_sees_more_than_its_limit_fails() -> None:
    view = PodView(total_bytes=8000 * MIB, used_bytes=8001 * MIB, gpu_uuid="GPU-1")
    assert failed(make_entry(), view) == ["the claim says what the pod uses"]


@pytest.mark.parametrize(("status", "held"), [("False", True), ("Unknown", True), ("True", False), (None, False)])
def test_without_mounts_enforcement_must_not_be_asserted(status: str | None, held: bool) -> None:
    entry = make_entry()
    entry["conditions"] = [one | {"status": status} for one in entry["conditions"] if status]
    evidence = Evidence()
    check_not_claimed(evidence, "a", entry)
    assert [check.held for check in evidence.checks] == [held]


def test_an_answer_without_an_explanation_is_none() -> None:
    entry = make_entry()
    for one in entry["conditions"]:
        one |= {"status": "Unknown", "message": ""}
    evidence = Evidence()
    check_not_claimed(evidence, "a", entry)
    assert not evidence.passed


def test_our_entry_is_that_of_our_driver() -> None:
    ours = make_entry()
    other = copy.deepcopy(ours) | {"driver": "other.example.com"}
    assert our_entry({"status": {"devices": [other, ours]}}) is ours
    assert our_entry({"status": {"devices": [other]}}) is None
    assert our_entry({}) is None
