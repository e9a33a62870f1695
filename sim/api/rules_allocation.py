"""Rules of ResourceClaim.status: allocation, reservedFor, devices.

The real server checks little here (format, not existence or fit); this one checks no more than that, so that a driver
cannot come to rely on checks that do not exist. Source: pkg/apis/resource/validation of Kubernetes 1.36.
"""

from __future__ import annotations

import re

from fracgpu.sim.api.errors import FieldError, duplicate, forbidden_field, invalid, not_supported, required, too_many
from fracgpu.sim.api.objects import JsonObject, dig
from fracgpu.sim.api.rawjson import dumps
from fracgpu.sim.api.rules_base import SUBDOMAIN_TEXT, check_dns_label, check_driver, is_subdomain, is_uuid
from fracgpu.sim.api.rules_deviceclaim import check_opaque, request_names

_UUID_LENGTH = 36
_DATA_MAX_BYTES = 10 * 1024
# metav1.Condition
_TRUTHS = ("False", "True", "Unknown")
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_SOURCES = ("FromClaim", "FromClass")
DeviceKey = tuple[str, str, str, str]


def device_key(entry: JsonObject) -> DeviceKey:
    """Return the identity of a result or a device status: driver, pool, device, shareID."""
    return (
        str(entry.get("driver", "")),
        str(entry.get("pool", "")),
        str(entry.get("device", "")),
        str(entry.get("shareID", "")),
    )


def _results(status: JsonObject) -> list[JsonObject]:
    return list(dig(status, "allocation", "devices", "results") or [])


def drop_shares(status: JsonObject) -> None:
    """Drop shareID and consumedCapacity, silently, as a server with the gate off does."""
    for result in _results(status):
        result.pop("shareID", None)
        result.pop("consumedCapacity", None)
    for device in status.get("devices") or []:
        device.pop("shareID", None)


def drop_stale_devices(status: JsonObject, old: JsonObject) -> None:
    """Drop device entries that the old status had and whose result is deallocated now."""
    allocated = {device_key(result) for result in _results(status)}
    before = {device_key(device) for device in old.get("devices") or []}
    kept = [
        device
        for device in status.get("devices") or []
        if device_key(device) in allocated or device_key(device) not in before
    ]
    if kept:
        status["devices"] = kept
    else:
        status.pop("devices", None)


def check_status(status: JsonObject, spec: JsonObject) -> list[FieldError]:
    """Return the findings about a status by itself."""
    errors: list[FieldError] = []
    allocation = status.get("allocation")
    if allocation is not None:
        errors += _check_allocation(allocation, request_names(spec))
    errors += _check_reserved(status)
    allocated = {device_key(result) for result in _results(status)}
    seen: set[DeviceKey] = set()
    for index, device in enumerate(status.get("devices") or []):
        errors += _check_device(device, f"status.devices[{index}]", allocated)
        if device_key(device) in seen:
            errors.append(duplicate(f"status.devices[{index}]", "/".join(device_key(device))))
        seen.add(device_key(device))
    return errors


def check_status_change(status: JsonObject, old: JsonObject, *, deleting: bool) -> list[FieldError]:
    """Return the findings about a change: an allocation is set once and may only be removed."""
    errors: list[FieldError] = []
    before, after = old.get("allocation"), status.get("allocation")
    if before is not None and after is not None and before != after:
        errors.append(invalid("status.allocation", after, "field is immutable"))
    if deleting:
        known = {entry.get("uid") for entry in old.get("reservedFor") or []}
        if any(entry.get("uid") not in known for entry in status.get("reservedFor") or []):
            text = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
            errors.append(forbidden_field("status.reservedFor", text))
    return errors


def _check_allocation(allocation: JsonObject, known: set[str]) -> list[FieldError]:
    errors: list[FieldError] = []
    results = dig(allocation, "devices", "results") or []
    if len(results) > 32:
        errors.append(too_many("status.allocation.devices.results", len(results), 32))
    for index, result in enumerate(results):
        errors += _check_result(result, f"status.allocation.devices.results[{index}]", known)
    configs = dig(allocation, "devices", "config") or []
    if len(configs) > 64:
        errors.append(too_many("status.allocation.devices.config", len(configs), 64))
    for index, config in enumerate(configs):
        path = f"status.allocation.devices.config[{index}]"
        if config.get("source") not in _SOURCES:
            errors.append(not_supported(f"{path}.source", config.get("source"), _SOURCES))
        errors += [
            invalid(f"{path}.requests[{at}]", name, "must be the name of a request in the claim")
            for at, name in enumerate(config.get("requests") or [])
            if name not in known
        ]
        errors += check_opaque(config, path)
    if "nodeSelector" in allocation:
        errors += check_node_selector(allocation["nodeSelector"], "status.allocation.nodeSelector")
    return errors


