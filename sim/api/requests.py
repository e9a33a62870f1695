"""From a URL and headers to what is asked for; nothing here touches the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fracgpu.sim.api import protobuf
from fracgpu.sim.api.deletion import DeleteOptions
from fracgpu.sim.api.errors import ApiError, bad_request
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.patch import JSON, MERGE, PATCH_TYPES, STRATEGIC
from fracgpu.sim.api.rawjson import RawJsonError, loads
from fracgpu.sim.api.registry import WriteGuard, WriteOptions
from fracgpu.sim.api.resources import ALL_RESOURCES, NAMESPACES, RESOURCE_CLAIMS, Resource
from fracgpu.sim.api.selectors import parse_fields, parse_labels
from fracgpu.sim.api.watching import Filter

# Stands for what the built-in components get by speaking protobuf in lists and watches as well, of all resources:
# parameters with the bytes that are stored.
VERBATIM_JSON = "application/json;parameters=verbatim"
_JSON_TYPES = ("application/json", "*/*", "application/*")


class Encoding(Enum):
    """How an answer is written."""

    JSON = "application/json"
    VERBATIM = VERBATIM_JSON
    PROTOBUF = protobuf.MEDIA_TYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path names. `name` is empty for a collection."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_path(path: str) -> Target | None:
    """Return the target of a resource path, None for every other path."""
    for resource in ALL_RESOURCES:
        if path.startswith(resource.root + "/"):
            parts = path[len(resource.root) + 1 :].strip("/").split("/")
            target = _match(resource, parts)
            if target:
                return target
    return None


def _match(resource: Resource, parts: list[str]) -> Target | None:
    namespace = ""
    if resource.namespaced and len(parts) >= 3 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    if not parts or parts[0] != resource.plural or len(parts) > 3:
        return None
    if resource.namespaced and not namespace and len(parts) > 1:
        return None
    if resource is NAMESPACES and len(parts) > 2 and parts[2] not in ("status", "finalize"):
        return None
    name, subresource = (*parts[1:], "", "")[:2]
    return Target(resource=resource, namespace=namespace, name=name, subresource=subresource)


def speaks_protobuf(target: Target) -> bool:
    """Tell whether objects of the target have a protobuf form here: single ResourceClaims, for the raw-bytes trap."""
    return target.resource is RESOURCE_CLAIMS and bool(target.name)


def choose_encoding(accept: str, *, protobuf_too: bool) -> Encoding:
    """Return the first form in the Accept header that can be had. Raises ApiError 406."""
    for part in (accept or "*/*").split(","):
        offered = part.strip().replace(" ", "")
        if offered == VERBATIM_JSON:
            return Encoding.VERBATIM
        media_type = offered.partition(";")[0]
        if media_type in _JSON_TYPES:
            return Encoding.JSON
        if media_type == protobuf.MEDIA_TYPE and protobuf_too:
            return Encoding.PROTOBUF
    known = "application/json" + (f", {protobuf.MEDIA_TYPE}" if protobuf_too else "")
    raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {known}")


def decode_body(content_type: str, body: bytes, *, protobuf_too: bool = False) -> JsonObject:
    """Return the object of a request body. Raises ApiError 400 or 415."""
    if content_type == protobuf.MEDIA_TYPE and protobuf_too:
        return protobuf.decode_claim(body)
    if content_type and content_type != "application/json":
        text = (
            f"the body of the request was in an unknown format ({content_type}) - accepted media types include: "
            "application/json" + (f", {protobuf.MEDIA_TYPE}" if protobuf_too else "")
        )
        raise ApiError(415, "UnsupportedMediaType", text)
    value = _loads(body)
    if not isinstance(value, dict):
        raise bad_request("the request body is not a JSON object")
    return value


def decode_patch(content_type: str, body: bytes, resource: Resource) -> Any:
    """Return the decoded patch. Raises ApiError 400 or 415."""
    if resource.is_custom and content_type == STRATEGIC:
        text = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(
            (JSON, MERGE, "application/apply-patch+yaml")
        )
        raise ApiError(415, "UnsupportedMediaType", text)
    if content_type not in PATCH_TYPES:
        raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type")
    return _loads(body)


def _loads(body: bytes) -> Any:
    try:
        return loads(body)
    except RawJsonError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error


def write_options(query: Mapping[str, str], guard: WriteGuard | None = None) -> WriteOptions:
    """Return the options of a write by the guarded user. Raises ApiError 400."""
    dry_run = query.get("dryRun", "")
    if dry_run not in ("", "All"):
        raise bad_request(f'dryRun: Unsupported value: "{dry_run}": supported values: "All"')
    return WriteOptions(dry_run=bool(dry_run), strict=query.get("fieldValidation") == "Strict", guard=guard)


def delete_options(query: Mapping[str, str], body: bytes) -> DeleteOptions:
    """Return the options of a deletion from body and query; the body wins. Raises ApiError 400."""
    given: JsonObject = json.loads(body) if body.strip() else {}
    if not isinstance(given, dict):
        raise bad_request("DeleteOptions must be a JSON object")
    preconditions = given.get("preconditions") or {}
    seconds = given.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    policy = given.get("propagationPolicy", query.get("propagationPolicy"))
    dry_run = given.get("dryRun") or query.get("dryRun")
    return DeleteOptions(
        grace_seconds=None if seconds is None else _number(seconds, "gracePeriodSeconds"),
        uid=preconditions.get("uid"),
        resource_version=preconditions.get("resourceVersion"),
        orphan=policy == "Orphan",
        dry_run=bool(dry_run),
    )


def parse_filter(target: Target, query: Mapping[str, str]) -> Filter:
    """Return the filter of a list, watch or collection deletion. Raises ApiError 400."""
    fields = query.get("fieldSelector", "")
    if target.name:
        fields = f"metadata.name={target.name}" + (f",{fields}" if fields else "")
    return Filter(
        resource=target.resource,
        namespace=target.namespace,
        labels=parse_labels(query.get("labelSelector", "")),
        fields=parse_fields(target.resource, fields),
    )


def _number(value: Any, name: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise bad_request(f"{name}: {value!r} is not a number") from error


def number(query: Mapping[str, str], name: str, default: int) -> int:
    """Return a whole number of the query. Raises ApiError 400."""
    text = query.get(name, "")
    return _number(text, name) if text else default


def is_true(query: Mapping[str, str], name: str) -> bool:
    """Tell whether a boolean of the query is set."""
    return query.get(name, "").lower() in ("1", "true")
