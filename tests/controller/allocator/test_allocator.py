"""What one allocator does for the pods of a small cluster."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.driver.kube.errors import Conflict, Forbidden, Unavailable
from tests.controller.allocator.small_cluster import SmallCluster

Json = dict[str, Any]
UNSCHEDULABLE = "ClaimUnschedulable"
ALLOCATED = "ClaimAllocated"


@pytest.fixture
def small() -> SmallCluster:
    return SmallCluster()


def test_pods_fill_one_node_and_spread_over_its_gpus(small: SmallCluster) -> None:
    small.node("n1", 16, 16)
    small.node("n2", 16, 16)
    for name in ("a", "b", "c"):
        small.claim(name)
        small.pod(f"pod-{name}", name)
        small.settle()
    assert [small.place_of(name) for name in "abc"] == ["n1/gpu-00000000", "n1/gpu-00000001", "n1/gpu-00000000"]
    assert small.told("pods", "pod-a", ALLOCATED).startswith(
        "gpu: 4Gi memory, 0 cores on node n1 GPU gpu-00000000 share "
    )
    assert small.told("resourceclaims", "a", ALLOCATED) == small.told("pods", "pod-a", ALLOCATED)


def test_a_claim_that_no_pod_needs_is_left_alone(small: SmallCluster) -> None:
    small.node("n1", 16)
    small.claim("idle")
    small.settle()
    assert small.place_of("idle") == ""


def test_a_claim_may_ask_to_be_allocated_ahead_of_pods(small: SmallCluster) -> None:
    small.node("n1", 16, unschedulable=True)
    small.node("n2", 16)
    small.claim("early", annotations={"gpu.fracgpu.dev/allocate": "Immediate"})
    small.claim("large", "17Gi", annotations={"gpu.fracgpu.dev/allocate": "Immediate"})
    small.settle()
    assert small.place_of("early") == "n2/gpu-00000000"
    assert "AmountsExceedDevice" in small.told("resourceclaims", "large", UNSCHEDULABLE)


def test_all_claims_of_a_pod_or_none(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.node("n2", 8)
    small.claim("a", "6Gi")
    small.claim("b", "6Gi")
    small.pod("both", "a", "b")
    small.settle()
    assert (small.place_of("a"), small.place_of("b")) == ("", "")
    message = small.told("pods", "both", UNSCHEDULABLE)
    assert message.startswith("NodeInsufficientDevice (2/2 nodes: ")
    assert (
        small.told("resourceclaims", "a", UNSCHEDULABLE) == message == small.told("resourceclaims", "b", UNSCHEDULABLE)
    )


def test_the_reason_has_numbers_and_goes_when_there_is_room(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.claim("a", "6Gi")
    small.pod("first", "a")
    small.claim("b", "4Gi")
    second = small.pod("second", "b")
    small.settle()
    assert small.told("pods", "second", UNSCHEDULABLE) == (
        "CardInsufficientMemory (1/1 GPUs: need 4096Mi, max free 2048Mi)"
    )
    small.set_status("a", allocation=None)
    small.store.delete("pods", small.store.get("pods", "default", "first"))
    small.settle()
    assert small.place_of("b") == "n1/gpu-00000000"
    assert (second["metadata"]["uid"], UNSCHEDULABLE) not in small.notes.told


def test_a_half_placed_pod_is_completed_on_the_node_of_its_first_claim(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.node("n2", 16)
    small.claim("a")
    small.claim("b")
    small.pod("both", "a", "b")
    small.api.refuse["status"] = [Conflict("claim", "changed", remedy="retry")]
    small.settle(rounds=1)
    assert sorted([small.place_of("a"), small.place_of("b")])[0] == ""
    small.now += 1.0
    small.settle()
    assert small.place_of("a").split("/")[0] == small.place_of("b").split("/")[0] != ""


def test_a_first_claim_is_moved_when_the_second_fits_elsewhere_only(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.claim("a", "6Gi")
    small.pod("early", "a")
    small.settle()
    small.node("n2", 8, 8)
    small.claim("b", "6Gi")
    small.pod("both", "a", "b")
    small.store.delete("pods", small.store.get("pods", "default", "early"))
    small.settle()
    assert {small.place_of("a"), small.place_of("b")} == {"n2/gpu-00000000", "n2/gpu-00000001"}
    assert small.notes.counts["rolled back"] == 1
    assert "taken back" not in small.notes.counts


def test_a_claim_that_is_reserved_is_never_moved(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.claim("a", "6Gi")
    early = small.pod("early", "a")
    small.settle()
    small.set_status("a", reservedFor=[{"resource": "pods", "name": "early", "uid": early["metadata"]["uid"]}])
    small.node("n2", 8, 8)
    small.claim("b", "6Gi")
    small.pod("both", "a", "b")
    small.settle()
    assert (small.place_of("a"), small.place_of("b")) == ("n1/gpu-00000000", "")
    assert "resourceclaim not available on the node" in small.told("pods", "both", UNSCHEDULABLE)


def test_where_the_scheduler_took_it_back_it_is_not_put_again_for_a_while(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.node("n2", 16)
    small.claim("a")
    small.pod("pod", "a")
    small.settle()
    assert small.place_of("a") == "n1/gpu-00000000"
    small.set_status("a", allocation=None)
    small.settle()
    assert small.place_of("a") == "n2/gpu-00000000"
    assert small.notes.counts["taken back"] == 1
    small.set_status("a", allocation=None)
    small.settle()
    assert small.place_of("a") == ""
    assert "node(s) where kube-scheduler would not run the pod" in small.told("pods", "pod", UNSCHEDULABLE)
    small.now += 61.0
    small.settle()
    assert small.place_of("a") == "n1/gpu-00000000"


def test_the_scheduler_is_faster_than_the_news_of_a_pod(small: SmallCluster) -> None:
    """What was allocated ahead and is reserved by nobody nobody else takes back."""
    small.node("n1", 8)
    small.claim("a", annotations={"gpu.fracgpu.dev/allocate": "Immediate"})
    small.settle()
    assert small.place_of("a") == "n1/gpu-00000000"
    small.set_status("a", allocation=None)
    small.settle()
    assert small.notes.counts["taken back"] == 1


def test_the_end_of_a_claims_use_is_nothing_the_scheduler_did(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.claim("a")
    pod = small.pod("pod", "a")
    small.settle()
    small.set_status("a", reservedFor=[{"resource": "pods", "name": "pod", "uid": pod["metadata"]["uid"]}])
    small.store.delete("pods", pod)
    small.settle()
    small.pod("next", "a")
    small.set_status("a", allocation=None, reservedFor=None)
    small.settle()
    assert small.place_of("a") == "n1/gpu-00000000"
    assert "taken back" not in small.notes.counts


def test_what_nobody_uses_is_taken_back_in_the_end() -> None:
    small = SmallCluster(orphan_seconds=60.0)
    small.node("n1", 8)
    for name in ("left", "used", "kept"):
        ahead = {"gpu.fracgpu.dev/allocate": "Immediate"} if name == "kept" else None
        small.claim(name, "2Gi", annotations=ahead)
        if name != "kept":
            small.pod(f"pod-{name}", name)
    small.settle()
    small.store.delete("pods", small.store.get("pods", "default", "pod-left"))
    small.settle()
    small.now += 59.0
    small.settle()
    assert small.place_of("left") != ""
    for _ in range(4):
        small.now += 20.0
        small.settle()
    assert small.place_of("left") == ""
    assert small.told("resourceclaims", "left", "ClaimReleased").startswith(
        "allocation on node n1 taken back: no pod has"
    )
    assert small.place_of("used") != ""
    assert small.place_of("kept") != ""


def test_a_pod_with_its_own_node_is_served_there(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.node("n2", 8)
    small.claim("a")
    small.pod("pod", "a", nodeName="n2")
    small.settle()
    assert small.place_of("a") == "n2/gpu-00000000"


def test_gated_pods_and_claims_in_deletion_wait(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.claim("a")
    small.pod("gated", "a", schedulingGates=[{"name": "later"}])
    small.claim("ahead", annotations={"gpu.fracgpu.dev/allocate": "Immediate"})
    small.pod("gated-too", "ahead", schedulingGates=[{"name": "later"}])
    going = small.claim("going")
    small.store.change("resourceclaims", going, lambda body: body["metadata"].update(finalizers=["example.com/keep"]))
    small.store.delete("resourceclaims", going)
    small.pod("late", "going")
    small.settle()
    assert (small.place_of("a"), small.place_of("going")) == ("", "")
    assert small.place_of("ahead") == "n1/gpu-00000000"


def test_cpu_of_pods_that_are_placed_but_not_bound_counts(small: SmallCluster) -> None:
    small.node("n1", 16)
    small.node("n2", 16)
    for name in ("a", "b"):
        small.claim(name, "1Gi")
        small.pod(name, name, containers=[{"name": "main", "resources": {"requests": {"cpu": "10"}}}])
    small.settle()
    assert {small.place_of("a"), small.place_of("b")} == {"n1/gpu-00000000", "n2/gpu-00000000"}


def test_priority_goes_before_age(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.claim("old", "6Gi")
    small.pod("old", "old")
    small.claim("urgent", "6Gi")
    small.pod("urgent", "urgent", priority=1000)
    small.settle()
    assert (small.place_of("old"), small.place_of("urgent")) == ("", "n1/gpu-00000000")


@pytest.mark.parametrize(
    "error",
    [Forbidden("claim", "no right", remedy="r"), Unavailable("api", "silent", remedy="r")],
    ids=["forbidden", "silent"],
)
@pytest.mark.parametrize("kind", ["metadata", "status"])
def test_a_write_that_fails_is_tried_again_later_and_leaves_nothing_counted(
    small: SmallCluster, kind: str, error: Exception
) -> None:
    small.node("n1", 8)
    small.claim("a", "6Gi")
    small.pod("a", "a")
    small.api.refuse[kind] = [error]
    small.settle(rounds=1)
    assert small.place_of("a") == ""
    small.now += 0.6
    small.settle()
    assert small.place_of("a") == "n1/gpu-00000000"
    ledger = small.allocator.world.ledger
    free = ledger.free(("n1", "gpu-00000000"))
    assert free is not None
    assert free.memory_bytes == 2 << 30


def test_a_server_that_stops_keeping_capacity_is_noticed(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.store.keeps_capacity = False
    small.now += 61.0
    small.claim("a")
    small.pod("pod", "a")
    small.settle()
    assert small.place_of("a") == ""
    assert small.told("pods", "pod", UNSCHEDULABLE).startswith("AmountsDropped")


def test_for_kube_scheduler_it_only_explains() -> None:
    small = SmallCluster(owner="scheduler")
    small.node("n1", 8)
    small.claim("fits")
    small.pod("fits", "fits")
    small.claim("large", "9Gi")
    small.pod("large", "large")
    small.settle()
    assert (small.place_of("fits"), small.place_of("large")) == ("", "")
    assert small.told("pods", "fits", UNSCHEDULABLE) == ""
    assert small.told("pods", "large", UNSCHEDULABLE).startswith("AmountsExceedDevice (1/1 GPUs")
    written = small.store.get("resourceclaims", "default", "fits")
    assert "taken-by" not in str(written)
    small.set_status("fits", allocation=an_allocation())
    small.settle()
    assert small.told("resourceclaims", "fits", ALLOCATED) == (
        "gpu: 4Gi memory, 0 cores on node n1 GPU gpu-00000000 share 12345678"
    )
    assert small.told("pods", "fits", ALLOCATED) == small.told("resourceclaims", "fits", ALLOCATED)


def an_allocation() -> Json:
    """Return an allocation as kube-scheduler writes it."""
    result = {
        "request": "gpu",
        "driver": "gpu.fracgpu.dev",
        "pool": "n1",
        "device": "gpu-00000000",
        "shareID": "12345678-0000-0000-0000-000000000000",
        "consumedCapacity": {"memory": "4Gi", "cores": "0", "slots": "1"},
    }
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    return {"devices": {"results": [result], "config": []}, "nodeSelector": {"nodeSelectorTerms": [term]}}


def test_a_namespaces_quota_holds_and_says_what_is_left(small: SmallCluster) -> None:
    small.node("n1", 16)
    small.store.create(
        "fractionquotas",
        {
            "apiVersion": "gpu.fracgpu.dev/v1alpha1",
            "kind": "FractionQuota",
            "metadata": {"name": "team", "namespace": "default", "generation": 1},
            "spec": {"hard": {"memory": "6Gi"}},
        },
    )
    for name in ("a", "b"):
        small.claim(name, "4Gi")
        small.pod(name, name)
    small.settle()
    assert (small.place_of("a"), small.place_of("b")) == ("n1/gpu-00000000", "")
    message = small.told("pods", "b", UNSCHEDULABLE)
    assert message.startswith("ResourceQuotaNotFit (")
    assert "4096Mi" in message
    assert "2048Mi" in message
    small.now += 2.0
    small.settle()
    quota = small.store.get("fractionquotas", "default", "team")
    assert quota["status"]["used"]["memory"] == "4Gi"


def test_a_second_owner_of_the_gpus_is_told_on_the_node(small: SmallCluster) -> None:
    small.node("n1", 16)
    node = small.store.get("nodes", "", "n1")
    small.store.change(
        "nodes", node, lambda body: body["status"]["allocatable"].update({"nvidia.com/gpu": "1"}), status=True
    )
    small.settle()
    assert "device plugin" in small.notes.told[node["metadata"]["uid"], "SecondGpuOwner"]
    small.store.change("nodes", node, lambda body: body["status"]["allocatable"].pop("nvidia.com/gpu"), status=True)
    small.now += 61.0
    small.settle()
    assert (node["metadata"]["uid"], "SecondGpuOwner") not in small.notes.told


def test_a_placement_that_no_allocation_can_hold_is_refused_alone(small: SmallCluster) -> None:
    small.node("n1", *[8] * 20)
    first = small.claim("first", "1Gi", count=20)
    small.claim("second", "1Gi")
    more = {**first["spec"]["devices"]["requests"][0], "name": "more"}
    small.store.change("resourceclaims", first, lambda body: body["spec"]["devices"]["requests"].append(more))
    small.pod("first", "first")
    small.pod("second", "second")
    small.settle()
    assert (small.place_of("first"), small.place_of("second") != "") == ("", True)
    assert "32" in small.told("pods", "first", UNSCHEDULABLE)
