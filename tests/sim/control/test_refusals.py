"""Pods that get nothing, and the reason that they are given."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.sim.api import resources as r


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        (
            {"device_class": "nowhere"},
            "ClassNotFound (claim default/c request gpu: device class nowhere does not exist",
        ),
        ({"memory": "1Gi", "config": {"memory": "2Gi"}}, "AmountsDisagree"),
        ({"config": {"strict": True}}, "ConfigInvalid (claim default/c request gpu: FractionConfig field strict"),
        ({"config": {"memmory": "2Gi"}}, "ConfigInvalid (claim default/c request gpu: FractionConfig field memmory"),
        ({"count": 33}, "ConfigInvalid (claim default/c request gpu: count 33 is not possible; ask for 1 to 32 GPUs"),
        (
            {"selectors": [{"cel": {"expression": "device.driver =="}}]},
            "SelectorNotSupported (claim default/c request gpu: CEL expression 'device.driver =='",
        ),
        (
            {"selectors": [{"cel": {"expression": "device.attributes['x'].y == 1"}}]},
            "SelectorFailed (2/2 GPUs: CEL expression \"device.attributes['x'].y == 1\" cannot be evaluated",
        ),
    ],
    ids=["class", "amounts", "class only", "unknown field", "count", "selector", "selector of a GPU"],
)
def test_what_cannot_be_tried_is_refused_by_name(
    one_node: Any, make_claim: Any, make_pod: Any, claim: dict[str, Any], text: str
) -> None:
    one_node.apply(make_claim("c", **claim), make_pod("p", claim="c"))
    one_node.refusal("p", text)
    assert "allocation" not in one_node.get(r.RESOURCE_CLAIMS, "c")["status"]


def test_gpus_of_the_scheduler_and_broken_ones_are_left_alone(
    world: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    taint = [{"key": "gpu.fracgpu.dev/unhealthy", "effect": "NoSchedule"}]
    world.slice(world.node("n1"), make_gpu("gpu-a", allocator="scheduler"), make_gpu("gpu-b", taints=taint))
    world.apply(make_claim("c", "1Gi"), make_pod("p", claim="c"))
    world.refusal("p", "CardNotHealth (1/1 GPUs: untolerated taint gpu.fracgpu.dev/unhealthy:NoSchedule)")


def test_allocation_without_amounts_counts_as_the_whole_gpu(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    (claim,) = one_node.apply(make_claim("foreign", "1Gi"))
    results = [
        {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": device} for device in ("gpu-a", "gpu-b")
    ]
    claim["status"] = {"allocation": {"allocationTimestamp": "2026-01-01T00:00:00Z", "devices": {"results": results}}}
    one_node.client.update(r.RESOURCE_CLAIMS, claim, subresource="status")
    one_node.apply(make_claim("c", "1Gi"), make_pod("p", claim="c"))
    one_node.refusal("p", "ExclusiveDeviceAllocateConflict (2/2 GPUs: held whole by another allocation)")
