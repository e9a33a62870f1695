"""The patch formats: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and Kubernetes' strategic merge patch.

They are not alike in what they do to opaque parameters that they do not touch: the first two work on encoded JSON, so
the parameters come back compacted with their order kept; the third goes through a map, so they come back sorted too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from fracgpu.sim.api.errors import ApiError, bad_request
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.rawjson import RawJson, plain
from fracgpu.sim.api.strategic import strategic_merge

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
PATCH_TYPES = (JSON, MERGE, STRATEGIC)


def apply_patch(content_type: str, obj: JsonObject, patch: Any) -> JsonObject:
    """Return the patched copy of an object. Raises ApiError 400, 415 or 422."""
    if content_type == JSON:
        return _as_object(json_patch(_compacted(obj), patch))
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: a patch of this type must be a JSON object")
    if content_type == MERGE:
        return _as_object(merge(_compacted(obj), patch))
    if content_type == STRATEGIC:
        return _as_object(_canonical(strategic_merge(obj, patch)))
    raise ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: " + ", ".join(PATCH_TYPES),
    )


def _as_object(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise bad_request("the patched document is not an object")
    return value


def _map_raw(value: Any, change: Callable[[RawJson], RawJson]) -> Any:
    if isinstance(value, RawJson):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_raw(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_raw(item, change) for item in value]
    return value


def _compacted(value: Any) -> Any:
    return _map_raw(value, RawJson.compact)


def _canonical(value: Any) -> Any:
    return _map_raw(value, RawJson.canonical)


def merge(target: Any, patch: Any) -> Any:
    """Return the RFC 7386 merge of a patch into a target; raw JSON is opened where the patch reaches into it."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    base = plain(target) if isinstance(target, RawJson) else target
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def json_patch(document: Any, operations: Any) -> Any:
    """Return the document after RFC 6902 operations, all or none. Raises ApiError 400 or 422."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: a JSON patch is an array of operations")
    for operation in operations:
        if not isinstance(operation, dict) or "op" not in operation or "path" not in operation:
            raise bad_request("error decoding patch: each operation needs op and path")
        document = _operate(document, operation)
    return document


def _operate(document: Any, operation: JsonObject) -> Any:
    kind, path = operation["op"], _pointer(operation["path"])
    if kind in ("add", "replace", "test") and "value" not in operation:
        raise bad_request(f"error decoding patch: operation {kind} needs a value")
    if kind == "add":
        return _edit(document, path, "add", operation["value"])
    if kind == "replace":
        return _edit(document, path, "replace", operation["value"])
    if kind == "remove":
        return _edit(document, path, "remove", None)
    if kind == "test":
        if plain(_read(document, path)) != plain(operation["value"]):
            raise ApiError(422, "Invalid", "the server rejected our request due to an error in our request")
        return document
    if kind in ("move", "copy"):
        source = _pointer(operation.get("from", ""))
        value = _read(document, source)
        base = _edit(document, source, "remove", None) if kind == "move" else document
        return _edit(base, path, "add", value)
    raise bad_request(f"error decoding patch: unexpected kind {kind!r}")


def _pointer(text: Any) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise bad_request(f"error decoding patch: {text!r} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _missing(path: list[str]) -> ApiError:
    return ApiError(
        422,
        "Invalid",
        f"the server rejected our request due to an error in our request: path /{'/'.join(path)} is missing",
    )


def _index(part: str, *, upto: int) -> int:
    if not part.isdigit() or int(part) >= upto:
        raise _missing([part])
    return int(part)


def _read(node: Any, path: list[str]) -> Any:
    for part in path:
        node = plain(node) if isinstance(node, RawJson) else node
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list):
            node = node[_index(part, upto=len(node))]
        else:
            raise _missing(path)
    return node


def _edit(node: Any, path: list[str], action: str, value: Any) -> Any:
    if not path:
        if action == "remove":
            raise bad_request("error decoding patch: the whole document cannot be removed")
        return value
    head, rest = path[0], path[1:]
    node = plain(node) if isinstance(node, RawJson) else node
    if isinstance(node, dict):
        return _edit_object(node, head, rest, action=action, value=value)
    if isinstance(node, list):
        return _edit_array(node, head, rest, action=action, value=value)
    raise _missing(path)


def _edit_object(node: JsonObject, head: str, rest: list[str], *, action: str, value: Any) -> JsonObject:
    result = dict(node)
    if rest:
        if head not in node:
            raise _missing([head, *rest])
        result[head] = _edit(node[head], rest, action, value)
    elif action == "add":
        result[head] = value
    elif head not in node:
        raise _missing([head])
    elif action == "replace":
        result[head] = value
    else:
        del result[head]
    return result


def _edit_array(node: list[Any], head: str, rest: list[str], *, action: str, value: Any) -> list[Any]:
    result = list(node)
    if not rest and action == "add":
        at = len(node) if head == "-" else _index(head, upto=len(node) + 1)
        result.insert(at, value)
        return result
    at = _index(head, upto=len(node))
    if rest:
        result[at] = _edit(node[at], rest, action, value)
    elif action == "replace":
        result[at] = value
    else:
        del result[at]
    return result
