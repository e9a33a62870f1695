"""Rules of ResourceSlice and DeviceClass.

A slice with one bad device is refused whole, so a driver must get every one of these right before it publishes.
Source: pkg/apis/resource/validation of Kubernetes 1.36.
"""

# One signature serves all rules, so most of them leave an argument alone.
# ruff: noqa: ARG002
from __future__ import annotations

import re
from typing import Any

from fracgpu.sim.api.errors import FieldError, duplicate, forbidden_field, invalid, not_supported, required, too_many
from fracgpu.sim.api.objects import JsonObject, metadata, now
from fracgpu.sim.api.rules_allocation import check_node_selector, check_pool
from fracgpu.sim.api.rules_base import (
    Context,
    Rules,
    check_dns_label,
    check_driver,
    check_label_key,
    check_qualified,
    check_subdomain,
)
from fracgpu.sim.api.rules_capacity import check_policy
from fracgpu.sim.api.rules_deviceclaim import TAINT_EFFECTS, check_opaque, check_selectors

# semver.org, the regular expression of section "Is there a suggested regular expression".
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?"
)
_NODE_CHOICES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
_MAX_DEVICES = 128
_MAX_DEVICES_WITH_TAINTS = 64
_MAX_ATTRIBUTES = 32


class SliceRules(Rules):
    """ResourceSlice: driver, node and pool name are immutable; the rest is replaced freely."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Drop gated members; a capacity without value has none."""
        _default_slice(obj)
        if not context.consumable_capacity:
            _drop_sharing(obj)

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Drop gated members unless the stored object already uses them; taints are dated by the server."""
        _default_slice(obj)
        if not context.consumable_capacity and not _shares(old):
            _drop_sharing(obj)

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check the spec."""
        spec = obj.get("spec") or {}
        errors = check_driver(spec.get("driver"), "spec.driver")
        pool = spec.get("pool") or {}
        errors += check_pool(pool.get("name"), "spec.pool.name")
        if not pool.get("resourceSliceCount", 0) > 0:
            errors.append(
                invalid("spec.pool.resourceSliceCount", pool.get("resourceSliceCount"), "must be greater than zero")
            )
        if pool.get("generation", 0) < 0:
            errors.append(
                invalid("spec.pool.generation", pool.get("generation"), "must be greater than or equal to zero")
            )
        return errors + _check_node_choice(spec) + _check_devices(spec)

    def validate_update(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Refuse a change of identity."""
        new, before = obj.get("spec") or {}, old.get("spec") or {}
        pairs: list[tuple[str, Any, Any]] = [
            ("spec.driver", new.get("driver"), before.get("driver")),
            ("spec.nodeName", new.get("nodeName"), before.get("nodeName")),
            ("spec.pool.name", (new.get("pool") or {}).get("name"), (before.get("pool") or {}).get("name")),
            ("spec.nodeSelector", new.get("nodeSelector"), before.get("nodeSelector")),
            ("spec.allNodes", new.get("allNodes"), before.get("allNodes")),
        ]
        return [invalid(path, value, "field is immutable") for path, value, old_value in pairs if value != old_value]


class ClassRules(Rules):
    """DeviceClass: mutable; `generation` counts spec changes."""

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check selectors and configuration."""
        spec = obj.get("spec") or {}
        errors = check_selectors(spec.get("selectors") or [], "spec.selectors", context)
        extended = spec.get("extendedResourceName")
        if extended and not _is_extended_resource(extended):
            errors.append(invalid("spec.extendedResourceName", extended, "must be a valid extended resource name"))
        configs = spec.get("config") or []
        if len(configs) > 32:
            errors.append(too_many("spec.config", len(configs), 32))
        for index, config in enumerate(configs):
            errors += check_opaque(config, f"spec.config[{index}]")
        return errors

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Make sure that there is a spec and metadata."""
        metadata(obj)
        obj.setdefault("spec", {})


def _is_extended_resource(name: str) -> bool:
    # IsExtendedResourceName in pkg/apis/core/v1/helper: a domain, and not Kubernetes' own.
    domain, slash, _ = name.partition("/")
    own = domain == "kubernetes.io" or domain.endswith(".kubernetes.io") or name.startswith("requests.")
    return bool(slash) and not own and not check_label_key(name, "")


def _default_slice(obj: JsonObject) -> None:
    for device in _devices(obj):
        for capacity in (device.get("capacity") or {}).values():
            capacity.setdefault("value", "0")
        for taint in device.get("taints") or []:
            taint.setdefault("timeAdded", now())


def _devices(obj: JsonObject) -> list[JsonObject]:
    return list((obj.get("spec") or {}).get("devices") or [])


def _shares(obj: JsonObject) -> bool:
    return any("allowMultipleAllocations" in device for device in _devices(obj))


def _drop_sharing(obj: JsonObject) -> None:
    for device in _devices(obj):
        device.pop("allowMultipleAllocations", None)
        for capacity in (device.get("capacity") or {}).values():
            capacity.pop("requestPolicy", None)


def _check_node_choice(spec: JsonObject) -> list[FieldError]:
    chosen = [name for name in _NODE_CHOICES if spec.get(name)]
    if len(chosen) != 1:
        text = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
        if not chosen:
            return [required("spec", text)]
        shown = "{" + ", ".join(f"`{name}`" for name in chosen) + "}"
        return [invalid("spec", shown, f"{text}, but multiple fields are set")]
    if chosen == ["nodeName"]:
        return check_subdomain(spec["nodeName"], "spec.nodeName")
    if chosen == ["nodeSelector"]:
        return check_node_selector(spec["nodeSelector"], "spec.nodeSelector")
    return []


def _check_devices(spec: JsonObject) -> list[FieldError]:
    devices = spec.get("devices") or []
    tainted = any(device.get("taints") or device.get("consumesCounters") for device in devices)
    maximum = _MAX_DEVICES_WITH_TAINTS if tainted else _MAX_DEVICES
    errors = [too_many("spec.devices", len(devices), maximum)] if len(devices) > maximum else []
    seen: set[str] = set()
    for index, device in enumerate(devices):
        path = f"spec.devices[{index}]"
        errors += _check_device(device, path)
        name = str(device.get("name"))
        if name in seen:
            errors.append(duplicate(path, name))
        seen.add(name)
    return errors


def _check_device(device: JsonObject, path: str) -> list[FieldError]:
    errors = check_dns_label(device.get("name"), f"{path}.name")
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > _MAX_ATTRIBUTES:
        text = f"the total number of attributes and capacities must not exceed {_MAX_ATTRIBUTES}"
        errors.append(invalid(path, len(attributes) + len(capacity), text))
    for key, attribute in attributes.items():
        errors += check_qualified(key, f"{path}.attributes")
        errors += _check_attribute(attribute, f"{path}.attributes[{key}]")
    shared = bool(device.get("allowMultipleAllocations"))
    for key, entry in capacity.items():
        errors += _check_capacity(key, entry, f"{path}.capacity[{key}]", shared=shared)
    for index, taint in enumerate(device.get("taints") or []):
        where = f"{path}.taints[{index}]"
        if not taint.get("key"):
            errors.append(invalid(f"{where}.key", "", "name part must be non-empty"))
        errors += check_label_key(str(taint.get("key", "")), f"{where}.key")
        if taint.get("effect") not in TAINT_EFFECTS:
            errors.append(not_supported(f"{where}.effect", taint.get("effect"), TAINT_EFFECTS))
    return errors


def _check_attribute(attribute: JsonObject, path: str) -> list[FieldError]:
    given = [kind for kind in ("bool", "int", "string", "version") if kind in attribute]
    if len(given) != 1:
        text = "exactly one value must be specified"
        return [invalid(path, _go_attribute(attribute) if attribute else "", text)]
    kind, value = given[0], attribute[given[0]]
    if kind in ("string", "version") and len(value.encode()) > 64:
        return [FieldError(f"{path}.{kind}", "FieldValueTooLong", "Too long: may not be more than 64 bytes")]
    if kind == "version" and not _SEMVER.fullmatch(value):
        return [invalid(f"{path}.version", value, "must be a string compatible with semver.org spec 2.0.0")]
    return []


def _go_attribute(attribute: JsonObject) -> JsonObject:
    """Return an attribute as the server prints it: a struct of its own, not a part of the API."""
    single = {f"{kind.capitalize()}Value": attribute.get(kind) for kind in ("int", "bool", "string", "version")}
    return single | {f"{name}s": None for name in single}


def _check_capacity(key: str, entry: JsonObject, path: str, *, shared: bool) -> list[FieldError]:
    errors = check_qualified(key, path.partition("[" + key)[0])
    policy = entry.get("requestPolicy")
    if policy is None:
        return errors
    if not shared:
        return [*errors, forbidden_field(f"{path}.requestPolicy", "allowMultipleAllocations must be true")]
    return errors + check_policy(policy, entry["value"], f"{path}.requestPolicy")
