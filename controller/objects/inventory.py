"""From ResourceSlices to the GPUs that the fit engine counts with.

A slice is written by one node. Whatever is wrong with it may cost that node its GPUs, or one of them, and must cost
nobody else anything: it is left out and told as a problem.

Source: k8s.io/api/resource/v1 (ResourceSlice), KEP-4381 (pools, generations), KEP-5055 (taints).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fracgpu.controller.fit.views import AttributeValue, GpuView, Taint
from fracgpu.controller.objects.errors import SliceInvalid
from fracgpu.controller.objects.facts import Json, dig, items, mapping, text
from fracgpu.driver.amounts import Allocator
from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.names import (
    ALLOCATOR_CONTROLLER,
    ALLOCATOR_SCHEDULER,
    ATTR_ALLOCATOR,
    ATTR_PHYSICAL_MEMORY_MIB,
    CAPACITY_CORES,
    CAPACITY_MEMORY,
    CAPACITY_SLOTS,
    DRIVER_NAME,
)
from fracgpu.driver.quantity import MIB, quantity_int

_OWN_DOMAIN = f"{DRIVER_NAME}/"
_UNITS = {CAPACITY_MEMORY: "bytes", CAPACITY_CORES: "percent of one GPU", CAPACITY_SLOTS: "sharers"}
_TYPES: dict[str, type] = {"string": str, "version": str, "int": int, "bool": bool}
_REMEDY = "look at the log of the fracgpu plugin on that node, which publishes the slice"


@dataclass(frozen=True, slots=True)
class Inventory:
    """The GPUs that can be counted with, and what had to be left out, each once and in a stable order."""

    gpus: tuple[GpuView, ...]
    problems: tuple[SliceInvalid, ...]


def gpus_of(slices: Iterable[Json], *, owner: Allocator) -> list[GpuView]:
    """Return the GPUs that an allocator owns, from complete pools of their newest generation. Never raises."""
    return list(read_inventory(slices, owner=owner).gpus)


def read_inventory(slices: Iterable[Json], *, owner: Allocator) -> Inventory:
    """Return the same with what had to be left out. Never raises.

    A pool that is being rewritten (slices of its newest generation are still missing) has no GPUs for that while; that
    is no problem. Other drivers' slices and GPUs of the other allocator are none of our business.
    """
    pools: dict[str, list[Json]] = {}
    for item in slices:
        spec = mapping(item, "spec")
        if spec.get("driver") == DRIVER_NAME:
            pools.setdefault(text(spec, "pool", "name"), []).append(spec)
    reader = _Reader(owner)
    for pool, specs in sorted(pools.items()):
        reader.read_pool(pool, specs)
    return Inventory(tuple(reader.gpus), tuple(reader.problems.values()))


class _Reader:
    """Collects GPUs and problems."""

    def __init__(self, owner: Allocator) -> None:
        self._owner = owner
        self.gpus: list[GpuView] = []
        self.problems: dict[str, SliceInvalid] = {}

    def read_pool(self, pool: str, specs: list[Json]) -> None:
        subject = f"ResourceSlice pool {pool!r:.80}"
        newest = max(_number(spec, "generation") for spec in specs)
        current = [spec for spec in specs if _number(spec, "generation") == newest]
        node = text(current[0], "nodeName")
        if not pool or not node or any(text(spec, "nodeName") != node for spec in current):
            self._problem(SliceInvalid(subject, "is not the pool of exactly one node", remedy=_REMEDY))
        elif len(current) == _number(current[0], "resourceSliceCount"):
            self._read_devices(subject, node, pool, [device for spec in current for device in items(spec, "devices")])

    def _read_devices(self, subject: str, node: str, pool: str, devices: list[Json]) -> None:
        times = Counter(text(device, "name") for device in devices)
        for device in devices:
            name = text(device, "name")
            where = f"{subject} device {name!r:.80}"
            try:
                attributes = _attributes(device)
                if _owner(where, attributes) != self._owner:
                    continue
                # The allocation could mean either of them.
                if not name or times[name] > 1:
                    raise SliceInvalid(where, "does not have a name of its own", remedy=_REMEDY)
                self.gpus.append(_view(where, node, pool, device, attributes))
            except SliceInvalid as problem:
                self._problem(problem)

    def _problem(self, problem: SliceInvalid) -> None:
        self.problems.setdefault(str(problem), problem)


def _number(spec: Json, field: str) -> int:
    value = dig(spec, "pool", field)
    return value if isinstance(value, int) else 0


def _owner(where: str, attributes: dict[str, AttributeValue]) -> AttributeValue:
    owner = attributes.get(ATTR_ALLOCATOR, "")
    if owner not in (ALLOCATOR_CONTROLLER, ALLOCATOR_SCHEDULER):
        raise SliceInvalid(where, f"attribute {ATTR_ALLOCATOR} names no allocator", remedy=_REMEDY)
    return owner


def _view(where: str, node: str, pool: str, device: Json, attributes: dict[str, AttributeValue]) -> GpuView:
    """Return one GPU. Raises SliceInvalid."""
    physical = attributes.get(ATTR_PHYSICAL_MEMORY_MIB)
    if isinstance(physical, bool) or not isinstance(physical, int) or physical <= 0:
        raise SliceInvalid(where, f"attribute {ATTR_PHYSICAL_MEMORY_MIB} is no number of MiB", remedy=_REMEDY)
    return GpuView(
        node=node,
        pool=pool,
        device=text(device, "name"),
        physical_memory_bytes=physical * MIB,
        memory_bytes=_capacity(where, device, CAPACITY_MEMORY),
        cores=_capacity(where, device, CAPACITY_CORES),
        slots=_capacity(where, device, CAPACITY_SLOTS),
        attributes=attributes,
        taints=_taints(where, device.get("taints")),
    )


def _attributes(device: Json) -> dict[str, AttributeValue]:
    """Return the attributes by name, those of our own domain by their bare one; unknown types are left out."""
    found: dict[str, AttributeValue] = {}
    for key, boxed in mapping(device, "attributes").items():
        for kind, value in boxed.items() if isinstance(boxed, dict) else ():
            if isinstance(value, str | int) and type(value) is _TYPES.get(kind):
                found[str(key).removeprefix(_OWN_DOMAIN)] = value
    return found


def _capacity(where: str, device: Json, name: str) -> int:
    capacity = mapping(device, "capacity")
    value = dig(capacity.get(name, capacity.get(f"{_OWN_DOMAIN}{name}")), "value")
    try:
        return quantity_int(value if value is not None else "", unit=_UNITS[name])
    except QuantityInvalid as error:
        raise SliceInvalid(
            where, f"capacity {name} is not usable: {error.subject} {error.what}", remedy=_REMEDY
        ) from error


def _taints(where: str, taints: object) -> tuple[Taint, ...]:
    found = [] if taints is None else taints
    if not isinstance(found, list) or not all(text(taint, "key") and text(taint, "effect") for taint in found):
        raise SliceInvalid(where, "has taints that cannot be read", remedy=_REMEDY)
    return tuple(
        Taint(key=text(taint, "key"), value=text(taint, "value"), effect=text(taint, "effect")) for taint in found
    )
