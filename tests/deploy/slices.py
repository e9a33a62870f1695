"""ResourceSlices that a server accepts and refuses: what the plugin builds, and that with one thing wrong in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import GpuUuid

Json = dict[str, Any]
_GIB: Final = 1 << 30


def make_gpu(index: int, **changes: Any) -> Gpu:
    """Return a card of 141 GiB in a large node."""
    gpu = Gpu(
        uuid=GpuUuid(f"GPU-{index:08x}-0000-4000-8000-{index:012x}"),
        product_name="NVIDIA H200",
        brand="Nvidia",
        architecture="Hopper",
        pci_bus_id=f"0000:{index % 256:02x}:00.0",
        pcie_root=f"pci0000:{index % 256:02x}",
        numa_node=index // 8,
        memory_total_bytes=141 * _GIB,
        minor_number=index,
        index=index,
        driver_version="580.65.6",
        cuda_driver_version="13.0.0",
        compute_capability="9.0.0",
    )
    return replace(gpu, **changes)


UNKNOWN: Final = {
    "product_name": "",
    "brand": "",
    "architecture": "",
    "pci_bus_id": "",
    "pcie_root": None,
    "numa_node": -1,
    "minor_number": None,
    "driver_version": "0.0.0",
    "cuda_driver_version": "0.0.0",
    "compute_capability": "0.0.0",
}
"""What is put for everything that the driver does not tell."""

LONG: Final = {"product_name": "NVIDIA " + "é" * 60, "brand": "b" * 200, "architecture": "日本語" * 30}

Change = Callable[[Json], object]


def _device(change: Change) -> Change:
    return lambda item: change(item["spec"]["devices"][0])


def _memory(change: Change) -> Change:
    return _device(lambda device: change(device["capacity"]["memory"]))


def _range(**values: Any) -> Change:
    return _memory(lambda memory: memory["requestPolicy"]["validRange"].update(values))


def _policy(**values: Any) -> Change:
    return _memory(lambda memory: memory["requestPolicy"].update(values))


def _attribute(name: str, value: Json) -> Change:
    return _device(lambda device: device["attributes"].update({name: value}))


def _without(*keys: str) -> Change:
    def change(device: Json) -> None:
        for key in keys[:-1]:
            device = device[key]
        del device[keys[-1]]

    return _device(change)


def _repeat(item: Json) -> None:
    item["spec"]["devices"].append(copy.deepcopy(item["spec"]["devices"][0]))


def _many(item: Json, count: int, taints: list[Json]) -> None:
    first = item["spec"]["devices"][0]
    item["spec"]["devices"] = [first | {"name": f"gpu-{index}"} for index in range(count)]
    if taints:
        item["spec"]["devices"][0] = item["spec"]["devices"][0] | {"taints": taints}


STEP_ZERO: Final = _range(step="0")
"""The API server divides by the step, and the request dies without an answer."""

_TAINT: Final = {"key": "gpu.fracgpu.dev/unhealthy", "effect": "NoSchedule"}
WRONG: Final[dict[str, Change]] = {
    "129 devices": lambda item: _many(item, 129, []),
    "65 devices, one tainted": lambda item: _many(item, 65, [_TAINT]),
    "two devices of one name": _repeat,
    "device name upper case": _device(lambda device: device.update(name="GPU-0")),
    "device name with dot": _device(lambda device: device.update(name="gpu.0")),
    "no device name": _device(lambda device: device.update(name="")),
    "no pool name": lambda item: item["spec"]["pool"].update(name=""),
    "slice count zero": lambda item: item["spec"]["pool"].update(resourceSliceCount=0),
    "generation negative": lambda item: item["spec"]["pool"].update(generation=-1),
    "no node": lambda item: item["spec"].pop("nodeName"),
    "node and all nodes": lambda item: item["spec"].update(allNodes=True),
    "driver with underscore": lambda item: item["spec"].update(driver="gpu_fracgpu.dev"),
    "string of 65 bytes": _attribute("brand", {"string": "é" * 32 + "x"}),
    "version with leading zero": _attribute("driverVersion", {"version": "580.65.06"}),
    "version of two parts": _attribute("driverVersion", {"version": "580.65"}),
    "attribute without value": _attribute("brand", {}),
    "attribute with two values": _attribute("brand", {"string": "x", "int": 1}),
    "attribute name with dash": _attribute("pcie-root", {"string": "x"}),
    "attribute name of 33 characters": _attribute("a" * 33, {"string": "x"}),
    "33 attributes and capacities": _device(
        lambda device: device["attributes"].update({f"a{index}": {"int": 1} for index in range(33)})
    ),
    "capacity of nothing": _memory(lambda memory: memory.update(value="0")),
    "policy without sharing": _without("allowMultipleAllocations"),
    "range without default": _without("capacity", "memory", "requestPolicy", "default"),
    "range without min": _without("capacity", "memory", "requestPolicy", "validRange", "min"),
    "max above value": _range(max="142Gi"),
    "min above max": _range(min="142Gi"),
    "min above default": lambda item: [_range(min="1Gi")(item), _policy(default="0")(item)],
    "default above max": _range(max="140Gi"),
    "default between steps": _policy(default="1Ki"),
    "max between steps": _range(max="100500Ki", step="1Mi"),
    "step above value": _range(step="142Gi"),
    "taint without key": _device(lambda device: device.update(taints=[{"effect": "NoSchedule"}])),
    "taint of unknown effect": _device(lambda device: device.update(taints=[_TAINT | {"effect": "Never"}])),
}
"""One change each by which a slice is refused; applied to a slice of one GPU of 141 GiB."""


def changed(item: Json, change: Change) -> Json:
    """Return a copy of a slice with one change."""
    copied = copy.deepcopy(item)
    change(copied)
    return copied
