"""What goes wrong for one claim, one pod or one write must neither give a GPU away twice nor stop the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fracgpu.controller.allocator.planner import Decision
from fracgpu.driver.kube.errors import Forbidden, Refused, Unavailable
from tests.controller.allocator.small_cluster import SmallCluster

Json = dict[str, Any]
UNSCHEDULABLE = "ClaimUnschedulable"
SILENCE = Unavailable("api", "silent", remedy="r")
NO_RIGHT = Forbidden("claim", "no right", remedy="r")


@pytest.fixture
def small() -> SmallCluster:
    return SmallCluster()


def lose_next_status_write(small: SmallCluster) -> list[Callable[[], Any]]:
    """Let the next status write be under way, without an answer; return where it is kept until it is delivered."""
    under_way: list[Callable[[], Any]] = []
    send = small.api.replace_claim_status

    def lose(claim: Json) -> Json:
        if under_way:
            return send(claim)
        under_way.append(lambda: send(claim))
        raise SILENCE

    small.api.replace_claim_status = lose  # type: ignore[method-assign]
    return under_way


def free_bytes(small: SmallCluster, device: str = "gpu-00000000") -> int:
    free = small.allocator.world.ledger.free(("n1", device))
    assert free is not None
    return free.memory_bytes


def half_placed(small: SmallCluster) -> None:
    """Have a pod whose first claim must be moved before the second finds a place."""
    small.node("n1", 8)
    small.claim("a", "6Gi")
    small.pod("early", "a")
    small.settle()
    small.node("n2", 8, 8)
    small.claim("b", "6Gi")
    small.pod("both", "a", "b")
    small.store.delete("pods", small.store.get("pods", "default", "early"))


def test_a_term_that_is_doubted_and_goes_on_takes_everything_anew(small: SmallCluster) -> None:
    """The Lease was renewed late: the same term again, while a write of it is still under way."""
    small.node("n1", 8)
    small.claim("a", "6Gi")
    small.pod("a", "a")
    under_way = lose_next_status_write(small)
    small.settle(rounds=1)
    assert small.allocator.step(None) > 0
    small.store.delete("pods", small.store.get("pods", "default", "a"))
    small.claim("b", "6Gi")
    small.pod("b", "b")
    small.settle()
    assert small.place_of("b") == "n1/gpu-00000000"
    with pytest.raises(Exception, match="has been modified"):
        under_way[0]()
    assert small.place_of("a") == ""


def test_who_does_not_hold_the_lease_disturbs_nobody(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.claim("a", annotations={"gpu.fracgpu.dev/taken-by": "term-2.1"})
    small.pod("a", "a")
    before = small.store.revision
    small.store.lease_holder = "term-2"
    small.settle()
    assert small.store.revision == before
    small.store.lease_holder = "term-1"
    small.settle()
    assert small.place_of("a") != ""


def test_a_marked_claim_in_deletion_keeps_nobody_from_leading(small: SmallCluster) -> None:
    """The API server refuses a new finalizer on it."""
    small.node("n1", 8)
    going = small.claim("going", annotations={"gpu.fracgpu.dev/taken-by": "term-0.7"})
    small.store.change("resourceclaims", going, lambda body: body["metadata"].update(finalizers=["example.com/keep"]))
    small.store.delete("resourceclaims", going)
    small.claim("a")
    small.pod("a", "a")
    small.settle()
    assert small.place_of("a") == "n1/gpu-00000000"
    taken = small.store.get("resourceclaims", "default", "going")
    assert taken["metadata"]["annotations"]["gpu.fracgpu.dev/taken-by"].startswith("term-1.")
    assert taken["metadata"]["finalizers"] == ["example.com/keep"]


@pytest.mark.parametrize("error", [SILENCE, NO_RIGHT], ids=["silent", "forbidden"])
def test_a_doubt_that_cannot_be_settled_keeps_its_place_and_stops_nobody(small: SmallCluster, error: Exception) -> None:
    small.node("n1", 8)
    small.claim("a", "6Gi")
    small.pod("a", "a")
    under_way = lose_next_status_write(small)
    small.settle(rounds=1)
    small.api.refuse["metadata"] = [error]
    small.claim("b", "2Gi")
    small.pod("b", "b")
    small.settle()
    assert small.place_of("b") == "n1/gpu-00000000"
    assert free_bytes(small) == 0
    under_way[0]()
    small.now += 1.0
    small.settle()
    assert small.place_of("a") == "n1/gpu-00000000"
    assert free_bytes(small) == 0
    assert small.told("pods", "a", "ClaimAllocated") != ""


@pytest.mark.parametrize("error", [SILENCE, NO_RIGHT], ids=["silent", "forbidden"])
def test_a_move_that_fails_is_tried_again_and_takes_nothing_from_others(small: SmallCluster, error: Exception) -> None:
    half_placed(small)
    small.claim("c", "1Gi")
    # Planned before the move, and written in the same round.
    small.pod("urgent", "c", priority=1000)
    send = small.api.replace_claim_status
    failures = [error]

    def fail_moves(claim: Json) -> Json:
        if failures and "allocation" not in claim["status"]:
            raise failures.pop()
        return send(claim)

    small.api.replace_claim_status = fail_moves  # type: ignore[method-assign]
    small.settle()
    assert small.place_of("c") != ""
    assert small.place_of("a") == "n1/gpu-00000000"
    small.now += 0.6
    small.settle()
    assert {small.place_of("a"), small.place_of("b")} == {"n2/gpu-00000000", "n2/gpu-00000001"}
    assert "taken back" not in small.notes.counts


def test_a_pod_that_is_beyond_us_does_not_stop_the_others(small: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    small.node("n1", 8)
    for name in ("bad", "good"):
        small.claim(name, "1Gi")
        small.pod(name, name)
    planner = small.allocator._planner
    for_pod = planner.for_pod

    def fail(pod: Json) -> Decision:
        if pod["metadata"]["name"] == "bad":
            raise ValueError("a bug")
        return for_pod(pod)

    monkeypatch.setattr(planner, "for_pod", fail)
    small.settle()
    assert (small.place_of("bad"), small.place_of("good")) == ("", "n1/gpu-00000000")
    monkeypatch.undo()
    small.now += 0.6
    small.settle()
    assert small.place_of("bad") == "n1/gpu-00000000"


def test_what_no_kind_of_api_error_explains_ends_the_process(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.claim("a")
    small.pod("a", "a")
    small.api.refuse["status"] = [RuntimeError("a bug")]
    with pytest.raises(RuntimeError):
        small.settle()


def test_a_server_that_begins_to_keep_capacity_is_noticed_by_those_who_wait(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.store.keeps_capacity = False
    small.claim("a")
    small.pod("a", "a")
    small.settle()
    assert small.told("pods", "a", UNSCHEDULABLE).startswith("AmountsDropped")
    small.store.keeps_capacity = True
    small.now += 61.0
    small.settle()
    assert small.place_of("a") == "n1/gpu-00000000"


def test_a_claim_ahead_goes_on_when_the_pod_that_asked_for_too_much_is_gone(small: SmallCluster) -> None:
    small.node("n1", 8)
    small.claim("early", annotations={"gpu.fracgpu.dev/allocate": "Immediate"})
    pod = small.pod("picky", "early", nodeSelector={"zone": "nowhere"})
    small.settle()
    assert small.place_of("early") == ""
    small.store.delete("pods", pod)
    small.settle()
    assert small.place_of("early") == "n1/gpu-00000000"


def test_who_waits_is_told_again_and_again(small: SmallCluster) -> None:
    """Events expire, and so must not be told once only."""
    small.node("n1", 8)
    small.claim("a", "9Gi")
    small.pod("a", "a")
    small.settle()
    assert small.told("pods", "a", UNSCHEDULABLE) != ""
    small.notes.told.clear()
    small.now += 300.0
    small.settle()
    assert small.told("pods", "a", UNSCHEDULABLE) == ""
    small.now += 31.0
    small.settle()
    assert small.told("pods", "a", UNSCHEDULABLE) != ""


def test_many_are_told_a_few_at_a_time_and_all_in_the_end(small: SmallCluster) -> None:
    small.node("n1", 8)
    for number in range(40):
        small.claim(f"c{number}", "9Gi")
        small.pod(f"p{number}", f"c{number}")
    small.settle(rounds=1)
    assert len(small.notes.told) == 2 * 16
    small.settle(rounds=2)
    assert len(small.notes.told) == 2 * 40


def test_of_the_same_claims_each_pod_is_judged_by_its_own_wishes(small: SmallCluster) -> None:
    small.node("n1", 8)
    for name, selector in (("picky", {"zone": "nowhere"}), ("easy", {}), ("late", {}), ("late-picky", {"zone": "x"})):
        small.claim(name, "6Gi")
        small.pod(name, name, nodeSelector=selector)
    small.settle(rounds=1)
    assert [small.place_of(name) for name in ("picky", "easy", "late")] == ["", "n1/gpu-00000000", ""]
    assert small.told("pods", "picky", UNSCHEDULABLE).startswith("NodeMismatch")
    assert small.told("pods", "late", UNSCHEDULABLE).startswith("CardInsufficientMemory")
    assert small.told("pods", "late-picky", UNSCHEDULABLE) == small.told("pods", "picky", UNSCHEDULABLE)


def test_one_namespaces_quota_says_nothing_about_another(small: SmallCluster) -> None:
    small.node("n1", 8)
    quota = {
        "apiVersion": "gpu.fracgpu.dev/v1alpha1",
        "kind": "FractionQuota",
        "metadata": {"name": "team", "namespace": "default", "generation": 1},
        "spec": {"hard": {"memory": "1Gi"}},
    }
    small.store.create("fractionquotas", quota)
    for name, namespace in (("poor", "default"), ("rich", "other")):
        claim, pod = small.claim(name), small.pod(name, name)
        if namespace != "default":
            for resource, obj in (("pods", pod), ("resourceclaims", claim)):
                small.store.delete(resource, obj)
                meta = {key: value for key, value in obj["metadata"].items() if key in ("name", "creationTimestamp")}
                small.store.create(resource, {**obj, "metadata": {**meta, "namespace": namespace}})
    small.settle(rounds=1)
    assert small.place_of("poor") == ""
    assert (small.store.get("resourceclaims", "other", "rich").get("status") or {}).get("allocation")


def test_one_namespaces_quota_is_not_told_to_another(small: SmallCluster) -> None:
    small.node("n1", 8)
    nowhere = {"zone": "nowhere"}
    meta = {"name": "team", "namespace": "default", "generation": 1}
    kind = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionQuota"}
    small.store.create("fractionquotas", {**kind, "metadata": meta, "spec": {"hard": {"memory": "1Gi"}}})
    small.claim("poor")
    small.pod("poor", "poor", nodeSelector=nowhere)
    rich = small.pod("rich", "rich", nodeSelector=nowhere)
    for resource, obj in (("resourceclaims", small.claim("rich")), ("pods", rich)):
        small.store.delete(resource, obj)
        stamp = obj["metadata"].get("creationTimestamp", "")
        meta = {"name": "rich", "namespace": "other", "creationTimestamp": stamp}
        small.store.create(resource, {**obj, "metadata": meta})
    small.settle(rounds=1)
    assert "ResourceQuotaNotFit" in small.told("pods", "poor", UNSCHEDULABLE)
    told = small.notes.told[small.store.get("pods", "other", "rich")["metadata"]["uid"], UNSCHEDULABLE]
    assert told.startswith("NodeMismatch")
    assert "ResourceQuotaNotFit" not in told


def test_many_orphans_go_in_the_end_though_one_may_not() -> None:
    small = SmallCluster(orphan_seconds=60.0)
    small.node("n1", *[16] * 3)
    for number in range(12):
        small.claim(f"c{number}", "1Gi")
        small.pod(f"p{number}", f"c{number}")
    small.settle()
    for number in range(12):
        small.store.delete("pods", small.store.get("pods", "default", f"p{number}"))
    small.settle()
    small.now += 60.0
    small.settle()
    small.api.refuse["status"] = [Refused("claim", "a policy", remedy="r")]
    for _ in range(4):
        small.now += 20.0
        small.settle()
    assert small.notes.counts["collected"] == 12
    assert small.notes.counts["release refused"] == 1


def test_what_is_asked_of_nodes_is_not_tried_for_each_pod_of_a_kind(small: SmallCluster) -> None:
    """Each try asks about every node that has room: with thousands of pods that is minutes."""
    small.node("n1", 8)
    small.node("n2", 8)
    for number in range(20):
        small.claim(f"c{number}", "1Gi")
        small.pod(f"p{number}", f"c{number}", nodeSelector={"zone": "nowhere"})
    nodes = small.allocator.world.nodes
    rejects = nodes.rejects
    asked: list[str] = []
    nodes.rejects = lambda needs, key, node: asked.append(node) or rejects(needs, key, node)  # type: ignore[func-returns-value, method-assign]
    small.settle(rounds=1)
    # Once to place, once to explain.
    assert sorted(asked) == ["n1", "n1", "n2", "n2"]
    assert len(small.notes.told) == 2 * 16
    small.claim("any", "1Gi")
    small.pod("any", "any")
    small.settle(rounds=1)
    assert small.place_of("any") != ""
