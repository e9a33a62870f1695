"""ResourceSlices, against the API server's validation rules (k8s.io/kubernetes pkg/apis/resource/validation)."""

import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracgpu.driver.errors import InventoryUnavailable
from fracgpu.driver.names import device_name
from fracgpu.driver.quantity import parse_quantity
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.publish.slice_diff import dropped_fields, same_slice
from fracgpu.kubeletplugin.publish.slices import build_slice, slice_name

OPTIONS = PluginOptions(node_name="n1")
SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")


def check_slice(item: dict[str, Any]) -> None:
    """Assert what the API server would refuse the whole slice for."""
    spec = item["spec"]
    assert len(item["metadata"]["name"]) <= 253
    assert spec["driver"] == "gpu.fracgpu.dev"
    assert spec["pool"]["name"] == spec["nodeName"]
    devices = spec["devices"]
    assert len(devices) <= (64 if any("taints" in device for device in devices) else 128)
    assert len({device["name"] for device in devices}) == len(devices)
    for device in devices:
        assert DNS_LABEL.fullmatch(device["name"])
        assert len(device["attributes"]) + len(device["capacity"]) <= 32
        for name, attribute in device["attributes"].items():
            check_attribute(name, attribute)
        for name, capacity in device["capacity"].items():
            assert C_IDENTIFIER.fullmatch(name)
            check_capacity(capacity)


def check_attribute(name: str, attribute: dict[str, Any]) -> None:
    domain, _, identifier = name.rpartition("/")
    assert C_IDENTIFIER.fullmatch(identifier)
    assert domain in ("", "resource.kubernetes.io")
    ((kind, value),) = attribute.items()
    if kind == "string":
        assert len(value.encode()) <= 64
    elif kind == "version":
        assert SEMVER.fullmatch(value)
        assert len(value) <= 64
    elif kind == "int":
        assert isinstance(value, int)
    else:
        assert kind == "bool"
        assert isinstance(value, bool)


def check_capacity(capacity: dict[str, Any]) -> None:
    value = parse_quantity(capacity["value"])
    policy = capacity["requestPolicy"]
    default = parse_quantity(policy["default"])
    low, high, step = (parse_quantity(policy["validRange"][key]) for key in ("min", "max", "step"))
    assert low <= default <= high <= value
    assert step > 0
    assert low + step <= value
    assert (default - low) % step == 0
    assert (high - low) % step == 0
    assert low == 0


def test_a_device_says_all_that_selectors_ask_for(world: Any) -> None:
    item = build_slice([world.gpu(0)], OPTIONS, node_uid="u")
    check_slice(item)
    assert item == {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {
            "name": "00000-gpu.fracgpu.dev-n1",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": True}],
        },
        "spec": {
            "driver": "gpu.fracgpu.dev",
            "nodeName": "n1",
            "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
            "devices": [
                {
                    "name": "gpu-11111111",
                    "allowMultipleAllocations": True,
                    "attributes": {
                        "uuid": {"string": "GPU-11111111-1111-1111-1111-111111111111"},
                        "productName": {"string": "NVIDIA L40S"},
                        "brand": {"string": "Nvidia"},
                        "architecture": {"string": "Ada"},
                        "pciBusID": {"string": "0000:00:00.0"},
                        "allocator": {"string": "controller"},
                        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
                        "driverVersion": {"version": "580.65.6"},
                        "cudaDriverVersion": {"version": "13.0.0"},
                        "cudaComputeCapability": {"version": "8.9.0"},
                        "physicalMemoryMiB": {"int": 45056},
                        "numaNode": {"int": 0},
                        "oversubscribed": {"bool": False},
                    },
                    "capacity": {
                        "memory": {
                            "value": "44Gi",
                            "requestPolicy": {
                                "default": "44Gi",
                                "validRange": {"min": "0", "max": "44Gi", "step": "1Mi"},
                            },
                        },
                        "cores": {
                            "value": "100",
                            "requestPolicy": {"default": "0", "validRange": {"min": "0", "max": "100", "step": "1"}},
                        },
                        "slots": {
                            "value": "10",
                            "requestPolicy": {"default": "1", "validRange": {"min": "0", "max": "1", "step": "1"}},
                        },
                    },
                }
            ],
        },
    }


def test_both_allocators_get_the_same_devices_but_for_the_owner(world: Any) -> None:
    ours = build_slice([world.gpu(0)], OPTIONS, node_uid="u")
    theirs = build_slice([world.gpu(0)], replace(OPTIONS, allocator="scheduler"), node_uid="u")
    assert theirs["spec"]["devices"][0]["attributes"].pop("allocator") == {"string": "scheduler"}
    assert ours["spec"]["devices"][0]["attributes"].pop("allocator") == {"string": "controller"}
    assert ours == theirs


def test_unknown_values_are_said_and_only_the_pcie_root_is_left_out(world: Any) -> None:
    gpu = world.gpu(
        0,
        pcie_root=None,
        numa_node=-1,
        brand="",
        architecture="",
        driver_version="0.0.0",
        cuda_driver_version="0.0.0",
        compute_capability="0.0.0",
    )
    item = build_slice([gpu], OPTIONS, node_uid="u")
    check_slice(item)
    attributes = item["spec"]["devices"][0]["attributes"]
    assert attributes["brand"] == {"string": ""}
    assert attributes["numaNode"] == {"int": -1}
    assert attributes["driverVersion"] == {"version": "0.0.0"}
    assert len(attributes) == 12


