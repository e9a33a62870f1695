"""Which allocations are taken back, and which never: moves, orphans, and what kube-scheduler takes back itself."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.driver.kube.errors import Conflict, Unavailable
from tests.controller.allocator.small_cluster import SmallCluster

Json = dict[str, Any]
UNSCHEDULABLE = "ClaimUnschedulable"
SILENCE = Unavailable("api", "silent", remedy="r")


@pytest.fixture
def small() -> SmallCluster:
    """A pod `early` with claim `a` on n1; n2 would have room for `a` and `b` together."""
    small = SmallCluster()
    small.node("n1", 8)
    small.claim("a", "6Gi")
    small.pod("early", "a")
    small.settle()
    assert small.place_of("a") == "n1/gpu-00000000"
    small.node("n2", 8, 8)
    small.claim("b", "6Gi")
    return small


def end(small: SmallCluster, pod: str) -> None:
    small.store.delete("pods", small.store.get("pods", "default", pod))


def quota(small: SmallCluster, memory: str) -> None:
    spec = {"hard": {"memory": memory}}
    meta = {"name": "team", "namespace": "default", "generation": 1}
    kind = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionQuota"}
    small.store.create("fractionquotas", {**kind, "metadata": meta, "spec": spec})


def test_what_a_consumer_that_is_no_pod_of_ours_has_reserved_is_not_moved(small: SmallCluster) -> None:
    end(small, "early")
    small.set_status("a", reservedFor=[{"resource": "workloads", "name": "w", "uid": "uid-other"}])
    small.pod("both", "a", "b")
    small.settle()
    assert (small.place_of("a"), small.place_of("b")) == ("n1/gpu-00000000", "")


def test_what_another_pod_uses_too_is_not_moved_until_that_is_gone(small: SmallCluster) -> None:
    small.pod("both", "a", "b")
    small.settle()
    assert (small.place_of("a"), small.place_of("b")) == ("n1/gpu-00000000", "")
    assert "rolled back" not in small.notes.counts
    end(small, "early")
    small.settle()
    assert {small.place_of("a"), small.place_of("b")} == {"n2/gpu-00000000", "n2/gpu-00000001"}


@pytest.mark.parametrize(("memory", "moved"), [("12Gi", True), ("11Gi", False)])
def test_what_moves_does_not_count_twice_against_the_quota(small: SmallCluster, memory: str, *, moved: bool) -> None:
    quota(small, memory)
    end(small, "early")
    small.pod("both", "a", "b")
    small.settle()
    assert (small.place_of("b") != "") == moved
    assert small.place_of("a").startswith("n2" if moved else "n1")


def test_a_move_that_came_too_late_leaves_the_scheduler_the_blame(small: SmallCluster) -> None:
    end(small, "early")
    small.pod("both", "a", "b")
    small.api.refuse["status"] = [Conflict("claim", "changed", remedy="retry")]
    small.settle(rounds=1)
    small.set_status("a", allocation=None)
    small.settle()
    assert small.notes.counts["taken back"] == 1


def test_a_pod_of_which_one_claim_cannot_be_taken_is_left_alone(small: SmallCluster) -> None:
    small.claim("c", "1Gi")
    small.claim("d", "1Gi")
    small.pod("two", "c", "d")
    small.api.refuse["metadata"] = [Conflict("claim", "changed", remedy="retry")]
    small.settle(rounds=1)
    assert (small.place_of("c"), small.place_of("d")) == ("", "")
    small.now += 0.6
    small.settle()
    assert "" not in (small.place_of("c"), small.place_of("d"))


def test_a_claim_in_doubt_is_not_written_a_second_time() -> None:
    small = SmallCluster()
    small.node("n1", 16)
    small.claim("a", "6Gi")
    small.pod("a", "a")
    small.api.refuse["status"] = [SILENCE]
    # That of the settling, and that of a second try, which there must not be.
    small.settle(rounds=1)
    small.api.refuse["metadata"] = [SILENCE, SILENCE]
    small.settle()
    small.now += 0.6
    small.settle()
    free = small.allocator.world.ledger.free(("n1", "gpu-00000000"))
    assert free is not None
    assert free.memory_bytes == 10 << 30
    assert len(small.api.refuse["metadata"]) == 1


def test_who_was_fenced_writes_no_more_in_that_term(small: SmallCluster) -> None:
    small.store.lease_holder = "term-2"
    small.pod("b", "b")
    for _ in range(3):
        small.settle()
        small.now += 5.0
    assert small.notes.counts["fenced"] == 1
    assert small.place_of("b") == ""


def test_what_others_allocated_is_neither_collected_nor_a_lesson() -> None:
    small = SmallCluster(orphan_seconds=60.0)
    small.node("n1", 8)
    for name in ("theirs", "ours", "reserved"):
        small.claim(name, "2Gi")
        small.pod(name, name)
    small.settle()
    for name in ("ours", "reserved"):
        end(small, name)
    unmarked = small.store.get("resourceclaims", "default", "theirs")
    small.store.change("resourceclaims", unmarked, lambda body: body["metadata"].pop("annotations"))
    small.settle()
    small.set_status("theirs", allocation=None)
    small.settle()
    assert "taken back" not in small.notes.counts
    end(small, "theirs")
    unmarked = small.store.get("resourceclaims", "default", "theirs")
    small.store.change("resourceclaims", unmarked, lambda body: body["metadata"].pop("annotations"))
    small.set_status("reserved", reservedFor=[{"resource": "workloads", "name": "w", "uid": "uid-other"}])
    for _ in range(6):
        small.now += 20.0
        small.settle()
    assert [small.place_of(name) != "" for name in ("theirs", "ours", "reserved")] == [True, False, True]


def test_each_explanation_is_of_its_own_pod() -> None:
    small = SmallCluster()
    small.node("n1", 8)
    small.claim("a", "6Gi")
    small.pod("a", "a")
    small.settle()
    small.set_status("a", allocation=None)
    for name, memory in (("b", "6Gi"), ("c", "6Gi"), ("d", "7Gi"), ("p", "1Gi"), ("q", "9Gi"), ("r", "1Gi")):
        small.claim(name, memory)
    small.claim("s", "9Gi")
    for pod, *claims in ("b", "b"), ("c", "c"), ("d", "d"), ("pq", "p", "q"), ("rs", "r", "s"):
        small.pod(pod, *claims)
    small.settle(rounds=1)
    assert small.place_of("b") == "n1/gpu-00000000"
    told = {name: small.told("pods", name, UNSCHEDULABLE) for name in ("a", "c", "d", "pq", "rs")}
    assert "kube-scheduler" in told["a"]
    assert told["c"] == "CardInsufficientMemory (1/1 GPUs: need 6144Mi, max free 2048Mi)"
    assert told["d"] == "CardInsufficientMemory (1/1 GPUs: need 7168Mi, max free 2048Mi)"
    assert "q gpu" in told["pq"]
    assert "s gpu" in told["rs"]


def test_numbers_that_change_are_told_after_a_few_seconds() -> None:
    small = SmallCluster()
    small.node("n1", 8)
    small.claim("a", "9Gi")
    small.pod("a", "a")
    small.settle()
    small.node("n2", 8)
    small.settle()
    assert "1/1 GPUs" in small.told("pods", "a", UNSCHEDULABLE)
    small.now += 5.0
    small.settle()
    assert "2/2 GPUs" in small.told("pods", "a", UNSCHEDULABLE)
