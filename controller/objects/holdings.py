"""What an allocation holds, whoever made it: never less than the truth.

A share that is counted too small is given away twice, and both containers find out when they run out of memory. So
where two statements differ the larger one counts, and where there is none that can be read the whole GPU does.
"""

from __future__ import annotations

from collections.abc import Mapping

from fracgpu.controller.fit.views import Holding
from fracgpu.controller.objects.facts import Json, dig, items, text
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.grant import FractionGrant, GrantResult, is_grant, parse_grant
from fracgpu.driver.names import CAPACITIES, CAPACITY_CORES, CAPACITY_MEMORY, CAPACITY_SLOTS, DRIVER_NAME
from fracgpu.driver.quantity import quantity_int


def holdings_of(claim: Json) -> tuple[Holding, ...]:
    """Return what a claim's allocation holds of GPUs of our driver, one entry per result. Never raises.

    Admin access holds nothing. Two results of one GPU are two holdings. GPUs are named as the allocation names them,
    whether they are published or not.
    """
    results = dig(claim, "status", "allocation", "devices", "results")
    if not isinstance(results, list):
        return ()
    counted = [(ordinal, result) for ordinal, result in enumerate(results) if _counts(result)]
    grants = _grants(claim) if counted else ()
    return tuple(_holding(result, ordinal, grants) for ordinal, result in counted)


def node_of(claim: Json) -> str | None:
    """Return the node that an allocation is for, None without an allocation or where it does not name exactly one."""
    terms = dig(claim, "status", "allocation", "nodeSelector", "nodeSelectorTerms")
    if not isinstance(terms, list) or len(terms) != 1:
        return None
    for match in items(terms[0], "matchFields"):
        values = match.get("values")
        if match.get("key") == "metadata.name" and match.get("operator") == "In" and isinstance(values, list):
            return values[0] if len(values) == 1 and isinstance(values[0], str) else None
    return None


def _counts(result: object) -> bool:
    if not isinstance(result, dict) or result.get("driver") != DRIVER_NAME:
        return False
    return result.get("adminAccess") is not True and bool(text(result, "pool") and text(result, "device"))


def _holding(result: Json, ordinal: int, grants: tuple[FractionGrant, ...] | None) -> Holding:
    pool, device = text(result, "pool"), text(result, "device")
    whole = Holding(pool=pool, device=device, memory_bytes=0, whole=True)
    consumed = _consumed(result.get("consumedCapacity"))
    if grants is None or consumed is None:
        return whole
    stated = [consumed] + [
        _granted(entry)
        for grant in grants
        if (entry := grant.find(request=text(result, "request"), pool=pool, device=device, ordinal=ordinal))
    ]
    if any(all(name not in one for one in stated) for name in CAPACITIES):
        return whole
    memory, cores, slots = (
        max(one.get(name, 0) for one in stated) for name in (CAPACITY_MEMORY, CAPACITY_CORES, CAPACITY_SLOTS)
    )
    return Holding(pool=pool, device=device, memory_bytes=memory, cores=cores, slots=slots)


def _granted(entry: GrantResult) -> dict[str, int]:
    return {CAPACITY_MEMORY: entry.memory_bytes, CAPACITY_CORES: entry.cores, CAPACITY_SLOTS: entry.slots}


def _consumed(consumed: object) -> dict[str, int] | None:
    """Return what a result says that it consumes, empty when it says nothing, None when it cannot be read."""
    if consumed is None:
        return {}
    if not isinstance(consumed, Mapping):
        return None
    try:
        return {name: quantity_int(consumed[name], unit="units") for name in CAPACITIES if name in consumed}
    except FracgpuError:
        return None


def _grants(claim: Json) -> tuple[FractionGrant, ...] | None:
    """Return the grants of an allocation, None when one of them cannot be read.

    A grant that comes from the claim itself is none: anyone may write one there.
    """
    found: list[FractionGrant] = []
    for entry in items(claim, "status", "allocation", "devices", "config"):
        parameters = dig(entry, "opaque", "parameters")
        ours = entry.get("source") == "FromClass" and dig(entry, "opaque", "driver") == DRIVER_NAME
        if ours and is_grant(parameters):
            try:
                found.append(parse_grant(parameters, source="FromClass"))
            except FracgpuError:
                return None
    return tuple(found)
