"""Decoding of objects against their type, as a typed API server does it.

A real server drops members it does not know, refuses a wrong JSON type with 400, returns quantities in canonical form.
The types are read from the model classes of the official Python client: they are generated from the API's OpenAPI
document. The client is one minor release ahead, so members that 1.36 does not have (or has gated off) are listed here.
"""

from __future__ import annotations

import re
from datetime import datetime
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
_SCALARS: dict[str, type | tuple[type, ...]] = {"str": str, "bool": bool, "int": int, "float": (int, float)}
_GO_TYPES = {"str": "string", "int": "int64"}
_QUANTITY_TEXT = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")


def decode(resource: Resource, obj: JsonObject, *, strict: bool = False) -> JsonObject:
    """Return a copy of the object with known members only, types checked, quantities canonical.

    With strict an unknown or misspelt member is refused as by fieldValidation=Strict. Raises ApiError 400.
    """
    unknown: list[str] = []
    clean = _Decoder(_unusable(resource), unknown).members(obj, resource.model, "")
    if strict and unknown:
        found = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise bad_request(f"{_unusable(resource)}: strict decoding error: {found}")
    return clean


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
            if key not in known or key in _NOT_IN_1_36:
                self._unknown.append(where)
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
