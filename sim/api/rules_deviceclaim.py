"""Validation of DeviceClaim: the spec that ResourceClaim and ResourceClaimTemplate share.

Source: pkg/apis/resource/validation of Kubernetes 1.36.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fracgpu.sim.api.errors import FieldError, duplicate, forbidden_field, invalid, not_supported, required, too_many
from fracgpu.sim.api.objects import JsonObject, dig
from fracgpu.sim.api.rawjson import RawJson
from fracgpu.sim.api.rules_base import Context, check_dns_label, check_driver, check_qualified, check_subdomain

_MODES = ("All", "ExactCount")
_OPERATORS = ("Equal", "Exists")
TAINT_EFFECTS = ("NoExecute", "NoSchedule", "None")
_PARAMETERS_MAX = 10 * 1024
ADMIN_LABEL = "resource.kubernetes.io/admin-access"


def alternatives(request: JsonObject) -> list[JsonObject]:
    """Return the parts of a request that name a class: `exactly`, or each of `firstAvailable`."""
    exactly = request.get("exactly")
    return ([exactly] if exactly else []) + list(request.get("firstAvailable") or [])


def default_device_claim(spec: JsonObject) -> None:
    """Set the defaults of 1.36: allocationMode ExactCount, count 1."""
    for request in dig(spec, "devices", "requests") or []:
        for part in alternatives(request):
            mode = part.setdefault("allocationMode", "ExactCount")
            if mode == "ExactCount" and not part.get("count"):
                part["count"] = 1
            for toleration in part.get("tolerations") or []:
                toleration.setdefault("operator", "Equal")


def drop_capacity(spec: JsonObject) -> None:
    """Drop what DRAConsumableCapacity gates, silently, as a server with the gate off does."""
    devices = spec.get("devices") or {}
    for request in devices.get("requests") or []:
        for part in alternatives(request):
            part.pop("capacity", None)
    for constraint in devices.get("constraints") or []:
        constraint.pop("distinctAttribute", None)


def request_names(spec: JsonObject) -> set[str]:
    """Return the names by which results, constraints and config may refer to requests."""
    names: set[str] = set()
    for request in dig(spec, "devices", "requests") or []:
        name = str(request.get("name"))
        names.add(name)
        names.update(f"{name}/{part.get('name')}" for part in request.get("firstAvailable") or [])
    return names


def check_device_claim(spec: JsonObject, path: str, context: Context) -> list[FieldError]:
    """Return the findings about `spec` (its `devices`), located below `path`."""
    devices = spec.get("devices") or {}
    path = f"{path}.devices"
    errors: list[FieldError] = []
    requests = devices.get("requests") or []
    if len(requests) > 32:
        errors.append(too_many(f"{path}.requests", len(requests), 32))
    errors += _unique([str(request.get("name", "")) for request in requests], f"{path}.requests")
    errors += check_admin_access(devices, context)
    for index, request in enumerate(requests):
        errors += _check_request(request, f"{path}.requests[{index}]", context)
    known = request_names(spec)
    for index, constraint in enumerate(devices.get("constraints") or []):
        errors += _check_constraint(constraint, f"{path}.constraints[{index}]", known)
    configs = devices.get("config") or []
    if len(configs) > 32:
        errors.append(too_many(f"{path}.config", len(configs), 32))
    for index, config in enumerate(configs):
        errors += _check_references(config, f"{path}.config[{index}]", known)
        errors += check_opaque(config, f"{path}.config[{index}]")
    return errors


def _unique(names: list[str], path: str) -> list[FieldError]:
    return [duplicate(f"{path}[{index}]", name) for index, name in enumerate(names) if name and name in names[:index]]


def _check_request(request: JsonObject, path: str, context: Context) -> list[FieldError]:
    errors = check_dns_label(request.get("name"), f"{path}.name")
    exactly, first = request.get("exactly"), request.get("firstAvailable") or []
    if bool(exactly) == bool(first):
        what = "exactly one of `exactly` or `firstAvailable` is required"
        errors.append(
            required(path, what) if not exactly else invalid(path, None, f"{what}, but multiple fields are set")
        )
        return errors
    if exactly:
        return errors + _check_part(exactly, f"{path}.exactly", context)
    if len(first) > 8:
        errors.append(too_many(f"{path}.firstAvailable", len(first), 8))
    errors += _unique([str(part.get("name", "")) for part in first], f"{path}.firstAvailable")
    for index, part in enumerate(first):
        errors += check_dns_label(part.get("name"), f"{path}.firstAvailable[{index}].name")
        errors += _check_part(part, f"{path}.firstAvailable[{index}]", context)
    return errors


def _check_part(part: JsonObject, path: str, context: Context) -> list[FieldError]:
    errors = check_subdomain(part.get("deviceClassName"), f"{path}.deviceClassName")
    mode, count = part.get("allocationMode"), part.get("count")
    if mode not in _MODES:
        errors.append(not_supported(f"{path}.allocationMode", mode, _MODES))
    elif mode == "All" and count:
        errors.append(invalid(f"{path}.count", count, "must not be specified when allocationMode is 'All'"))
    elif mode == "ExactCount" and (not isinstance(count, int) or count <= 0):
        errors.append(invalid(f"{path}.count", count, "must be greater than zero"))
    # Nobody looks at names and sizes in capacity.requests: whatever is no capacity of the device is ignored later.
    for index, toleration in enumerate(part.get("tolerations") or []):
        errors += _check_toleration(toleration, f"{path}.tolerations[{index}]")
    return errors + check_selectors(part.get("selectors") or [], f"{path}.selectors", context)


def _check_toleration(toleration: JsonObject, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    if toleration.get("operator") not in _OPERATORS:
        errors.append(not_supported(f"{path}.operator", toleration.get("operator"), _OPERATORS))
    effect = toleration.get("effect")
    if effect and effect not in TAINT_EFFECTS:
        errors.append(not_supported(f"{path}.effect", effect, TAINT_EFFECTS))
    return errors


def check_admin_access(devices: JsonObject, context: Context) -> list[FieldError]:
    """Return findings about admin access outside the namespaces for it; templates are located as claims are."""
    if context.namespace_labels.get(ADMIN_LABEL) == "true":
        return []
    text = f"admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
    return [
        forbidden_field(f"spec.devices.requests[{index}].adminAccess", text)
        for index, request in enumerate(devices.get("requests") or [])
        if dig(request, "exactly", "adminAccess")
    ]


def check_selectors(selectors: list[JsonObject], path: str, context: Context) -> list[FieldError]:
    """Return findings about CEL selectors: presence, size, the variable that the gate hides. CEL is not compiled."""
    errors = [too_many(path, len(selectors), 32)] if len(selectors) > 32 else []
    for index, selector in enumerate(selectors):
        where = f"{path}[{index}].cel"
        expression = dig(selector, "cel", "expression")
        if selector.get("cel") is None:
            errors.append(required(where))
        elif not expression:
            text = "compilation failed: ERROR: <input>:1:0: Syntax error: mismatched input '<EOF>'"
            errors.append(invalid(f"{where}.expression", "", text))
        elif len(expression) > 10 * 1024:
            errors.append(
                FieldError(f"{where}.expression", "FieldValueTooLong", "Too long: may not be more than 10240 bytes")
            )
        elif not context.consumable_capacity and re.search(r"\bdevice\.allowMultipleAllocations\b", expression):
            text = "compilation failed: undefined field 'allowMultipleAllocations'"
            errors.append(invalid(f"{where}.expression", expression, text))
    return errors


def _references(holder: JsonObject) -> Iterator[tuple[int, str]]:
    yield from enumerate(str(name) for name in holder.get("requests") or [])


def _check_references(holder: JsonObject, path: str, known: set[str]) -> list[FieldError]:
    text = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, name in _references(holder):
        where = f"{path}.requests[{index}]"
        if name not in known:
            errors.append(invalid(where, name, text))
        elif name in seen:
            errors.append(duplicate(where, name))
        seen.add(name)
    return errors


def _check_constraint(constraint: JsonObject, path: str, known: set[str]) -> list[FieldError]:
    errors = _check_references(constraint, path, known)
    match, distinct = constraint.get("matchAttribute"), constraint.get("distinctAttribute")
    if not (match or distinct):
        text = 'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set'
        return [*errors, required(path, text)]
    # Of both only the first is looked at.
    which = "matchAttribute" if match else "distinctAttribute"
    if "/" not in str(constraint[which]):
        text = "a fully qualified name must be a domain and a name separated by a slash"
        return [*errors, invalid(f"{path}.{which}", constraint[which], text)]
    return errors + check_qualified(constraint[which], f"{path}.{which}")


def check_opaque(config: JsonObject, path: str) -> list[FieldError]:
    """Return findings about one configuration entry: opaque, a driver name, parameters that are a JSON object."""
    opaque: Any = config.get("opaque")
    if not opaque:
        return [required(f"{path}.opaque")]
    errors = check_driver(opaque.get("driver"), f"{path}.opaque.driver")
    parameters = opaque.get("parameters")
    where = f"{path}.opaque.parameters"
    if parameters is None or (isinstance(parameters, RawJson) and parameters.text.strip() == "null"):
        return [*errors, required(where)]
    if not isinstance(parameters, RawJson) or not _is_json_object(parameters):
        shown = "<value omitted>"
        return [*errors, invalid(where, shown, "must be a valid JSON object")]
    if len(parameters.text.encode()) > _PARAMETERS_MAX:
        errors.append(FieldError(where, "FieldValueTooLong", f"Too long: may not be more than {_PARAMETERS_MAX} bytes"))
    return errors


def _is_json_object(parameters: RawJson) -> bool:
    # What came as protobuf was never read as JSON.
    try:
        return isinstance(parameters.value(), dict)
    except ValueError:
        return False
