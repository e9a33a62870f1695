"""The API server without DRAConsumableCapacity: what it drops without a word."""

from __future__ import annotations

from typing import Any

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
ROOT = "/apis/resource.k8s.io/v1"


def test_capacity_requests_and_distinct_attribute_are_dropped(gate_off: Any, make_claim: Any) -> None:
    body = make_claim(capacity={"requests": {"memory": "8Gi"}})
    stored = gate_off("POST", CLAIMS, body).body
    assert "capacity" not in stored["spec"]["devices"]["requests"][0]["exactly"]
    template = {"metadata": {"name": "t"}, "spec": {"spec": body["spec"]}}
    stored = gate_off("POST", f"{ROOT}/namespaces/default/resourceclaimtemplates", template).body
    assert "capacity" not in stored["spec"]["spec"]["devices"]["requests"][0]["exactly"]


def test_share_and_consumed_capacity_are_dropped(gate_off: Any, make_claim: Any, make_allocation: Any) -> None:
    claim = gate_off("POST", CLAIMS, make_claim()).body
    share = "0b9d5a5e-3f6e-4c0c-9a0e-5a8f4f1d2c3b"
    allocation = make_allocation(shareID=share, consumedCapacity={"memory": "8Gi"})
    stored = gate_off("PUT", f"{CLAIMS}/c/status", claim | {"status": {"allocation": allocation}})
    assert stored.code == 200
    result = stored.body["status"]["allocation"]["devices"]["results"][0]
    assert set(result) == {"request", "driver", "pool", "device"}


def test_sharing_of_devices_is_dropped(gate_off: Any) -> None:
    policy = {"default": "1", "validRange": {"min": "0"}}
    device = {
        "name": "gpu-1",
        "allowMultipleAllocations": True,
        "capacity": {"memory": {"value": "8Gi", "requestPolicy": policy}},
    }
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.fracgpu.dev", "nodeName": "n1", "pool": pool, "devices": [device]}
    stored = gate_off("POST", f"{ROOT}/resourceslices", {"metadata": {"name": "s"}, "spec": spec}).body
    assert stored["spec"]["devices"] == [{"name": "gpu-1", "capacity": {"memory": {"value": "8Gi"}}}]


def test_class_that_asks_for_sharing_is_refused(gate_off: Any, raw: Any) -> None:
    selector = {"cel": {"expression": "device.allowMultipleAllocations == true"}}
    body = {"metadata": {"name": "k"}, "spec": {"selectors": [selector]}}
    answer = gate_off("POST", f"{ROOT}/deviceclasses", body)
    assert "undefined field" in answer.causes[0]
    assert raw("POST", f"{ROOT}/deviceclasses", body).code == 201


def test_gate_shows_in_the_metrics(gate_off: Any, raw: Any) -> None:
    name = 'kubernetes_feature_enabled{name="DRAConsumableCapacity",stage="BETA"}'
    assert f"{name} 0".encode() in gate_off("GET", "/metrics").raw
    assert f"{name} 1".encode() in raw("GET", "/metrics").raw
