"""The body of an allocation, as a controller has to write it so that the stock scheduler and our Prepare accept it.

kube-scheduler sees an allocation that it did not make and takes it as its own if it looks like one. Hence the node
selector of one term, the timestamp that it would otherwise add to an immutable field, and everything copied that it
copies. Reservations are its own: there are none in here.

Source: k8s.io/api/resource/v1 (AllocationResult), KEP-4381, KEP-5075, KEP-5007 (allocationTimestamp).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fracgpu.controller.fit.views import PlacedDevice
from fracgpu.controller.objects.claim_requests import MAX_RESULTS
from fracgpu.controller.objects.classes import ClassLookup
from fracgpu.controller.objects.errors import DemandRefused
from fracgpu.controller.objects.facts import Json, full_name, items, mapping, text, texts, uid_of
from fracgpu.driver.grant import FractionGrant, GrantResult
from fracgpu.driver.names import DRIVER_NAME, base_request


def build_allocation(
    claim: Json,
    node: str,
    devices: Sequence[PlacedDevice],
    *,
    find_class: ClassLookup,
    keeps_capacity: bool,
    now: str,
    share_ids: Callable[[], str],
) -> Json:
    """Return status.allocation of one claim.

    `devices` may be those of a whole placement: only this claim's count, in their order. `now` is an RFC 3339 time,
    `share_ids` gives a fresh UUID in lower case with every call. Shares and consumed capacity are written only where
    the API keeps them, the grant always: Prepare demands that they agree. The result shares no object with the claim
    or its classes but their opaque configurations, which are not to be changed. They have to be encoded canonically.

    Raises DemandRefused for more results than an allocation holds (allocationMode All on a very large node).
    """
    own = [device for device in devices if device.claim == uid_of(claim)]
    if len(own) > MAX_RESULTS:
        what = f"would get {len(own)} GPUs of node {node}, a claim holds at most {MAX_RESULTS}"
        raise DemandRefused(f"claim {full_name(claim)}", what, remedy="ask for a count, or select fewer GPUs")
    config = [*_class_configs(own, find_class), _grant(own), *_claim_configs(claim, own)]
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "allocationTimestamp": now,
        "devices": {
            "results": [_result(claim, device, share_ids() if keeps_capacity else None) for device in own],
            "config": config,
        },
        "nodeSelector": {"nodeSelectorTerms": [term]},
    }


def _result(claim: Json, device: PlacedDevice, share_id: str | None) -> Json:
    result: Json = {
        "request": device.request,
        "driver": DRIVER_NAME,
        "pool": device.pool,
        "device": device.device,
    }
    if share_id is not None:
        result["shareID"] = share_id
        result["consumedCapacity"] = device.amounts.to_capacities()
    if device.admin:
        result["adminAccess"] = True
    tolerations = _tolerations(claim, device.request)
    if tolerations:
        # Whoever evicts pods from a tainted device later looks here, not into the claim's spec.
        result["tolerations"] = tolerations
    return result


def _tolerations(claim: Json, name: str) -> list[Json]:
    base, _, sub = name.partition("/")
    for request in items(claim, "spec", "devices", "requests"):
        if text(request, "name") != base:
            continue
        parts = items(request, "firstAvailable") if sub else [mapping(request, "exactly")]
        return [
            dict(toleration)
            for part in parts
            if not sub or text(part, "name") == sub
            for toleration in items(part, "tolerations")
        ]
    return []


def _class_configs(devices: Sequence[PlacedDevice], find_class: ClassLookup) -> list[Json]:
    """Return the entries of all classes used, other drivers' included, each for the requests that use the class."""
    entries: list[Json] = []
    for name in dict.fromkeys(device.class_name for device in devices):
        requests = list(dict.fromkeys(device.request for device in devices if device.class_name == name))
        entries += [
            {"source": "FromClass", "requests": requests, "opaque": item["opaque"]}
            for item in items(find_class(name), "spec", "config")
            if item.get("opaque")
        ]
    return entries


def _claim_configs(claim: Json, devices: Sequence[PlacedDevice]) -> list[Json]:
    """Return the claim's own entries, without those for alternatives that were not chosen."""
    chosen = {name for device in devices for name in (device.request, base_request(device.request))}
    entries: list[Json] = []
    for item in items(claim, "spec", "devices", "config"):
        wanted = texts(item, "requests")
        if item.get("opaque") and (not wanted or chosen.intersection(wanted)):
            entries.append({"source": "FromClaim", "opaque": item["opaque"]} | ({"requests": wanted} if wanted else {}))
    return entries


def _grant(devices: Sequence[PlacedDevice]) -> Json:
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
    opaque = {"driver": DRIVER_NAME, "parameters": FractionGrant(results=results).to_parameters()}
    return {"source": "FromClass", "opaque": opaque}
