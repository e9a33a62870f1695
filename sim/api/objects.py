"""Small helpers for Kubernetes objects held as plain JSON trees.

The emulator keeps objects as dictionaries and not as models, because it must return exactly what clients sent,
opaque parameters included.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

JsonObject = dict[str, Any]


def metadata(obj: JsonObject) -> JsonObject:
    """Return the object's metadata dictionary, created in place when absent."""
    found = obj.setdefault("metadata", {})
    if not isinstance(found, dict):
        raise TypeError("metadata is not an object")
    return found


def name_of(obj: JsonObject) -> str:
    """Return metadata.name, empty when absent."""
    return str(obj.get("metadata", {}).get("name", ""))


def namespace_of(obj: JsonObject) -> str:
    """Return metadata.namespace, empty for cluster-scoped objects."""
    return str(obj.get("metadata", {}).get("namespace", ""))


def uid_of(obj: JsonObject) -> str:
    """Return metadata.uid, empty when absent."""
    return str(obj.get("metadata", {}).get("uid", ""))


def revision_of(obj: JsonObject) -> int:
    """Return metadata.resourceVersion as a number, 0 when absent or not a number."""
    text = str(obj.get("metadata", {}).get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0


def dig(obj: Any, *path: str) -> Any:
    """Return the value at a path of keys, None where anything on the way is absent."""
    for key in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(key)
    return obj


def now() -> str:
    """Return the current time as metav1.Time: RFC 3339, UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micro() -> str:
    """Return the current time as metav1.MicroTime: RFC 3339, UTC, microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
