"""From slices to the GPUs that are counted with."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fracgpu.controller.fit.views import Taint
from fracgpu.controller.objects.inventory import gpus_of, read_inventory

GIB = 1024**3


def _gpus(*slices: Any) -> list[str]:
    return [f"{gpu.pool}/{gpu.device}" for gpu in gpus_of(slices, owner="controller")]


def test_view_has_what_the_plugin_published(slice_of: Any, device: Any) -> None:
    (view,) = gpus_of([slice_of(device("gpu-a", 80, physical=40))], owner="controller")
    assert (view.node, view.key) == ("n1", ("n1", "gpu-a"))
    assert (view.memory_bytes, view.physical_memory_bytes, view.cores, view.slots) == (80 * GIB, 40 * GIB, 100, 10)
    assert view.attributes == {
        "uuid": "GPU-gpu-a",
        "allocator": "controller",
        "physicalMemoryMiB": 40960,
        "numaNode": 0,
        "oversubscribed": True,
        "driverVersion": "580.65.6",
        "resource.kubernetes.io/pcieRoot": "pci0000:00",
    }
    assert view.attributes["oversubscribed"] is True
    assert view.taints == ()


def test_own_names_may_carry_the_domain(slice_of: Any, device: Any) -> None:
    qualified = device("gpu-a")
    for field in ("attributes", "capacity"):
        qualified[field] = {
            key if "/" in key else f"gpu.fracgpu.dev/{key}": qualified[field][key] for key in qualified[field]
        }
    assert gpus_of([slice_of(qualified)], owner="controller") == gpus_of(
        [slice_of(device("gpu-a"))], owner="controller"
    )


def test_taints_are_there_whatever_their_effect(slice_of: Any, device: Any) -> None:
    taints = [{"key": "a/b", "effect": "None"}, {"key": "c", "value": "v", "effect": "NoExecute", "timeAdded": "t"}]
    (view,) = gpus_of([slice_of(device("gpu-a", taints=taints))], owner="controller")
    assert view.taints == (Taint(key="a/b", effect="None"), Taint(key="c", value="v", effect="NoExecute"))


def test_only_the_newest_generation_counts(slice_of: Any, device: Any) -> None:
    assert _gpus(slice_of(device("old")), slice_of(device("new"), generation=2)) == ["n1/new"]


def test_incomplete_pool_has_no_gpus_and_is_no_problem(slice_of: Any, device: Any) -> None:
    one, two = slice_of(device("gpu-a"), count=2), slice_of(device("gpu-b"), count=2)
    assert read_inventory([one], owner="controller") == read_inventory([], owner="controller")
    assert _gpus(one, two) == ["n1/gpu-a", "n1/gpu-b"]


def test_other_drivers_and_other_allocators(slice_of: Any, device: Any) -> None:
    theirs = device("gpu-b")
    theirs["attributes"]["allocator"] = {"string": "scheduler"}
    slices = [slice_of(device("gpu-a"), theirs), slice_of(device("nic"), node="n2", driver="nic.example.com")]
    assert _gpus(*slices) == ["n1/gpu-a"]
    assert [gpu.device for gpu in gpus_of(slices, owner="scheduler")] == ["gpu-b"]
    assert read_inventory(slices, owner="scheduler").problems == ()


def _without(field: str, name: str) -> Any:
    def change(device: Any) -> None:
        del device[field][name]

    return change


def _with(field: str, value: Any) -> Any:
    def change(device: Any) -> None:
        device[field] = value

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_without("capacity", "memory"), "capacity memory"),
        (_without("capacity", "slots"), "capacity slots"),
        (lambda device: device["capacity"].update(cores={"value": "1.5"}), "capacity cores"),
        (lambda device: device["capacity"].update(memory={"value": "lots"}), "capacity memory"),
        (lambda device: device["capacity"].update(memory={"value": "-1Gi"}), "capacity memory"),
        (_with("capacity", "none"), "capacity memory"),
        (_without("attributes", "physicalMemoryMiB"), "physicalMemoryMiB"),
        (lambda device: device["attributes"].update(physicalMemoryMiB={"int": True}), "physicalMemoryMiB"),
        (lambda device: device["attributes"].update(physicalMemoryMiB={"string": "40"}), "physicalMemoryMiB"),
        (_without("attributes", "allocator"), "allocator"),
        (lambda device: device["attributes"].update(allocator={"string": "nobody"}), "allocator"),
        (_with("name", ""), "name"),
        (_with("taints", [{"effect": "NoSchedule"}]), "taints"),
        (_with("taints", "x"), "taints"),
        (_with("taints", [None]), "taints"),
    ],
)
def test_broken_device_is_left_out_and_told_and_costs_nobody_else(
    slice_of: Any, device: Any, change: Any, what: str
) -> None:
    broken = copy.deepcopy(device("gpu-b"))
    change(broken)
    found = read_inventory(
        [slice_of(device("gpu-a"), broken), slice_of(device("gpu-c"), node="n2")], owner="controller"
    )
    assert [gpu.device for gpu in found.gpus] == ["gpu-a", "gpu-c"]
    (problem,) = found.problems
    assert what in str(problem)
    assert "pool 'n1' device" in problem.subject


def test_devices_of_one_name_are_all_left_out(slice_of: Any, device: Any) -> None:
    found = read_inventory([slice_of(device("gpu-a"), device("gpu-a", 80), device("gpu-b"))], owner="controller")
    assert [gpu.device for gpu in found.gpus] == ["gpu-b"]
    assert len(found.problems) == 1


def test_pool_of_two_nodes_or_none_is_told(slice_of: Any, device: Any) -> None:
    one, two = slice_of(device("gpu-a"), count=2), slice_of(device("gpu-b"), count=2, nodeName="n2")
    nowhere = slice_of(device("gpu-c"), node="n3", nodeName=None, allNodes=True)
    found = read_inventory([one, two, nowhere, slice_of(device("gpu-d"), node="n4")], owner="controller")
    assert [gpu.device for gpu in found.gpus] == ["gpu-d"]
    assert [problem.what for problem in found.problems] == ["is not the pool of exactly one node"] * 2


def test_unknown_type_of_attribute_is_absent(slice_of: Any, device: Any) -> None:
    odd = device("gpu-a")
    odd["attributes"] |= {"many": {"strings": ["a"]}, "wrong": {"int": "5"}, "flag": {"int": True}, "none": {}}
    (view,) = gpus_of([slice_of(odd)], owner="controller")
    assert not {"many", "wrong", "flag", "none"} & set(view.attributes)
