"""Does anybody else hand out the same GPUs? What the API shows of it.

Two owners that do not know of each other give the same memory away twice, and each is right by its own books. The
files of a node show more (`fracgpu doctor`); this is what can be seen from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.quantity import parse_quantity

Json = dict[str, Any]

_PLUGIN_REMEDY: Final = "keep its device plugin off this node (its DaemonSet's nodeSelector)"
_NVIDIA_DRA: Final = "gpu.nvidia.com"
_NVIDIA_DRA_REMEDY: Final = "let it serve ComputeDomains only (resources.gpus.enabled=false), or keep it off this node"
_RESOURCES: Final = (
    ("nvidia.com/gpu", "NVIDIA's device plugin or HAMi"),
    ("nvidia.com/gpu.shared", "NVIDIA's device plugin, time-slicing or MPS"),
    ("nvidia.com/vgpu-number", "vgpu-manager"),
    ("volcano.sh/vgpu-number", "Volcano"),
)
_MIG_PREFIX: Final = "nvidia.com/mig-"


@dataclass(frozen=True, slots=True, order=True)
class SecondOwner:
    """Somebody else who hands out GPUs of `node`, on which we publish them: what is so, and what to do."""

    node: str
    what: str
    remedy: str


def second_owners(nodes: Iterable[Json], slices: Iterable[Json]) -> list[SecondOwner]:
    """Return who else hands out GPUs of the nodes that have a ResourceSlice of ours, by node and text.

    `nodes` and `slices` are the API's objects: all of the cluster, or those of one node. Whoever offers none now is
    no second owner.
    """
    published: dict[str, set[str]] = {}
    for item in slices:
        spec = item.get("spec") or {}
        if spec.get("nodeName") and spec.get("devices"):
            published.setdefault(str(spec["nodeName"]), set()).add(str(spec.get("driver")))
    ours = {node for node, drivers in published.items() if DRIVER_NAME in drivers}
    found = {
        SecondOwner(node, f"NVIDIA's DRA driver {_NVIDIA_DRA} publishes GPUs", _NVIDIA_DRA_REMEDY)
        for node in ours
        if _NVIDIA_DRA in published[node]
    }
    for node in nodes:
        name = str((node.get("metadata") or {}).get("name", ""))
        if name in ours:
            found.update(_device_plugins(name, (node.get("status") or {}).get("allocatable") or {}))
    return sorted(found)


def _device_plugins(node: str, allocatable: Json) -> Iterable[SecondOwner]:
    owners = dict(_RESOURCES)
    for resource, value in sorted(allocatable.items()):
        owner = "NVIDIA's device plugin" if resource.startswith(_MIG_PREFIX) else owners.get(resource)
        if owner is not None and _is_positive(value):
            yield SecondOwner(node, f"{owner} offers {value} {resource}", _PLUGIN_REMEDY)


def _is_positive(value: Any) -> bool:
    try:
        return parse_quantity(value) > 0
    except QuantityInvalid:
        return False
