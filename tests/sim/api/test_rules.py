"""Validation that bites real drivers: claims, allocations, pods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
PODS = "/api/v1/namespaces/default/pods"
SHARE = "0b9d5a5e-3f6e-4c0c-9a0e-5a8f4f1d2c3b"
EXACTLY = {"deviceClassName": "k"}


def _devices(**devices: Any) -> dict[str, Any]:
    requests = devices.pop("requests", [{"name": "gpu", "exactly": EXACTLY}])
    return {"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests, **devices}}}


def _opaque(parameters: Any = None, **opaque: Any) -> list[dict[str, Any]]:
    return [{"opaque": {"driver": "d.example.com", "parameters": parameters or {}} | opaque}]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(
            _devices(requests=[{"name": "a", "exactly": EXACTLY}] * 2), "spec.devices.requests[1]", id="duplicate"
        ),
        pytest.param(
            _devices(requests=[{"name": "A", "exactly": EXACTLY}]), "spec.devices.requests[0].name", id="label"
        ),
        pytest.param(_devices(requests=[{"name": "a"}]), "spec.devices.requests[0]", id="neither form"),
        pytest.param(
            _devices(requests=[{"name": "a", "exactly": {}}]), "spec.devices.requests[0]", id="empty exactly is absent"
        ),
        pytest.param(
            _devices(requests=[{"name": "a", "exactly": EXACTLY | {"count": -1}}]),
            "spec.devices.requests[0].exactly.count",
            id="negative count",
        ),
        pytest.param(
            _devices(requests=[{"name": "a", "exactly": EXACTLY | {"adminAccess": True}}]),
            "spec.devices.requests[0].adminAccess",
            id="admin without label",
        ),
        pytest.param(_devices(config=_opaque(driver="")), "spec.devices.config[0].opaque.driver", id="driver"),
        pytest.param(
            _devices(config=_opaque(parameters="x" * 3)), "spec.devices.config[0].opaque.parameters", id="not an object"
        ),
        pytest.param(
            _devices(config=_opaque({"a": "x" * 10240})), "spec.devices.config[0].opaque.parameters", id="too long"
        ),
        pytest.param(
            _devices(config=[_opaque()[0] | {"requests": ["other"]}]),
            "spec.devices.config[0].requests[0]",
            id="config for an unknown request",
        ),
        pytest.param(_devices(constraints=[{"requests": ["gpu"]}]), "spec.devices.constraints[0]", id="constraint"),
    ],
)
def test_claim_is_refused(raw: Any, body: dict[str, Any], field: str) -> None:
    answer = raw("POST", CLAIMS, body)
    assert answer.code == 422
    assert [cause["field"] for cause in answer.body["details"]["causes"]] == [field]


@pytest.mark.parametrize("amount", ["8 Gi", "x", "1e", ""])
def test_capacity_that_is_no_quantity_cannot_be_decoded(raw: Any, make_claim: Any, amount: str) -> None:
    answer = raw("POST", CLAIMS, make_claim(capacity={"requests": {"memory": amount}}))
    assert (answer.code, answer.body["reason"]) == (400, "BadRequest")
    assert "capacity.requests.memory" in answer.body["message"]


def test_admin_access_needs_the_label_at_creation_only(raw: Any, make_claim: Any) -> None:
    label = {"resource.kubernetes.io/admin-access": "true"}
    raw("POST", "/api/v1/namespaces", {"metadata": {"name": "ops", "labels": label}})
    path = "/apis/resource.k8s.io/v1/namespaces/ops/resourceclaims"
    claim = raw("POST", path, make_claim(adminAccess=True)).body
    raw("PUT", "/api/v1/namespaces/ops", {"metadata": {"name": "ops", "labels": {}}})
    claim["metadata"]["labels"] = {"a": "b"}
    assert raw("PUT", f"{path}/c", claim).code == 200


@pytest.fixture
def set_status(raw: Any, make_claim: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    """Replace the status of a claim."""
    raw("POST", CLAIMS, make_claim())

    def put(status: dict[str, Any]) -> Any:
        claim = raw("GET", f"{CLAIMS}/c").body
        return raw("PUT", f"{CLAIMS}/c/status", claim | {"status": status})

    return put


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"request": "other"}, "status.allocation.devices.results[0].request"),
        ({"device": "GPU-1"}, "status.allocation.devices.results[0].device"),
        ({"pool": ""}, "status.allocation.devices.results[0].pool"),
        ({"shareID": SHARE.upper()}, "status.allocation.devices.results[0].shareID"),
        ({"driver": "Not_A_Name"}, "status.allocation.devices.results[0].driver"),
    ],
)
def test_result_is_refused(set_status: Any, make_allocation: Any, change: dict[str, str], field: str) -> None:
    answer = set_status({"allocation": make_allocation(**change)})
    assert answer.code == 422
    assert answer.body["details"]["causes"][0]["field"] == field


@pytest.mark.parametrize(
    "selector",
    [
        {"nodeSelectorTerms": []},
        {"nodeSelectorTerms": [{"matchFields": [{"key": "spec.x", "operator": "In", "values": ["n"]}]}]},
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n", "m"]}]}]},
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "Exists"}]}]},
    ],
    ids=["no terms", "field", "two values", "operator"],
)
def test_node_selector_shape(set_status: Any, make_allocation: Any, selector: dict[str, Any]) -> None:
    answer = set_status({"allocation": make_allocation() | {"nodeSelector": selector}})
    assert answer.code == 422
    assert answer.causes[0].startswith("status.allocation.nodeSelector")


def test_what_the_server_does_not_check(set_status: Any, make_allocation: Any) -> None:
    """No device, class or capacity exists; two results for a count of one: all accepted, so writers must check."""
    allocation = make_allocation(consumedCapacity={"memory": "900Ti"}, shareID=SHARE)
    allocation["devices"]["results"] *= 2
    assert set_status({"allocation": allocation}).code == 200


def test_allocation_is_set_once_and_may_only_go(set_status: Any, make_allocation: Any) -> None:
    assert set_status({"allocation": make_allocation()}).code == 200
    answer = set_status({"allocation": make_allocation(device="gpu-2")})
    assert "status.allocation" in answer.causes[0]
    assert set_status({}).code == 200
    assert set_status({"allocation": make_allocation(device="gpu-2")}).code == 200


def test_timestamp_cannot_be_added_later(set_status: Any, make_allocation: Any) -> None:
    allocation = make_allocation()
    stamp = allocation.pop("allocationTimestamp")
    assert set_status({"allocation": allocation}).code == 200
    answer = set_status({"allocation": allocation | {"allocationTimestamp": stamp}})
    assert answer.causes[0].endswith("field is immutable")


def test_reserved_for_needs_an_allocation_and_unique_consumers(set_status: Any, make_allocation: Any) -> None:
    consumer = {"resource": "pods", "name": "p", "uid": "u"}
    assert "may not be specified" in set_status({"reservedFor": [consumer]}).causes[0]
    allocation = make_allocation()
    assert set_status({"allocation": allocation, "reservedFor": [consumer] * 2}).code == 422
    assert set_status({"allocation": allocation, "reservedFor": [consumer]}).code == 200
    assert "may not be specified" in set_status({"reservedFor": [consumer]}).causes[0]


def test_device_status_must_name_an_allocated_share(set_status: Any, make_allocation: Any) -> None:
    allocation = make_allocation(shareID=SHARE)
    device = {"driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-1", "data": {"used": 1}}
    assert set_status({"allocation": allocation}).code == 200
    refused = set_status({"allocation": allocation, "devices": [device]})
    assert "must be an allocated device in the claim" in refused.causes[0]
    stored = set_status({"allocation": allocation, "devices": [device | {"shareID": SHARE}]})
    assert stored.body["status"]["devices"][0]["data"] == {"used": 1}
    freed = set_status({"devices": stored.body["status"]["devices"]})
    assert (freed.code, freed.body["status"]) == (200, {}), "entries go with the allocation"


def test_a_claim_that_goes_takes_no_new_consumer(raw: Any, make_claim: Any, make_allocation: Any) -> None:
    body = make_claim()
    body["metadata"]["finalizers"] = ["example.com/f"]
    claim = raw("POST", CLAIMS, body).body
    claim = raw("PUT", f"{CLAIMS}/c/status", claim | {"status": {"allocation": make_allocation()}}).body
    claim = raw("DELETE", f"{CLAIMS}/c").body
    claim["status"]["reservedFor"] = [{"resource": "pods", "name": "p", "uid": "u"}]
    assert raw("PUT", f"{CLAIMS}/c/status", claim).code == 422


@pytest.mark.parametrize(
    ("pod", "field"),
    [
        ({"containers": []}, "spec.containers"),
        ({"containers": [{"name": "c"}]}, "spec.containers[0].image"),
        (
            {"containers": [{"name": "c", "image": "x", "resources": {"claims": [{"name": "g"}]}}]},
            "spec.containers[0].resources.claims[0]",
        ),
        (
            {"containers": [{"name": "c", "image": "x"}], "resourceClaims": [{"name": "g"}]},
            "spec.resourceClaims[0]",
        ),
        ({"containers": [{"name": "c", "image": "x"}] * 2}, "spec.containers[1].name"),
    ],
    ids=["no containers", "no image", "unknown claim", "claim without source", "same name"],
)
def test_pod_is_refused(raw: Any, pod: dict[str, Any], field: str) -> None:
    answer = raw("POST", PODS, {"metadata": {"name": "p"}, "spec": pod})
    assert [cause["field"] for cause in answer.body["details"]["causes"]] == [field]
