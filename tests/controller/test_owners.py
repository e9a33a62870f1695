"""Who else hands out GPUs of our nodes, as far as the API shows it."""

from typing import Any

import pytest

from fracgpu.controller.owners import SecondOwner, second_owners

Json = dict[str, Any]


def node(name: str, **allocatable: Any) -> Json:
    return {"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", **allocatable}}}


def published(name: str, driver: str = "gpu.fracgpu.dev", devices: int = 1) -> Json:
    return {"spec": {"driver": driver, "nodeName": name, "devices": [{"name": f"d{i}"} for i in range(devices)]}}


def test_nobody_else() -> None:
    nodes = [node("a", **{"nvidia.com/gpu": "0", "example.com/gpu": "1"}), node("b", **{"nvidia.com/gpu": "8"})]
    slices = [published("a"), published("b", "gpu.nvidia.com"), published("a", "compute-domain.nvidia.com")]
    assert second_owners(nodes, slices) == []


def test_each_second_owner_is_named_with_its_node_and_a_remedy() -> None:
    nodes = [
        node("b", **{"nvidia.com/gpu": "8"}),
        node("a", **{"nvidia.com/gpu.shared": 40, "nvidia.com/mig-1g.5gb": "7", "nvidia.com/gpu": "junk"}),
    ]
    slices = [published("a"), published("b"), published("b", "gpu.nvidia.com"), published("a", "gpu.nvidia.com", 0)]
    remedy = "keep its device plugin off this node (its DaemonSet's nodeSelector)"
    dra = "let it serve ComputeDomains only (resources.gpus.enabled=false), or keep it off this node"
    assert second_owners(nodes, slices) == [
        SecondOwner("a", "NVIDIA's device plugin offers 7 nvidia.com/mig-1g.5gb", remedy),
        SecondOwner("a", "NVIDIA's device plugin, time-slicing or MPS offers 40 nvidia.com/gpu.shared", remedy),
        SecondOwner("b", "NVIDIA's DRA driver gpu.nvidia.com publishes GPUs", dra),
        SecondOwner("b", "NVIDIA's device plugin or HAMi offers 8 nvidia.com/gpu", remedy),
    ]


@pytest.mark.parametrize("broken", [{}, {"metadata": None, "status": None}, {"metadata": {"name": "a"}}])
def test_incomplete_objects_are_no_owners(broken: Json) -> None:
    assert second_owners([broken], [published("a"), {}, {"spec": None}]) == []
