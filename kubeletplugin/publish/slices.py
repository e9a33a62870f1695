"""A node's GPUs as a ResourceSlice.

Pure: GPUs and options in, the object out. The API server refuses the whole slice for one wrong field, and CEL
expressions of users fail on one missing attribute, so every device has every attribute, also where a value is unknown.

Devices carry allowMultipleAllocations and request policies whoever allocates them. For kube-scheduler they are what
makes sharing possible. For our controller they are what makes its allocations count: the scheduler's ledger adds up
consumedCapacity only on devices that allow several allocations, and would take any other device as a whole, so that
whoever selects our devices through a class of their own could not be kept off what we gave away. `allocator` says who
owns the device.

Sources: k8s.io/api/resource/v1 (ResourceSlice), KEP-4381, KEP-5075.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Final

from fracgpu.driver.errors import InventoryUnavailable
from fracgpu.driver.gpu import CORES_PER_GPU, Gpu, scaled_cores
from fracgpu.driver.names import (
    ATTR_ALLOCATOR,
    ATTR_ARCHITECTURE,
    ATTR_BRAND,
    ATTR_CUDA_COMPUTE_CAPABILITY,
    ATTR_CUDA_DRIVER_VERSION,
    ATTR_DRIVER_VERSION,
    ATTR_NUMA_NODE,
    ATTR_OVERSUBSCRIBED,
    ATTR_PCI_BUS_ID,
    ATTR_PCIE_ROOT,
    ATTR_PHYSICAL_MEMORY_MIB,
    ATTR_PRODUCT_NAME,
    ATTR_UUID,
    CAPACITY_CORES,
    CAPACITY_MEMORY,
    CAPACITY_SLOTS,
    DRIVER_NAME,
)
from fracgpu.driver.quantity import MIB, format_bytes
from fracgpu.kubeletplugin.options import PluginOptions

API_VERSION: Final = "resource.k8s.io/v1"
UNHEALTHY_TAINT: Final = f"{DRIVER_NAME}/unhealthy"
_MAX_STRING_BYTES: Final = 64
_MAX_DEVICES: Final = 128
# Any taint in a slice halves what it may hold.
_MAX_DEVICES_WITH_TAINTS: Final = 64
_MAX_NAME: Final = 253


def slice_name(node_name: str) -> str:
    """Return the name of a node's slice: always the same, so that two plugins of a rolling update share one."""
    name = f"00000-{DRIVER_NAME}-{node_name}"
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 17].rstrip('.-')}-{hashlib.sha256(node_name.encode()).hexdigest()[:16]}"


def build_slice(gpus: Iterable[Gpu], options: PluginOptions, *, node_uid: str) -> dict[str, Any]:
    """Return the ResourceSlice for `gpus`, in order of their index, owned by the Node with `node_uid`.

    Published also when there are no GPUs: it tells "none here" from "no plugin". Raises InventoryUnavailable when two
    GPUs get one device name, or there are more than a slice holds.
    """
    # The API server refuses a capacity of nothing, and with it all other GPUs.
    usable = [gpu for gpu in gpus if gpu.physical_memory_bytes]
    ordered = sorted(usable, key=lambda gpu: (gpu.index, gpu.uuid))
    _check_devices(ordered, options.node_name)
    return {
        "apiVersion": API_VERSION,
        "kind": "ResourceSlice",
        "metadata": {
            "name": slice_name(options.node_name),
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": options.node_name, "uid": node_uid, "controller": True}
            ],
        },
        "spec": {
            "driver": DRIVER_NAME,
            "nodeName": options.node_name,
            # One slice holds the node, so every update is atomic and the generation has nothing to order.
            "pool": {"name": options.node_name, "generation": 1, "resourceSliceCount": 1},
            "devices": [_device(gpu, options) for gpu in ordered],
        },
    }


def _check_devices(gpus: list[Gpu], node_name: str) -> None:
    names = [gpu.device_name for gpu in gpus]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InventoryUnavailable(
            f"node {node_name}",
            f"two GPUs have UUIDs that begin alike and would both be device {repeated[0]}",
            remedy="move one of them to another node",
        )
    limit = _MAX_DEVICES if all(gpu.healthy for gpu in gpus) else _MAX_DEVICES_WITH_TAINTS
    if len(gpus) > limit:
        raise InventoryUnavailable(
            f"node {node_name}", f"{len(gpus)} GPUs do not fit into one ResourceSlice of {limit}", remedy="report this"
        )


def _device(gpu: Gpu, options: PluginOptions) -> dict[str, Any]:
    device: dict[str, Any] = {
        "name": gpu.device_name,
        "attributes": _attributes(gpu, options),
        "capacity": _capacity(gpu, options),
        "allowMultipleAllocations": True,
    }
    if not gpu.healthy:
        # Taking the device out would free nothing and stop nobody; the taint keeps new pods away.
        device["taints"] = [{"key": UNHEALTHY_TAINT, "effect": "NoSchedule"}]
    return device


def _attributes(gpu: Gpu, options: PluginOptions) -> dict[str, dict[str, Any]]:
    strings = {
        ATTR_UUID: str(gpu.uuid),
        ATTR_PRODUCT_NAME: gpu.product_name,
        ATTR_BRAND: gpu.brand,
        ATTR_ARCHITECTURE: gpu.architecture,
        ATTR_PCI_BUS_ID: gpu.pci_bus_id,
        ATTR_ALLOCATOR: options.allocator,
    }
    if gpu.pcie_root is not None:
        strings[ATTR_PCIE_ROOT] = gpu.pcie_root
    versions = {
        ATTR_DRIVER_VERSION: gpu.driver_version,
        ATTR_CUDA_DRIVER_VERSION: gpu.cuda_driver_version,
        ATTR_CUDA_COMPUTE_CAPABILITY: gpu.compute_capability,
    }
    oversubscribed = options.memory_scale > 1 or options.cores_scale > 1
    return {
        **{name: {"string": _cut(value)} for name, value in strings.items()},
        **{name: {"version": value} for name, value in versions.items()},
        ATTR_PHYSICAL_MEMORY_MIB: {"int": gpu.physical_memory_bytes // MIB},
        ATTR_NUMA_NODE: {"int": gpu.numa_node},
        ATTR_OVERSUBSCRIBED: {"bool": oversubscribed},
    }


def _capacity(gpu: Gpu, options: PluginOptions) -> dict[str, dict[str, Any]]:
    # min 0 everywhere: the scheduler fits admin access like any request, and on a full GPU only nothing fits.
    physical = format_bytes(gpu.physical_memory_bytes)
    return {
        CAPACITY_MEMORY: {
            "value": format_bytes(gpu.scaled_memory_bytes(options.memory_scale)),
            "requestPolicy": _policy(default=physical, maximum=physical, step="1Mi"),
        },
        CAPACITY_CORES: {
            "value": str(scaled_cores(options.cores_scale)),
            "requestPolicy": _policy(default="0", maximum=str(CORES_PER_GPU), step="1"),
        },
        CAPACITY_SLOTS: {
            "value": str(options.slots),
            "requestPolicy": _policy(default="1", maximum="1", step="1"),
        },
    }


def _policy(*, default: str, maximum: str, step: str) -> dict[str, Any]:
    return {"default": default, "validRange": {"min": "0", "max": maximum, "step": step}}


def _cut(text: str) -> str:
    return text.encode()[:_MAX_STRING_BYTES].decode(errors="ignore")
