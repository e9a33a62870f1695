"""Deletion: finalizers, grace, preconditions, the cascade."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/default/pods"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"


@pytest.fixture
def until(server: Any) -> Callable[[Callable[[], bool]], None]:
    """Wait for something to hold, looking again after every change of the store."""
    changed = threading.Event()
    server.registry.store.hub.subscribe(changed.set)

    def wait(holds: Callable[[], bool]) -> None:
        while not holds():
            assert changed.wait(30), "nothing changed any more"
            changed.clear()

    return wait


def test_finalizer_holds_the_object_until_it_is_removed(raw: Any, make_claim: Callable[..., Any]) -> None:
    body = make_claim()
    body["metadata"]["finalizers"] = ["example.com/f"]
    raw("POST", CLAIMS, body)
    marked = raw("DELETE", f"{CLAIMS}/c").body
    assert marked["metadata"]["deletionTimestamp"]
    assert raw("DELETE", f"{CLAIMS}/c").body["metadata"]["resourceVersion"] == marked["metadata"]["resourceVersion"]
    marked["metadata"]["finalizers"] = ["example.com/f", "example.com/g"]
    refused = raw("PUT", f"{CLAIMS}/c", marked)
    assert refused.code == 422
    assert "no new finalizers can be added" in refused.causes[0]
    marked["metadata"] |= {"finalizers": ["example.com/f"], "labels": {"a": "b"}}
    marked = raw("PUT", f"{CLAIMS}/c", marked).body
    assert raw("GET", f"{CLAIMS}/c").body["metadata"]["labels"] == {"a": "b"}
    marked["metadata"]["finalizers"] = []
    assert raw("PUT", f"{CLAIMS}/c", marked).code == 200
    assert raw("GET", f"{CLAIMS}/c").code == 404


@pytest.mark.parametrize("bound", [True, False])
def test_only_a_bound_pod_has_grace(raw: Any, bound: bool) -> None:
    spec: dict[str, Any] = {"containers": [{"name": "c", "image": "x"}], "terminationGracePeriodSeconds": 7}
    if bound:
        spec["nodeName"] = "n1"
    raw("POST", PODS, {"metadata": {"name": "p"}, "spec": spec})
    deleted = raw("DELETE", f"{PODS}/p").body
    if not bound:
        assert raw("GET", f"{PODS}/p").code == 404
        return
    assert deleted["metadata"]["deletionGracePeriodSeconds"] == 7
    assert raw("GET", f"{PODS}/p").code == 200
    assert raw("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0}).code == 200
    assert raw("GET", f"{PODS}/p").code == 404


@pytest.mark.parametrize("precondition", ["uid", "resourceVersion"])
def test_precondition_that_does_not_hold_conflicts(raw: Any, precondition: str) -> None:
    raw("POST", NODES, {"metadata": {"name": "n1"}})
    answer = raw("DELETE", f"{NODES}/n1", {"preconditions": {precondition: "999"}})
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert raw("GET", f"{NODES}/n1").code == 200


def _slice(owner_uid: str) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": owner_uid, "controller": True}
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.fracgpu.dev", "nodeName": "n1", "pool": pool}
    return {"metadata": {"name": "s", "ownerReferences": [owner]}, "spec": spec}


def test_dependents_follow_their_owner(raw: Any, until: Any) -> None:
    node = raw("POST", NODES, {"metadata": {"name": "n1"}}).body
    assert raw("POST", SLICES, _slice(node["metadata"]["uid"])).code == 201
    raw("DELETE", f"{NODES}/n1")
    until(lambda: raw("GET", f"{SLICES}/s").code == 404)


def test_dependent_of_an_owner_that_never_was_is_collected(raw: Any, until: Any) -> None:
    assert raw("POST", SLICES, _slice("00000000-0000-0000-0000-000000000000")).code == 201
    until(lambda: raw("GET", f"{SLICES}/s").code == 404)


def test_orphan_policy_keeps_dependents_without_the_reference(raw: Any) -> None:
    node = raw("POST", NODES, {"metadata": {"name": "n1"}}).body
    raw("POST", SLICES, _slice(node["metadata"]["uid"]))
    raw("DELETE", f"{NODES}/n1", {"propagationPolicy": "Orphan"})
    assert raw("GET", f"{SLICES}/s").body["metadata"]["ownerReferences"] == []


def test_namespace_takes_its_content_along(raw: Any, until: Any, make_claim: Callable[..., Any]) -> None:
    raw("POST", "/api/v1/namespaces", {"metadata": {"name": "team"}})
    claims = "/apis/resource.k8s.io/v1/namespaces/team/resourceclaims"
    held = make_claim("held")
    held["metadata"]["finalizers"] = ["example.com/f"]
    raw("POST", claims, make_claim("free"))
    raw("POST", claims, held)
    assert raw("DELETE", "/api/v1/namespaces/team").body["status"]["phase"] == "Terminating"
    until(lambda: raw("GET", f"{claims}/free").code == 404)
    assert raw("POST", claims, make_claim("late")).body["reason"] == "Forbidden"
    marked = raw("GET", f"{claims}/held").body
    marked["metadata"]["finalizers"] = []
    raw("PUT", f"{claims}/held", marked)
    until(lambda: raw("GET", "/api/v1/namespaces/team").code == 404)


def test_collection_deletion_obeys_the_selector(raw: Any) -> None:
    for name, zone in (("a", "x"), ("b", "y"), ("c", "x")):
        raw("POST", NODES, {"metadata": {"name": name, "labels": {"zone": zone}}})
    raw("DELETE", f"{NODES}?labelSelector=zone%3Dx")
    assert [item["metadata"]["name"] for item in raw("GET", NODES).body["items"]] == ["b"]
