"""Decoding of objects against their type, as a typed API server does it.

A real server drops members it does not know, refuses a wrong JSON type with 400, returns quantities in canonical form.
The types are read from the model classes of the official Python client: they are generated from the API's OpenAPI
document. The client is one minor release ahead, so members that 1.36 does not have (or has gated off) are listed here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from kubernetes.client import models

from fracgpu.driver.errors import QuantityInvalid
from fracgpu.sim.api.errors import bad_request
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.quantities import canonical_quantity
from fracgpu.sim.api.rawjson import RawJson
from fracgpu.sim.api.resources import Resource

_NOT_IN_1_36 = frozenset({"skipNodeOperations", "derivedAttributes", "bools", "ints", "strings", "versions"})
_QUANTITIES = frozenset(
    {
        ("V1CapacityRequirements", "requests"),
        ("V1DeviceRequestAllocationResult", "consumedCapacity"),
        ("V1DeviceCapacity", "value"),
        ("V1CapacityRequestPolicy", "default"),
        ("V1CapacityRequestPolicy", "validValues"),
        ("V1CapacityRequestPolicyRange", "min"),
        ("V1CapacityRequestPolicyRange", "max"),
        ("V1CapacityRequestPolicyRange", "step"),
        ("V1Counter", "value"),
        ("V1ResourceRequirements", "requests"),
        ("V1ResourceRequirements", "limits"),
        ("V1NodeStatus", "capacity"),
        ("V1NodeStatus", "allocatable"),
    }
)
_MICRO_TIMES = frozenset(
    {
        ("V1LeaseSpec", "acquireTime"),
        ("V1LeaseSpec", "renewTime"),
        ("CoreV1Event", "eventTime"),
        ("CoreV1EventSeries", "lastObservedTime"),
    }
)
_SCALARS: dict[str, type | tuple[type, ...]] = {"str": str, "bool": bool, "int": int, "float": (int, float)}
_GO_TYPES = {"str": "string", "int": "int64"}
_QUANTITY_TEXT = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_MICRO_LAYOUT = "2006-01-02T15:04:05.000000Z07:00"
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?P<fraction>\.\d{6})?(?P<rest>.*)")
_ZONE = re.compile(r"Z|[+-]\d\d:\d\d")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")


def decode(resource: Resource, obj: JsonObject, *, strict: bool = False) -> JsonObject:
    """Return a copy of the object with known members only, types checked, quantities canonical.

    With strict an unknown or misspelt member is refused as by fieldValidation=Strict. Raises ApiError 400.
    """
    unknown: list[str] = []
    clean = _Decoder(_unusable(resource), unknown).members(obj, resource.model, "")
    if strict:
        refuse_unknown(resource, unknown)
    return clean


def decode_metadata(resource: Resource, meta: object, unknown: list[str]) -> JsonObject:
    """Return a copy of an object's metadata with known members only; adds the paths of others to `unknown`.

    Raises ApiError 400.
    """
    return _Decoder(_unusable(resource), unknown).members(meta, "V1ObjectMeta", "metadata")


def refuse_unknown(resource: Resource, unknown: Sequence[str]) -> None:
    """Refuse unknown members as fieldValidation=Strict does. Raises ApiError 400 if there are any."""
    if unknown:
        found = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise bad_request(f"{_unusable(resource)}: strict decoding error: {found}")


def _unusable(resource: Resource) -> str:
    return f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


@cache
def _members_of(model: str) -> dict[str, str]:
    found = getattr(models, model)
    return {found.attribute_map[name]: kind for name, kind in found.openapi_types.items()}


class _Decoder:
    """One pass over one object; remembers the paths of unknown members."""

    def __init__(self, complaint: str, unknown: list[str]) -> None:
        self._complaint = complaint
        self._unknown = unknown

    def members(self, obj: Any, model: str, path: str) -> JsonObject:
        if not isinstance(obj, dict):
            raise self._wrong(path, "an object", obj)
        known = _members_of(model)
        clean: JsonObject = {}
        for key, value in obj.items():
            where = f"{path}.{key}" if path else key
            if key not in known or (key in _NOT_IN_1_36 and not model.startswith("V1CustomResource")):
                self._unknown.append(where)
            elif (model, key) in _MICRO_TIMES and isinstance(value, str):
                clean[key] = self._micro_time(value)
            elif value is not None:
                quantity = (model, key) in _QUANTITIES
                clean[key] = self._value(value, known[key], where, quantity=quantity)
        return clean

    def _value(self, value: Any, kind: str, path: str, *, quantity: bool) -> Any:
        if kind.startswith("List["):
            if not isinstance(value, list):
                raise self._wrong(path, "an array", value)
            return [
                self._value(item, kind[5:-1], f"{path}[{index}]", quantity=quantity) for index, item in enumerate(value)
            ]
        if kind.startswith("Dict["):
            if not isinstance(value, dict):
                raise self._wrong(path, "an object", value)
            inner = kind[5:-1].partition(",")[2].strip()
            return {
                key: self._value(item, inner, f"{path}.{key}", quantity=quantity)
                for key, item in value.items()
                if item is not None
            }
        if hasattr(models, kind):
            return self.members(value, kind, path)
        return self._scalar(value, kind, path, quantity=quantity)

    def _scalar(self, value: Any, kind: str, path: str, *, quantity: bool) -> Any:
        if quantity:
            return self._quantity(value, path)
        if kind == "datetime":
            if not isinstance(value, str) or not _is_time(value):
                raise self._wrong(path, "an RFC 3339 time", value)
            return value
        expected = _SCALARS.get(kind)
        if expected is None or isinstance(value, RawJson):
            return value
        if not isinstance(value, expected) or (isinstance(value, bool) and kind != "bool"):
            raise self._wrong(path, kind, value)
        return value

    def _micro_time(self, text: str) -> str:
        """Return a metav1.MicroTime as the server writes it; it reads six digits of a second, no more and no fewer."""
        found = _MICRO_TIME.fullmatch(text)
        trouble = f'parsing time "{text}" as "{_MICRO_LAYOUT}": cannot parse'
        if found is None:
            raise bad_request(f'{self._complaint}: {trouble} "{text}" as "2006"')
        if not found["fraction"]:
            raise bad_request(f'{self._complaint}: {trouble} "{found["rest"]}" as ".000000"')
        if not _ZONE.fullmatch(found["rest"]):
            raise bad_request(f'{self._complaint}: {trouble} "{found["rest"]}" as "Z07:00"')
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise bad_request(f'{self._complaint}: parsing time "{text}": {error}') from error
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _quantity(self, value: Any, path: str) -> str:
        try:
            return canonical_quantity(value)
        except (QuantityInvalid, TypeError) as error:
            raise bad_request(f"{self._complaint}: {_QUANTITY_TEXT} (at {path})") from error

    def _wrong(self, path: str, expected: str, value: Any) -> Exception:
        found = {dict: "object", list: "array", str: "string", bool: "bool"}.get(type(value), "number")
        field = re.sub(r"\[\d+\]", "", path) or "root"
        return bad_request(
            f"{self._complaint}: json: cannot unmarshal {found} into Go struct field {field} "
            f"of type {_GO_TYPES.get(expected, expected)}"
        )
