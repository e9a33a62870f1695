"""Whose process it is."""

from fracgpu.kubeletplugin.proof.cgroup import ContainerRef
from fracgpu.kubeletplugin.proof.members import Candidate, ClaimConsumers, Members

A, B = Candidate("a", "claim-a"), Candidate("b", "claim-b")
ONE, TWO = ContainerRef("pod-1", "1" * 64), ContainerRef("pod-1", "2" * 64)
NONE: frozenset[str] = frozenset()


def reserved(*uids: str, resource: str = "pods") -> dict[str, object]:
    return {"status": {"reservedFor": [{"resource": resource, "name": "p", "uid": uid} for uid in uids]}}


def test_the_mounted_config_page_decides() -> None:
    members = Members(ClaimConsumers())
    assert members.assign(frozenset({"a"}), ONE, [A, B]) == {"a"}
    assert members.assign(frozenset({"a", "b"}), None, [A, B]) == {"a", "b"}
    # Of an allocation of another GPU: on this one the process has no business.
    assert members.assign(frozenset({"z"}), TWO, [A, B]) == NONE


def test_who_keeps_only_some_of_its_pages_belongs_to_all_that_its_container_had() -> None:
    members = Members(ClaimConsumers())
    members.assign(frozenset({"a", "z"}), ONE, [A, B])
    assert members.assign(frozenset({"z"}), ONE, [A, B]) == {"a"}
    assert members.assign(frozenset({"b"}), ONE, [A, B]) == {"a", "b"}


def test_a_process_without_mounts_belongs_where_its_container_was_seen() -> None:
    members = Members(ClaimConsumers())
    assert members.assign(NONE, ONE, [A, B]) == NONE
    members.assign(frozenset({"a"}), ONE, [A, B])
    assert members.assign(NONE, ONE, [A, B]) == {"a"}
    assert members.assign(NONE, TWO, [A, B]) == NONE
    members.keep_only(frozenset({"b"}))
    assert members.assign(NONE, ONE, [A, B]) == NONE


def test_a_process_of_a_pod_that_the_claim_is_reserved_for() -> None:
    consumers = ClaimConsumers()
    members = Members(consumers)
    consumers.learn("claim-b", reserved("pod-1"))
    assert members.assign(NONE, ONE, [A, B]) == {"b"}
    # Two claims of one pod in two containers: what is mounted tells them apart.
    consumers.learn("claim-a", reserved("pod-1"))
    assert members.assign(frozenset({"a"}), TWO, [A, B]) == {"a"}
    assert members.assign(NONE, TWO, [A, B]) == {"a"}
    consumers.keep_only(["claim-a"])
    assert consumers.pods("claim-b") == NONE


def test_only_pods_are_consumers() -> None:
    consumers = ClaimConsumers()
    consumers.learn("claim-a", reserved("pod-1", resource="others"))
    consumers.learn("claim-b", {"status": None})
    assert (consumers.pods("claim-a"), consumers.pods("claim-b")) == (NONE, NONE)


def test_a_process_outside_of_pods_is_foreign() -> None:
    assert Members(ClaimConsumers()).assign(NONE, None, [A, B]) == NONE
