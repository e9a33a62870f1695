"""Where the kinds of Kubernetes have their pods, and what in other kinds speaks of device plugins' resources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fracgpu.controller.convert.ask import quota_resource
from fracgpu.controller.convert.dialects import is_resource
from fracgpu.controller.convert.edits import Json, Path

_TEMPLATE: Final[Path] = ("spec", "template")
_PODS: Final[dict[tuple[str, str], Path]] = {
    ("", "Pod"): (),
    ("", "PodTemplate"): ("template",),
    ("", "ReplicationController"): _TEMPLATE,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}


def pod_path(obj: Json) -> Path | None:
    """Return where an object has `metadata` and `spec` of its pods; None for a kind that is not known to have pods."""
    return _PODS.get((group_of(obj), str(obj.get("kind"))))


def group_of(obj: Json) -> str:
    """Return the API group of an object, empty for the core group."""
    group, slash, _ = str(obj.get("apiVersion", "")).partition("/")
    return group if slash else ""


def known_kinds() -> str:
    """Name the kinds whose pods are translated."""
    return ", ".join(sorted(kind for _, kind in _PODS))


def mentioned_resources(obj: Json) -> list[str]:
    """Return device plugins' resources that are keys anywhere in an object, as quotas write them too; each once."""
    return sorted(set(_keys(obj, set())))


def _keys(value: Any, seen: set[int]) -> Iterator[str]:
    # YAML's aliases can make one object stand in very many places: each is looked at once.
    if not isinstance(value, dict | list) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, list):
        for item in value:
            yield from _keys(item, seen)
        return
    for key, item in value.items():
        if is_resource(quota_resource(str(key))):
            yield str(key)
        yield from _keys(item, seen)
