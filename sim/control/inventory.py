"""From ResourceSlices and claims to what the fit engine counts with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fracgpu.controller.fit.views import AttributeValue, GpuView, Holding
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.grant import FractionGrant, is_grant, parse_grant
from fracgpu.driver.names import (
    ALLOCATOR_CONTROLLER,
    ATTR_ALLOCATOR,
    ATTR_PHYSICAL_MEMORY_MIB,
    CAPACITY_CORES,
    CAPACITY_MEMORY,
    CAPACITY_SLOTS,
    DRIVER_NAME,
)
from fracgpu.driver.quantity import MIB, quantity_int
from fracgpu.sim.api.objects import JsonObject, dig
from fracgpu.sim.api.rawjson import plain

_BLOCKING = ("NoSchedule", "NoExecute")


def gpus_of(slices: Iterable[JsonObject]) -> list[GpuView]:
    """Return the GPUs that the controller owns, from complete pools of their newest generation."""
    pools: dict[str, list[JsonObject]] = {}
    for item in slices:
        spec = item.get("spec") or {}
        if spec.get("driver") == DRIVER_NAME and spec.get("nodeName"):
            pools.setdefault(str(spec["pool"]["name"]), []).append(spec)
    gpus: list[GpuView] = []
    for specs in pools.values():
        newest = max(spec["pool"].get("generation", 0) for spec in specs)
        current = [spec for spec in specs if spec["pool"].get("generation", 0) == newest]
        if len(current) == current[0]["pool"].get("resourceSliceCount"):
            gpus += [view for spec in current for view in _views(spec)]
    return gpus


def _views(spec: JsonObject) -> list[GpuView]:
    return [
        _view(spec, device)
        for device in spec.get("devices") or []
        if dig(device, "attributes", ATTR_ALLOCATOR, "string") == ALLOCATOR_CONTROLLER
    ]


def _view(spec: JsonObject, device: JsonObject) -> GpuView:
    attributes: dict[str, AttributeValue] = {
        key: next(iter(value.values())) for key, value in (device.get("attributes") or {}).items() if value
    }
    return GpuView(
        node=spec["nodeName"],
        pool=spec["pool"]["name"],
        device=device["name"],
        physical_memory_bytes=int(attributes.get(ATTR_PHYSICAL_MEMORY_MIB, 0)) * MIB,
        memory_bytes=_capacity(device, CAPACITY_MEMORY),
        cores=_capacity(device, CAPACITY_CORES),
        slots=_capacity(device, CAPACITY_SLOTS),
        attributes=attributes,
        healthy=not any(taint.get("effect") in _BLOCKING for taint in device.get("taints") or []),
    )


def _capacity(device: JsonObject, name: str) -> int:
    value = dig(device, "capacity", name, "value")
    return 0 if value is None else quantity_int(value, unit=name)


def holdings_of(claims: Iterable[JsonObject], gpus: Iterable[GpuView]) -> list[Holding]:
    """Return what all allocations hold, whoever made them.

    An allocation that does not say how much it holds counts as the whole GPU: anything less could give the same memory
    away twice.
    """
    by_key = {gpu.key: gpu for gpu in gpus}
    holdings: list[Holding] = []
    for claim in claims:
        results = dig(claim, "status", "allocation", "devices", "results") or []
        grant = _grant(claim)
        for ordinal, result in enumerate(results):
            gpu = by_key.get((result.get("pool", ""), result.get("device", "")))
            if gpu is not None and result.get("driver") == DRIVER_NAME and not result.get("adminAccess"):
                holdings.append(_holding(result, ordinal, grant, gpu))
    return holdings


def _holding(result: JsonObject, ordinal: int, grant: FractionGrant | None, gpu: GpuView) -> Holding:
    granted = grant and grant.find(request=result["request"], pool=gpu.pool, device=gpu.device, ordinal=ordinal)
    if granted:
        memory, cores, slots = granted.memory_bytes, granted.cores, granted.slots
    elif result.get("consumedCapacity"):
        consumed: dict[str, Any] = result["consumedCapacity"]
        memory = quantity_int(consumed.get(CAPACITY_MEMORY, 0), unit="bytes")
        cores = quantity_int(consumed.get(CAPACITY_CORES, 0), unit="percent")
        slots = quantity_int(consumed.get(CAPACITY_SLOTS, 0), unit="sharers")
    else:
        memory, cores, slots = gpu.memory_bytes, gpu.cores, gpu.slots
    return Holding(pool=gpu.pool, device=gpu.device, memory_bytes=memory, cores=cores, slots=slots)


def _grant(claim: JsonObject) -> FractionGrant | None:
    for entry in dig(claim, "status", "allocation", "devices", "config") or []:
        parameters = plain(dig(entry, "opaque", "parameters"))
        if is_grant(parameters):
            try:
                return parse_grant(parameters, source=entry.get("source"))
            except FracgpuError:
                return None
    return None
