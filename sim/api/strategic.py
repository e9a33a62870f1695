"""Strategic merge patch: lists with a merge key are merged by it, `$patch` directives are obeyed.

Merge keys are the `patchMergeKey` tags of k8s.io/api for the types that the emulator serves; a list of objects without
an entry is atomic. `$setElementOrder` is ignored: order has no meaning for the lists in question.
"""

from __future__ import annotations

import copy
from typing import Any

from fracgpu.sim.api.errors import bad_request
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.rawjson import RawJson, plain

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "conditions": "type",
    "addresses": "type",
    "ownerReferences": "uid",
    "resourceClaims": "name",
    "resourceClaimStatuses": "name",
    "schedulingGates": "name",
    "podIPs": "ip",
    "hostIPs": "ip",
    "hostAliases": "ip",
    "reservedFor": "uid",
}
_MERGED_SCALARS = frozenset({"finalizers"})


def strategic_merge(target: Any, patch: JsonObject) -> JsonObject:
    """Return the merge of a strategic patch into a target object. Raises ApiError 400 for unknown directives."""
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"Unknown patch type found: {directive}")
    base = plain(target) if isinstance(target, RawJson) else target
    result: JsonObject = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name, []) if item not in value]
        elif key == "$retainKeys":
            result = {name: item for name, item in result.items() if name in value}
        elif not key.startswith("$"):
            _member(result, key, value)
    return result


def _member(result: JsonObject, key: str, value: Any) -> None:
    if value is None:
        result.pop(key, None)
    elif isinstance(value, dict):
        result[key] = strategic_merge(result.get(key), value)
    elif isinstance(value, list):
        result[key] = _merge_list(key, result.get(key) or [], value)
    else:
        result[key] = value


def _merge_list(name: str, current: list[Any], patch: list[Any]) -> list[Any]:
    if name in _MERGED_SCALARS and not any(isinstance(item, dict) for item in patch):
        # What the patch names comes first, in its order.
        return patch + [item for item in current if item not in patch]
    key = _MERGE_KEYS.get(name)
    objects = bool(patch) and all(isinstance(item, dict) for item in [*current, *patch])
    if key is None or not objects:
        return copy.deepcopy([item for item in patch if not _is_directive(item)])
    if any(item.get("$patch") == "replace" for item in patch):
        return copy.deepcopy([item for item in patch if "$patch" not in item])
    result = list(current)
    for item in patch:
        if key not in item:
            if "$patch" in item:
                continue
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        _merge_item(result, key, item)
    return result


def _is_directive(item: Any) -> bool:
    return isinstance(item, dict) and "$patch" in item


def _merge_item(result: list[Any], key: str, item: JsonObject) -> None:
    at = next((index for index, old in enumerate(result) if old.get(key) == item[key]), None)
    if item.get("$patch") == "delete":
        if at is not None:
            del result[at]
    elif at is None:
        result.append(strategic_merge({}, item))
    else:
        result[at] = strategic_merge(result[at], item)
