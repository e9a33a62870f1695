"""Reads out of a raw ResourceClaim what Prepare needs, and nothing else.

The claim is taken as the API server's own JSON: typed clients drop fields that they do not know, and consumedCapacity
is one that decides here. Parts that Prepare relies on are read strictly; the rest is none of our business.

Source: k8s.io/api/resource/v1 (ResourceClaim, AllocationResult), KEP-4381, KEP-5075.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.driver.amounts import Capacities
from fracgpu.driver.config import FractionConfig, merge_configs, parse_config
from fracgpu.driver.errors import GrantInvalid
from fracgpu.driver.grant import GrantResult, is_grant, parse_grant
from fracgpu.driver.names import DRIVER_NAME, GRANT_KIND, ClaimUid, base_request
from fracgpu.driver.parameters import Source
from fracgpu.kubeletplugin.errors import ClaimInvalid

_SOURCES: Final[tuple[Source, ...]] = ("FromClass", "FromClaim")


@dataclass(frozen=True, slots=True)
class ClaimRef:
    """A claim as the kubelet names it."""

    namespace: str
    name: str
    uid: ClaimUid

    def __str__(self) -> str:
        return f"claim {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """One device that the allocation gives the claim; `ordinal` is its position among all results of the claim.

    `request` is as the result names it, `/sub` included. `consumed` is None where the API server keeps no capacity.
    """

    ordinal: int
    request: str
    pool: str
    device: str
    share_id: str | None
    consumed: Capacities | None
    admin_access: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimConfig:
    """One opaque configuration for our driver: the requests that it is for (none named: all), parameters undecoded."""

    source: Source
    requests: tuple[str, ...]
    parameters: object

    def covers(self, request: str) -> bool:
        """Whether this entry is for a result of `request`; naming `gpu` covers its alternative `gpu/large` as well."""
        return not self.requests or request in self.requests or base_request(request) in self.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAllocation:
    """Our part of an allocated claim; `pods` are those that it is reserved for, as `namespace/name`."""

    ref: ClaimRef
    pods: tuple[str, ...]
    results: tuple[ClaimResult, ...]
    configs: tuple[ClaimConfig, ...]

    def merged_config(self, request: str, source: Source) -> FractionConfig:
        """Return what the entries from `source` say together for a result of `request`.

        Raises ConfigInvalid, naming the field, for parameters that are no FractionConfig.
        """
        return merge_configs(
            [
                (entry.source, parse_config(entry.parameters, source=entry.source))
                for entry in self.configs
                if entry.source == source and entry.covers(request) and not is_grant(entry.parameters)
            ]
        )

    def grant_for(self, result: ClaimResult) -> GrantResult | None:
        """Return what our controller granted for `result`, or None.

        Raises GrantInvalid for a malformed grant, one from the claim itself, and for more than one.
        """
        grants = [
            parse_grant(entry.parameters, source=entry.source) for entry in self.configs if is_grant(entry.parameters)
        ]
        if len(grants) > 1:
            what = f"is there {len(grants)} times"
            raise GrantInvalid(GRANT_KIND, what, remedy="remove the one from the DeviceClass; the controller grants")
        return next(
            (
                found
                for grant in grants
                if (
                    found := grant.find(
                        request=result.request, pool=result.pool, device=result.device, ordinal=result.ordinal
                    )
                )
            ),
            None,
        )


def parse_claim(raw: Mapping[str, Any], ref: ClaimRef) -> ClaimAllocation:
    """Return our part of the claim `raw`, as the API server answered, after checking that it is the claim `ref`.

    Raises ClaimInvalid for another UID (deleted and created again), a claim without allocation, an allocation without
    a device of ours, and for fields of the wrong type.
    """
    uid = _field(raw, "metadata.uid", str, ref)
    if uid != ref.uid:
        raise ClaimInvalid(
            str(ref),
            f"has UID {uid}, the kubelet asked for {ref.uid}",
            remedy="it was deleted and created again; delete the pod so that it takes the new one",
        )
    allocation = _optional(raw, "status.allocation", dict, ref)
    if not allocation:
        raise ClaimInvalid(
            str(ref), "is not allocated", remedy="wait for the allocator; if the pod sets nodeName, remove it"
        )
    results = tuple(
        _result(entry, ordinal, ref)
        for ordinal, entry in enumerate(_items(allocation, "devices.results", ref))
        if entry.get("driver") == DRIVER_NAME
    )
    if not results:
        raise ClaimInvalid(str(ref), f"has no device of driver {DRIVER_NAME}", remedy="check its device classes")
    configs = tuple(
        config for entry in _items(allocation, "devices.config", ref) if (config := _config(entry, ref)) is not None
    )
    return ClaimAllocation(ref=ref, pods=_pods(raw, ref), results=results, configs=configs)


def _pods(raw: Mapping[str, Any], ref: ClaimRef) -> tuple[str, ...]:
    consumers = _items(raw, "status.reservedFor", ref)
    return tuple(f"{ref.namespace}/{item.get('name')}" for item in consumers if item.get("resource") == "pods")


def _result(entry: Mapping[str, Any], ordinal: int, ref: ClaimRef) -> ClaimResult:
    return ClaimResult(
        ordinal=ordinal,
        request=_field(entry, "request", str, ref),
        pool=_field(entry, "pool", str, ref),
        device=_field(entry, "device", str, ref),
        share_id=_optional(entry, "shareID", str, ref),
        consumed=_optional(entry, "consumedCapacity", dict, ref),
        admin_access=bool(_optional(entry, "adminAccess", bool, ref)),
    )


def _config(entry: Mapping[str, Any], ref: ClaimRef) -> ClaimConfig | None:
    opaque = _optional(entry, "opaque", dict, ref)
    if opaque is None or opaque.get("driver") != DRIVER_NAME:
        return None
    source: Any = _field(entry, "source", str, ref)
    if source not in _SOURCES:
        raise _malformed(ref, "source", f"is {source!r:.80}")
    requests = entry.get("requests") or []
    if not isinstance(requests, list) or not all(isinstance(request, str) for request in requests):
        raise _malformed(ref, "requests", "is no list of names")
    return ClaimConfig(source=source, requests=tuple(requests), parameters=opaque.get("parameters"))


def _items(document: Mapping[str, Any], path: str, ref: ClaimRef) -> list[dict[str, Any]]:
    items = _optional(document, path, list, ref) or []
    if not all(isinstance(item, dict) for item in items):
        raise _malformed(ref, path, "is no list of objects")
    return items


def _field(document: Mapping[str, Any], path: str, kind: type, ref: ClaimRef) -> Any:
    value = _optional(document, path, kind, ref)
    if value is None or value == "":
        raise _malformed(ref, path, "is missing")
    return value


def _optional(document: Mapping[str, Any], path: str, kind: type, ref: ClaimRef) -> Any:
    value: Any = document
    for step in path.split("."):
        if not isinstance(value, Mapping):
            raise _malformed(ref, path, f"is not below an object but {type(value).__name__}")
        value = value.get(step)
        if value is None:
            return None
    if not isinstance(value, kind):
        raise _malformed(ref, path, f"is {type(value).__name__}, not {kind.__name__}")
    return value


def _malformed(ref: ClaimRef, path: str, what: str) -> ClaimInvalid:
    return ClaimInvalid(
        str(ref), f"field {path} {what}", remedy="check what wrote this claim; it is no ResourceClaim v1"
    )
