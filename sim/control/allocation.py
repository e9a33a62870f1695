"""The body of an allocation, as a controller has to write it so that the stock scheduler accepts it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from fracgpu.controller.fit.views import PlacedDevice
from fracgpu.driver.grant import FractionGrant, GrantResult
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.parameters import canonical_json
from fracgpu.sim.api.objects import JsonObject, dig, now
from fracgpu.sim.api.rawjson import RawJson

ClassLookup = Callable[[str], JsonObject | None]


def build_allocation(
    claim: JsonObject,
    node: str,
    devices: Sequence[PlacedDevice],
    *,
    find_class: ClassLookup,
    class_names: dict[str, str],
    keeps_capacity: bool,
) -> JsonObject:
    """Return status.allocation of one claim.

    `devices` are those of this claim in the order of its requests, `class_names` the class of each request. Shares and
    consumed capacity are written only where the API keeps them; the grant is written always.
    """
    results = [_result(device, keeps_capacity=keeps_capacity) for device in devices]
    config = [*_class_config(devices, find_class, class_names), _grant(devices), *_claim_config(claim)]
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "allocationTimestamp": now(),
        "devices": {"results": results, "config": config},
        "nodeSelector": {"nodeSelectorTerms": [term]},
    }


def _result(device: PlacedDevice, *, keeps_capacity: bool) -> JsonObject:
    result: JsonObject = {
        "request": device.request,
        "driver": DRIVER_NAME,
        "pool": device.pool,
        "device": device.device,
    }
    if keeps_capacity:
        result["shareID"] = str(uuid.uuid4())
        result["consumedCapacity"] = device.amounts.to_capacities()
    if device.admin:
        result["adminAccess"] = True
    return result


def _class_config(
    devices: Sequence[PlacedDevice], find_class: ClassLookup, class_names: dict[str, str]
) -> list[JsonObject]:
    entries: list[JsonObject] = []
    for request in dict.fromkeys(device.request for device in devices):
        device_class = find_class(class_names[request]) or {}
        entries += [
            {"source": "FromClass", "requests": [request], "opaque": item["opaque"]}
            for item in dig(device_class, "spec", "config") or []
        ]
    return entries


def _claim_config(claim: JsonObject) -> list[JsonObject]:
    return [
        {"source": "FromClaim", **{key: item[key] for key in ("requests", "opaque") if item.get(key)}}
        for item in dig(claim, "spec", "devices", "config") or []
    ]


def _grant(devices: Sequence[PlacedDevice]) -> JsonObject:
    results = tuple(
        GrantResult(
            request=device.request,
            pool=device.pool,
            device=device.device,
            ordinal=ordinal,
            memory_bytes=device.amounts.memory_bytes,
            cores=device.amounts.cores,
            slots=device.amounts.slots,
        )
        for ordinal, device in enumerate(devices)
    )
    text = canonical_json(FractionGrant(results=results).to_parameters()).decode()
    return {"source": "FromClass", "opaque": {"driver": DRIVER_NAME, "parameters": RawJson(text)}}
