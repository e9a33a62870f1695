"""Create, read, update, status: what a driver's write loop stands on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/default/pods"
POD = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}


def test_create_stamps_the_object(raw: Any) -> None:
    answer = raw("POST", NODES, {"metadata": {"name": "n1", "uid": "mine", "resourceVersion": ""}})
    meta = answer.body["metadata"]
    assert answer.code == 201
    assert (answer.body["kind"], answer.body["apiVersion"]) == ("Node", "v1")
    assert len(meta["uid"]) == 36
    assert meta["creationTimestamp"].endswith("Z")
    assert int(meta["resourceVersion"]) > 0


def test_generate_name_gives_distinct_names_in_the_api_alphabet(raw: Any) -> None:
    names = {raw("POST", NODES, {"metadata": {"generateName": "n-"}}).body["metadata"]["name"] for _ in range(20)}
    assert len(names) == 20
    assert all(len(name) == 7 and set(name[2:]) <= set("bcdfghjklmnpqrstvwxz2456789") for name in names)


def test_one_counter_gives_ascending_versions_across_resources(raw: Any, make_claim: Callable[..., Any]) -> None:
    first = raw("POST", NODES, {"metadata": {"name": "n1"}}).body["metadata"]["resourceVersion"]
    second = raw("POST", CLAIMS, make_claim()).body["metadata"]["resourceVersion"]
    listed = raw("GET", NODES).body["metadata"]["resourceVersion"]
    assert int(first) < int(second) == int(listed)


@pytest.mark.parametrize(
    ("body", "path", "code", "reason"),
    [
        pytest.param({"metadata": {"name": "N1"}}, NODES, 422, "Invalid", id="upper case name"),
        pytest.param({"metadata": {}}, NODES, 422, "Invalid", id="no name"),
        pytest.param({"kind": "Pod", "metadata": {"name": "n"}}, NODES, 400, "BadRequest", id="wrong kind"),
        pytest.param({"metadata": {"name": "n", "resourceVersion": "7"}}, NODES, 500, "", id="version given"),
        pytest.param({"metadata": {"name": "n", "labels": {"a": 1}}}, NODES, 400, "BadRequest", id="label not text"),
        pytest.param(POD, "/api/v1/namespaces/nowhere/pods", 404, "NotFound", id="namespace missing"),
        pytest.param(
            POD | {"metadata": {"name": "p", "namespace": "b"}}, PODS, 400, "BadRequest", id="other namespace"
        ),
        pytest.param(POD, "/api/v1/pods", 405, "MethodNotAllowed", id="no namespace in the path"),
        pytest.param(b"{", NODES, 400, "BadRequest", id="not json"),
        pytest.param(b"[]", NODES, 400, "BadRequest", id="not an object"),
    ],
)
def test_create_refuses(raw: Any, body: Any, path: str, code: int, reason: str) -> None:
    answer = raw("POST", path, body)
    assert (answer.code, answer.body["reason"], answer.body["kind"]) == (code, reason, "Status")


def test_second_create_of_a_name_is_already_exists(raw: Any) -> None:
    raw("POST", NODES, {"metadata": {"name": "n1"}})
    answer = raw("POST", NODES, {"metadata": {"name": "n1"}})
    assert (answer.code, answer.body["reason"]) == (409, "AlreadyExists")
    assert answer.body["message"] == 'nodes "n1" already exists'


def test_stale_update_conflicts_and_changes_nothing(raw: Any) -> None:
    stale = raw("POST", NODES, {"metadata": {"name": "n1"}}).body
    fresh = raw("PUT", f"{NODES}/n1", stale | {"spec": {"unschedulable": True}})
    assert fresh.code == 200
    answer = raw("PUT", f"{NODES}/n1", stale | {"spec": {"unschedulable": False}})
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert "the object has been modified" in answer.body["message"]
    assert raw("GET", f"{NODES}/n1").body["spec"] == {"unschedulable": True}


def test_update_without_version_is_unconditional_but_not_for_leases(raw: Any) -> None:
    raw("POST", NODES, {"metadata": {"name": "n1"}})
    assert raw("PUT", f"{NODES}/n1", {"metadata": {"name": "n1", "labels": {"a": "b"}}}).code == 200
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    raw("POST", leases, {"metadata": {"name": "l"}})
    answer = raw("PUT", f"{leases}/l", {"metadata": {"name": "l"}})
    assert answer.code == 422
    assert answer.causes == ["metadata.resourceVersion: Invalid value: 0: must be specified for an update"]


def test_update_with_another_uid_conflicts(raw: Any) -> None:
    raw("POST", NODES, {"metadata": {"name": "n1"}})
    assert raw("PUT", f"{NODES}/n1", {"metadata": {"name": "n1", "uid": "other"}}).body["reason"] == "Conflict"


def test_update_that_changes_nothing_makes_no_new_version(raw: Any) -> None:
    stored = raw("POST", NODES, {"metadata": {"name": "n1"}}).body
    again = raw("PUT", f"{NODES}/n1", stored).body
    assert again["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]


def test_update_cannot_touch_system_fields(raw: Any) -> None:
    stored = raw("POST", NODES, {"metadata": {"name": "n1"}}).body
    meta = stored["metadata"] | {
        "creationTimestamp": "2000-01-01T00:00:00Z",
        "deletionTimestamp": "2000-01-01T00:00:00Z",
    }
    answer = raw("PUT", f"{NODES}/n1", stored | {"metadata": meta}).body["metadata"]
    assert answer["creationTimestamp"] == stored["metadata"]["creationTimestamp"]
    assert "deletionTimestamp" not in answer


def test_status_and_main_resource_are_apart(raw: Any, make_claim: Callable[..., Any], make_allocation: Any) -> None:
    body = make_claim() | {"status": {"allocation": make_allocation()}}
    claim = raw("POST", CLAIMS, body).body
    assert claim["status"] == {}, "status given on create is dropped"
    claim["status"] = {"allocation": make_allocation()}
    assert raw("PUT", f"{CLAIMS}/c", claim).body["status"] == {}, "status in the main resource is dropped"
    claim["metadata"]["finalizers"] = ["example.com/f"]
    claim["metadata"].pop("resourceVersion")
    claim["spec"]["devices"]["requests"][0]["name"] = "other"
    stored = raw("PUT", f"{CLAIMS}/c/status", claim).body
    assert stored["status"]["allocation"]["devices"]["results"][0]["device"] == "gpu-1"
    assert "finalizers" not in stored["metadata"], "a finalizer in a status write is dropped"
    assert stored["spec"]["devices"]["requests"][0]["name"] == "gpu"


def test_generation_counts_spec_changes_only(raw: Any) -> None:
    path = "/apis/resource.k8s.io/v1/deviceclasses"
    item = raw("POST", path, {"metadata": {"name": "k"}, "spec": {}}).body
    assert item["metadata"]["generation"] == 1
    item["metadata"]["labels"] = {"a": "b"}
    item = raw("PUT", f"{path}/k", item).body
    assert item["metadata"]["generation"] == 1
    item["spec"] = {"selectors": [{"cel": {"expression": "true"}}]}
    assert raw("PUT", f"{path}/k", item).body["metadata"]["generation"] == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_dry_run_stores_nothing(raw: Any, server: Any, method: str) -> None:
    raw("POST", NODES, {"metadata": {"name": "n1"}})
    before = server.registry.store.revision
    path = f"{NODES}?dryRun=All" if method == "POST" else f"{NODES}/n1?dryRun=All"
    name = "n2" if method == "POST" else "n1"
    body = None if method == "DELETE" else {"metadata": {"name": name, "labels": {"a": "b"}}}
    answer = raw(method, path, body)
    assert answer.code < 300
    assert server.registry.store.revision == before
    assert len(raw("GET", NODES).body["items"]) == 1


def test_unknown_members_are_dropped_unless_strict(raw: Any) -> None:
    body = {"metadata": {"name": "n1", "lables": {}}, "spec": {"podCIDRs": ["10.0.0.0/8"], "nope": 1}}
    assert raw("POST", NODES, body).body["spec"] == {"podCIDRs": ["10.0.0.0/8"]}
    answer = raw("POST", f"{NODES}?fieldValidation=Strict", body | {"metadata": {"name": "n2"}})
    assert answer.code == 400
    assert 'unknown field "spec.nope"' in answer.body["message"]


def test_list_pages(raw: Any) -> None:
    for index in range(5):
        raw("POST", NODES, {"metadata": {"name": f"n{index}"}})
    seen: list[str] = []
    token, pages = "", 0
    while True:
        page = raw("GET", f"{NODES}?limit=2&continue={token}").body
        seen += [item["metadata"]["name"] for item in page["items"]]
        pages += 1
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert (seen, pages) == ([f"n{index}" for index in range(5)], 3)


def test_items_of_lists_do_not_repeat_their_kind(raw: Any) -> None:
    answer = raw("GET", "/api/v1/namespaces").body
    assert (answer["kind"], answer["apiVersion"]) == ("NamespaceList", "v1")
    assert all("kind" not in item and "apiVersion" not in item for item in answer["items"])


def test_binding_sets_the_node_once(raw: Any) -> None:
    raw("POST", PODS, POD)
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    assert raw("POST", f"{PODS}/p/binding", binding).code == 201
    pod = raw("GET", f"{PODS}/p").body
    assert pod["spec"]["nodeName"] == "n1"
    assert pod["status"]["conditions"][0]["type"] == "PodScheduled"
    assert raw("POST", f"{PODS}/p/binding", binding).body["reason"] == "Conflict"


def test_pod_spec_is_immutable_but_for_the_image(raw: Any) -> None:
    pod = raw("POST", PODS, POD).body
    pod["spec"]["containers"][0]["image"] = "y"
    pod = raw("PUT", f"{PODS}/p", pod).body
    assert pod["spec"]["containers"][0]["image"] == "y"
    pod["spec"]["containers"][0]["command"] = ["sh"]
    answer = raw("PUT", f"{PODS}/p", pod)
    assert (answer.code, answer.body["details"]["causes"][0]["field"]) == (422, "spec")
