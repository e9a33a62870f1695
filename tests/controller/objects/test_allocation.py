"""The body of an allocation: exactly what kube-scheduler and Prepare expect."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from fracgpu.controller.fit.views import PlacedDevice
from fracgpu.controller.objects.allocation import build_allocation
from fracgpu.controller.objects.holdings import node_of
from fracgpu.driver.amounts import Amounts
from fracgpu.driver.errors import FracgpuError

GIB = 1024**3
NOW = "2026-01-02T03:04:05Z"


def _placed(request: str = "gpu", device: str = "gpu-a", *, memory: int = 8, **changes: Any) -> PlacedDevice:
    amounts = Amounts(memory_bytes=memory * GIB, cores=30, slots=1)
    defaults: dict[str, Any] = {"claim": "uid-c", "class_name": "gpu.fracgpu.dev", "pool": "n1", "amounts": amounts}
    return PlacedDevice(request=request, device=device, **(defaults | changes))


def _build(claim: Any, *devices: PlacedDevice, find: Any, keeps_capacity: bool = True) -> Any:
    ids = (f"00000000-0000-4000-8000-{at:012d}" for at in itertools.count())
    return build_allocation(
        claim, "n1", devices, find_class=find, keeps_capacity=keeps_capacity, now=NOW, share_ids=lambda: next(ids)
    )


def _grant(*results: Any) -> Any:
    parameters = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionGrant", "results": list(results)}
    return {"source": "FromClass", "opaque": {"driver": "gpu.fracgpu.dev", "parameters": parameters}}


GRANTED = {
    "request": "gpu",
    "pool": "n1",
    "device": "gpu-a",
    "ordinal": 0,
    "memoryBytes": 8 * GIB,
    "cores": 30,
    "slots": 1,
}


def test_whole_body(claim: Any, exactly: Any, find_class: Any) -> None:
    body = _build(claim(exactly()), _placed(), find=find_class())
    assert body == {
        "allocationTimestamp": NOW,
        "nodeSelector": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]
        },
        "devices": {
            "results": [
                {
                    "request": "gpu",
                    "driver": "gpu.fracgpu.dev",
                    "pool": "n1",
                    "device": "gpu-a",
                    "shareID": "00000000-0000-4000-8000-000000000000",
                    "consumedCapacity": {"memory": "8Gi", "cores": "30", "slots": "1"},
                }
            ],
            "config": [_grant(GRANTED)],
        },
    }
    assert node_of({"status": {"allocation": body}}) == "n1"


def test_where_capacity_is_not_kept_only_the_grant_has_amounts(claim: Any, exactly: Any, find_class: Any) -> None:
    body = _build(claim(exactly()), _placed(), find=find_class(), keeps_capacity=False)
    assert body["devices"]["results"] == [
        {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-a"}
    ]
    assert body["devices"]["config"] == [_grant(GRANTED)]


def test_every_result_has_a_share_of_its_own_and_its_ordinal(claim: Any, exactly: Any, find_class: Any) -> None:
    body = _build(claim(exactly(count=2)), _placed(), _placed(device="gpu-b", memory=4), find=find_class())
    results = body["devices"]["results"]
    assert len({result["shareID"] for result in results}) == 2
    granted = body["devices"]["config"][0]["opaque"]["parameters"]["results"]
    assert [(entry["ordinal"], entry["device"], entry["memoryBytes"]) for entry in granted] == [
        (0, "gpu-a", 8 * GIB),
        (1, "gpu-b", 4 * GIB),
    ]


def test_devices_of_other_claims_are_not_written(claim: Any, exactly: Any, find_class: Any) -> None:
    other = _placed(claim="uid-other", device="gpu-b")
    body = _build(claim(exactly()), other, _placed(), find=find_class())
    assert [result["device"] for result in body["devices"]["results"]] == ["gpu-a"]
    assert body["devices"]["config"] == [_grant(GRANTED)]


def test_admin_access_is_marked_and_counts_nothing(claim: Any, exactly: Any, find_class: Any) -> None:
    nothing = Amounts(memory_bytes=0, cores=0, slots=0, limited=False)
    body = _build(claim(exactly(adminAccess=True)), _placed(admin=True, amounts=nothing), find=find_class())
    (result,) = body["devices"]["results"]
    assert result["adminAccess"] is True
    assert result["consumedCapacity"] == {"memory": "0", "cores": "0", "slots": "0"}


def test_config_of_classes_then_grant_then_claim(
    claim: Any, exactly: Any, find_class: Any, device_class: Any, opaque: Any
) -> None:
    first, second = opaque({"memory": "1Gi"}), opaque({"colour": 1.5}, driver="nic.example")
    find = find_class(
        device_class(first, second), device_class(opaque({"cores": 5}), name="k"), device_class(first, name="unused")
    )
    own = [opaque({"weight": 2}), opaque({"weight": 3}, requests=["b"], driver="nic.example")]
    asked = claim(exactly("a"), exactly("b"), exactly("c", deviceClassName="k"), config=own)
    placed = [_placed("a"), _placed("b", "gpu-b"), _placed("c", "gpu-c", class_name="k")]
    config = _build(asked, *placed, find=find)["devices"]["config"]
    assert config[:3] == [
        {"source": "FromClass", "requests": ["a", "b"], "opaque": first["opaque"]},
        {"source": "FromClass", "requests": ["a", "b"], "opaque": second["opaque"]},
        {"source": "FromClass", "requests": ["c"], "opaque": opaque({"cores": 5})["opaque"]},
    ]
    assert config[3]["opaque"]["parameters"]["kind"] == "FractionGrant"
    assert config[4:] == [
        {"source": "FromClaim", "opaque": own[0]["opaque"]},
        {"source": "FromClaim", "requests": ["b"], "opaque": own[1]["opaque"]},
    ]


def test_alternative_that_was_chosen(claim: Any, find_class: Any, device_class: Any, opaque: Any) -> None:
    several = {
        "name": "gpu",
        "firstAvailable": [
            {"name": "x", "deviceClassName": "k", "tolerations": [{"key": "x", "operator": "Exists"}]},
            {"name": "y", "tolerations": [{"key": "y", "operator": "Exists"}]},
        ],
    }
    own = [opaque({}, requests=[name]) for name in ("gpu", "gpu/x", "gpu/y")]
    find = find_class(device_class(), device_class(opaque({}), name="k"))
    devices = _build(claim(several, config=own), _placed("gpu/y"), find=find)["devices"]
    (result,) = devices["results"]
    assert (result["request"], result["tolerations"]) == ("gpu/y", [{"key": "y", "operator": "Exists"}])
    assert [entry["requests"] for entry in devices["config"][1:]] == [["gpu"], ["gpu/y"]]
    assert devices["config"][0]["opaque"]["parameters"]["results"][0]["request"] == "gpu/y"


def test_tolerations_of_the_request_ride_along(claim: Any, exactly: Any, find_class: Any) -> None:
    tolerations = [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": 60}]
    asked = claim(exactly("a", tolerations=tolerations), exactly("b"))
    one, two = _build(asked, _placed("a"), _placed("b", "gpu-b"), find=find_class())["devices"]["results"]
    assert one["tolerations"] == tolerations
    assert "tolerations" not in two


def test_more_than_an_allocation_holds(claim: Any, exactly: Any, find_class: Any) -> None:
    placed = [_placed(device=f"gpu-{at}") for at in range(33)]
    with pytest.raises(FracgpuError, match="would get 33 GPUs of node n1"):
        _build(claim(exactly(allocationMode="All")), *placed, find=find_class())
    assert _build(claim(exactly(allocationMode="All")), *placed[1:], find=find_class())