def _check_result(result: JsonObject, path: str, known: set[str]) -> list[FieldError]:
    errors: list[FieldError] = []
    if result.get("request") not in known:
        text = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
        errors.append(invalid(f"{path}.request", result.get("request"), text))
    errors += check_driver(result.get("driver"), f"{path}.driver")
    errors += check_pool(result.get("pool"), f"{path}.pool")
    errors += check_dns_label(result.get("device"), f"{path}.device")
    if "shareID" in result and not is_uuid(result["shareID"]):
        errors.append(invalid(f"{path}.shareID", result["shareID"], _share_text(result["shareID"])))
    return errors


def _share_text(share: str) -> str:
    if len(share) != _UUID_LENGTH:
        return f"error validating uid: invalid UUID length: {len(share)}"
    return (
        "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal "
        "characters"
    )


def check_pool(name: object, path: str) -> list[FieldError]:
    """Return findings unless the text is a pool name: DNS subdomains joined by `/`, 253 characters at most."""
    if not isinstance(name, str) or not name:
        return [required(path)]
    if len(name) > 253:
        return [FieldError(path, "FieldValueTooLong", "Too long: may not be more than 253 bytes")]
    return [invalid(path, part, SUBDOMAIN_TEXT) for part in name.split("/") if not is_subdomain(part)]


def check_node_selector(selector: JsonObject, path: str) -> list[FieldError]:
    """Return findings about a NodeSelector; matchFields knows metadata.name with one value only."""
    terms = selector.get("nodeSelectorTerms") or []
    if not terms:
        return [required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")]
    errors: list[FieldError] = []
    for index, term in enumerate(terms):
        where = f"{path}.nodeSelectorTerms[{index}]"
        for at, match in enumerate(term.get("matchFields") or []):
            errors += _check_match_field(match, f"{where}.matchFields[{at}]")
        for at, match in enumerate(term.get("matchExpressions") or []):
            operators = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
            if match.get("operator") not in operators:
                errors.append(
                    invalid(
                        f"{where}.matchExpressions[{at}].operator",
                        match.get("operator"),
                        "not a valid selector operator",
                    )
                )
    return errors


def _check_match_field(match: JsonObject, path: str) -> list[FieldError]:
    if match.get("key") != "metadata.name":
        return [invalid(f"{path}.key", match.get("key"), "not a valid field selector key")]
    if match.get("operator") not in ("In", "NotIn"):
        return [invalid(f"{path}.operator", match.get("operator"), "not a valid selector operator")]
    if len(match.get("values") or []) != 1:
        return [
            required(
                f"{path}.values", "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            )
        ]
    return []


def _check_reserved(status: JsonObject) -> list[FieldError]:
    reserved = status.get("reservedFor") or []
    errors: list[FieldError] = []
    if len(reserved) > 256:
        errors.append(too_many("status.reservedFor", len(reserved), 256))
    if reserved and status.get("allocation") is None:
        errors.append(forbidden_field("status.reservedFor", "may not be specified when `allocated` is not set"))
    uids: set[str] = set()
    for index, entry in enumerate(reserved):
        path = f"status.reservedFor[{index}]"
        errors += [required(f"{path}.{key}") for key in ("resource", "name", "uid") if not entry.get(key)]
        uid = str(entry.get("uid"))
        if uid in uids:
            errors.append(duplicate(path, uid))
        uids.add(uid)
    return errors


def _check_device(device: JsonObject, path: str, allocated: set[DeviceKey]) -> list[FieldError]:
    errors: list[FieldError] = []
    if device_key(device) not in allocated:
        text = "must be an allocated device in the claim"
        # Go's names: what is shown is a struct of the allocator, not a part of the API.
        shown = {key[0].upper() + key[1:]: device.get(key) or "" for key in ("driver", "pool", "device", "shareID")}
        errors.append(invalid(path, shown, text))
    conditions = device.get("conditions") or []
    if len(conditions) > 8:
        errors.append(too_many(f"{path}.conditions", len(conditions), 8))
    for index, condition in enumerate(conditions):
        errors += _check_condition(condition, f"{path}.conditions[{index}]")
        if condition.get("type") in [other.get("type") for other in conditions[:index]]:
            errors.append(duplicate(f"{path}.conditions[{index}].type", condition.get("type")))
    return errors + _check_data(device.get("data"), f"{path}.data")


def _check_condition(condition: JsonObject, path: str) -> list[FieldError]:
    errors = [required(f"{path}.{key}") for key in ("type", "reason", "lastTransitionTime") if not condition.get(key)]
    if condition.get("status") not in _TRUTHS:
        errors.append(not_supported(f"{path}.status", condition.get("status"), _TRUTHS))
    reason = condition.get("reason")
    if reason and not _REASON.fullmatch(reason):
        errors.append(invalid(f"{path}.reason", reason, "a condition reason must start with alphabetic character"))
    return errors


def _check_data(data: object, path: str) -> list[FieldError]:
    if data is None:
        return []
    if not isinstance(data, dict):
        return [invalid(path, "<value omitted>", "must be a valid JSON object")]
    if len(dumps(data)) > _DATA_MAX_BYTES:
        return [FieldError(path, "FieldValueTooLong", f"Too long: may not be more than {_DATA_MAX_BYTES} bytes")]
    return []