def test_scales_raise_the_capacity_but_not_what_one_claim_may_have(world: Any) -> None:
    options = replace(OPTIONS, memory_scale=Decimal("1.1"), cores_scale=Decimal("1.5"), slots=3)
    item = build_slice([world.gpu(0)], options, node_uid="u")
    check_slice(item)
    device = item["spec"]["devices"][0]
    assert device["capacity"]["memory"]["value"] == f"{45056 * 11 // 10}Mi"
    assert device["capacity"]["memory"]["requestPolicy"]["validRange"]["max"] == "44Gi"
    assert device["capacity"]["cores"]["value"] == "150"
    assert device["capacity"]["slots"]["value"] == "3"
    assert device["attributes"]["oversubscribed"] == {"bool": True}


def test_a_node_without_gpus_has_an_empty_slice() -> None:
    item = build_slice([], OPTIONS, node_uid="u")
    check_slice(item)
    assert item["spec"]["devices"] == []


def test_devices_come_in_order_of_their_index(world: Any) -> None:
    item = build_slice([world.gpu(1), world.gpu(0)], OPTIONS, node_uid="u")
    assert [device["name"] for device in item["spec"]["devices"]] == ["gpu-11111111", "gpu-22222222"]


def test_an_unhealthy_gpu_stays_with_a_taint(world: Any) -> None:
    item = build_slice([world.gpu(0, healthy=False), world.gpu(1)], OPTIONS, node_uid="u")
    check_slice(item)
    first, second = item["spec"]["devices"]
    assert first["taints"] == [{"key": "gpu.fracgpu.dev/unhealthy", "effect": "NoSchedule"}]
    assert "taints" not in second


def test_a_gpu_without_memory_is_left_out_rather_than_the_whole_slice_refused(world: Any) -> None:
    item = build_slice([world.gpu(0, memory_total_bytes=0), world.gpu(1)], OPTIONS, node_uid="u")
    check_slice(item)
    assert [device["name"] for device in item["spec"]["devices"]] == ["gpu-22222222"]


def test_gpus_whose_device_names_collide_are_refused(world: Any) -> None:
    twin = world.gpu(1, uuid="GPU-11111111-2222-2222-2222-222222222222")
    with pytest.raises(InventoryUnavailable, match="both be device gpu-11111111; move one of them to another node"):
        build_slice([world.gpu(0), twin], OPTIONS, node_uid="u")


def test_more_gpus_than_a_slice_holds_are_refused(world: Any) -> None:
    gpus = [world.gpu(0, uuid=f"GPU-{n:08x}-1111-1111-1111-111111111111", index=n) for n in range(129)]
    check_slice(build_slice(gpus[:128], OPTIONS, node_uid="u"))
    with pytest.raises(InventoryUnavailable, match="129 GPUs do not fit into one ResourceSlice of 128"):
        build_slice(gpus, OPTIONS, node_uid="u")
    with pytest.raises(InventoryUnavailable, match="65 GPUs do not fit into one ResourceSlice of 64"):
        build_slice([*gpus[:64], replace(gpus[64], healthy=False)], OPTIONS, node_uid="u")


def test_long_node_names_keep_the_name_valid_and_distinct() -> None:
    long = ["a" * 252 + end for end in "bc"]
    names = {slice_name(name) for name in long}
    assert len(names) == 2
    assert all(len(name) <= 253 and name[-1].isalnum() for name in names)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    memory=st.integers(2**20, 2**40),
    memory_scale=st.decimals(1, 10, places=3),
    cores_scale=st.decimals(1, 10, places=2),
    slots=st.integers(1, 1024),
    product=st.text(max_size=100),
    uuid=st.uuids(),
)
def test_any_gpu_makes_a_slice_that_the_api_server_takes(
    world: Any,
    memory: int,
    memory_scale: Decimal,
    cores_scale: Decimal,
    slots: int,
    product: str,
    uuid: Any,
) -> None:
    options = replace(OPTIONS, memory_scale=memory_scale, cores_scale=cores_scale, slots=slots)
    gpu = world.gpu(0, memory_total_bytes=memory, product_name=product, uuid=f"GPU-{uuid}")
    item = build_slice([gpu], options, node_uid="u")
    check_slice(item)
    assert item["spec"]["devices"][0]["name"] == device_name(gpu.uuid)


def test_slices_are_compared_by_meaning(world: Any) -> None:
    wanted = build_slice([world.gpu(0)], OPTIONS, node_uid="u")
    stored = build_slice([world.gpu(0)], OPTIONS, node_uid="u")
    stored["metadata"].update(resourceVersion="7", uid="x", managedFields=[{}])
    stored["spec"]["devices"][0]["capacity"]["memory"]["value"] = "45056Mi"
    stored["spec"]["devices"][0]["taints"] = []
    assert same_slice(wanted, stored)
    changes: tuple[Callable[[], object], ...] = (
        lambda: stored["spec"]["devices"][0]["attributes"].update(more={"int": 1}),
        lambda: stored["spec"]["devices"][0]["attributes"].pop("more"),
        lambda: stored["metadata"]["ownerReferences"][0].update(uid="other"),
    )
    for change in changes:
        was = same_slice(wanted, stored)
        change()
        assert same_slice(wanted, stored) is not was


def test_dropped_fields_are_named(world: Any) -> None:
    wanted = build_slice([world.gpu(0), world.gpu(1)], OPTIONS, node_uid="u")
    stored = build_slice([world.gpu(0), world.gpu(1)], OPTIONS, node_uid="u")
    assert dropped_fields(wanted, stored) == ()
    del stored["spec"]["devices"][1]["allowMultipleAllocations"]
    for capacity in stored["spec"]["devices"][0]["capacity"].values():
        del capacity["requestPolicy"]
    assert dropped_fields(wanted, stored) == ("allowMultipleAllocations", "requestPolicy")
