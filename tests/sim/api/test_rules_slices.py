"""Validation of ResourceSlices: one bad device and the whole slice is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

SLICES = "/apis/resource.k8s.io/v1/resourceslices"


def _policy(default: str = "8Gi", **limits: str) -> dict[str, Any]:
    return {"default": default, "validRange": {"min": "0", "max": "8Gi", "step": "1Mi"} | limits}


def _slice(**device: Any) -> dict[str, Any]:
    entry = {
        "name": "gpu-1",
        "allowMultipleAllocations": True,
        "capacity": {"memory": {"value": "8Gi", "requestPolicy": _policy()}},
    } | device
    spec = {
        "driver": "gpu.fracgpu.dev",
        "nodeName": "n1",
        "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
        "devices": [entry],
    }
    return {"metadata": {"name": "s"}, "spec": spec}


def _capacity(**policy: Any) -> dict[str, Any]:
    return {"capacity": {"memory": {"value": "8Gi", "requestPolicy": policy}}}


DEVICE = "spec.devices[0]"
POLICY = f"{DEVICE}.capacity[memory].requestPolicy"


def test_good_slice_is_stored_canonically(raw: Any) -> None:
    body = _slice(capacity={"memory": {"value": "8192Mi", "requestPolicy": _policy()}, "cores": {"value": 100}})
    stored = raw("POST", SLICES, body).body
    assert stored["metadata"]["generation"] == 1
    assert stored["spec"]["devices"][0]["capacity"]["memory"]["value"] == "8Gi"
    assert stored["spec"]["devices"][0]["capacity"]["cores"]["value"] == "100"
    assert (
        raw("PUT", f"{SLICES}/s", stored).body["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]
    )


@pytest.mark.parametrize(
    ("device", "field"),
    [
        pytest.param({"name": "GPU_1"}, f"{DEVICE}.name", id="name"),
        pytest.param({"allowMultipleAllocations": False}, POLICY, id="policy without sharing"),
        pytest.param(_capacity(validRange={"min": "0"}), f"{POLICY}.default", id="no default"),
        pytest.param(_capacity(**_policy("9Gi")), f"{POLICY}.validRange.max", id="default above max"),
        pytest.param(_capacity(**_policy(max="9Gi")), f"{POLICY}.validRange.max", id="max above value"),
        pytest.param(_capacity(**_policy(min="9Gi", max="9Gi")), f"{POLICY}.validRange.min", id="min above value"),
        pytest.param(_capacity(**_policy(step="0")), f"{POLICY}.validRange.step", id="step zero"),
        pytest.param(_capacity(**_policy(step="3Gi")), f"{POLICY}.validRange.step", id="max off the step"),
        pytest.param(_capacity(**_policy("1")), f"{POLICY}.validRange.step", id="default off the step"),
        pytest.param(_capacity(default="1", validRange={}, validValues=["1"]), f"{POLICY}", id="two policies"),
        pytest.param(
            _capacity(default="1Gi", validValues=["2Gi", "1Gi"]), f"{POLICY}.validValues[1]", id="unsorted values"
        ),
        pytest.param({"attributes": {"a-b": {"int": 1}}}, f"{DEVICE}.attributes", id="attribute name"),
        pytest.param({"attributes": {"a": {}}}, f"{DEVICE}.attributes[a]", id="attribute without value"),
        pytest.param({"attributes": {"a": {"int": 1, "bool": True}}}, f"{DEVICE}.attributes[a]", id="two values"),
        pytest.param({"attributes": {"a": {"string": "x" * 65}}}, f"{DEVICE}.attributes[a].string", id="long text"),
        pytest.param(
            {"attributes": {"a": {"version": "580.65.06"}}}, f"{DEVICE}.attributes[a].version", id="leading zero"
        ),
        pytest.param({"attributes": {f"a{i}": {"int": i} for i in range(32)}}, DEVICE, id="too many attributes"),
        pytest.param({"taints": [{"key": "k", "effect": "Evict"}]}, f"{DEVICE}.taints[0].effect", id="taint effect"),
    ],
)
def test_slice_is_refused(raw: Any, device: dict[str, Any], field: str) -> None:
    if field == POLICY and "validValues" in device.get("capacity", {}).get("memory", {}).get("requestPolicy", {}):
        device["capacity"]["memory"]["requestPolicy"]["validRange"] = {"min": "0"}
    answer = raw("POST", SLICES, _slice(**device))
    assert answer.code == 422
    assert field in [cause["field"] for cause in answer.body["details"]["causes"]]


@pytest.mark.parametrize(
    ("tainted", "count", "code"), [(False, 128, 201), (False, 129, 422), (True, 64, 201), (True, 65, 422)]
)
def test_number_of_devices(raw: Any, tainted: bool, count: int, code: int) -> None:
    body = _slice()
    first = body["spec"]["devices"][0]
    body["spec"]["devices"] = [first | {"name": f"gpu-{index}"} for index in range(count)]
    if tainted:
        body["spec"]["devices"][-1]["taints"] = [{"key": "k", "effect": "NoSchedule"}]
    assert raw("POST", SLICES, body).code == code


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"nodeName": "n2"}, "spec.nodeName"),
        ({"driver": "d.example.com"}, "spec.driver"),
        ({"pool": {"name": "n2", "generation": 1, "resourceSliceCount": 1}}, "spec.pool.name"),
    ],
)
def test_identity_of_a_slice_is_immutable(raw: Any, change: dict[str, Any], field: str) -> None:
    stored = raw("POST", SLICES, _slice()).body
    changed = copy.deepcopy(stored)
    changed["spec"] |= change
    answer = raw("PUT", f"{SLICES}/s", changed)
    assert answer.causes == [f"{field}: {answer.causes[0].split(': ', 1)[1]}"]
    assert answer.causes[0].endswith("field is immutable")


@pytest.mark.parametrize("choice", [{}, {"nodeName": "n1", "allNodes": True}], ids=["none", "two"])
def test_slice_names_its_nodes_in_exactly_one_way(raw: Any, choice: dict[str, Any]) -> None:
    body = _slice()
    del body["spec"]["nodeName"]
    body["spec"] |= choice
    assert raw("POST", SLICES, body).body["details"]["causes"][0]["field"] == "spec"
