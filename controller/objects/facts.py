"""Questions about Kubernetes objects that every part of the controller asks. Pure.

Objects are the API server's own JSON. None of these functions fails on an object that is malformed: what cannot be
read is absent. Whoever may not take absence for an answer checks for itself.
"""

from __future__ import annotations

from typing import Any

from fracgpu.driver.names import FINALIZER

Json = dict[str, Any]


def dig(obj: Any, *path: str) -> Any:
    """Return the value at a path of keys, None where anything on the way is absent."""
    for key in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(key)
    return obj


def items(obj: Any, *path: str) -> list[Json]:
    """Return the objects of the list at a path of keys; whatever else stands in it is left out."""
    found = dig(obj, *path)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def mapping(obj: Any, *path: str) -> Json:
    """Return the object at a path of keys, empty when it is absent or no object."""
    found = dig(obj, *path)
    return found if isinstance(found, dict) else {}


def texts(obj: Any, *path: str) -> list[str]:
    """Return the strings of the list at a path of keys; whatever else stands in it is left out."""
    found = dig(obj, *path)
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def text(obj: Any, *path: str) -> str:
    """Return the string at a path of keys, empty when it is absent or no string."""
    found = dig(obj, *path)
    return found if isinstance(found, str) else ""


def name_of(obj: Json) -> str:
    """Return metadata.name, empty when absent."""
    return text(obj, "metadata", "name")


def namespace_of(obj: Json) -> str:
    """Return metadata.namespace, empty for cluster-scoped objects."""
    return text(obj, "metadata", "namespace")


def full_name(obj: Json) -> str:
    """Return `namespace/name`, or the name alone for cluster-scoped objects."""
    namespace = namespace_of(obj)
    return f"{namespace}/{name_of(obj)}" if namespace else name_of(obj)


def uid_of(obj: Json) -> str:
    """Return metadata.uid, empty when absent."""
    return text(obj, "metadata", "uid")


def revision_of(obj: Json) -> int:
    """Return metadata.resourceVersion as a number, 0 when absent or not a number."""
    found = text(obj, "metadata", "resourceVersion")
    return int(found) if found.isascii() and found.isdigit() else 0


def labels_of(obj: Json) -> dict[str, str]:
    """Return metadata.labels."""
    return _strings(obj, "labels")


def annotations_of(obj: Json) -> dict[str, str]:
    """Return metadata.annotations."""
    return _strings(obj, "annotations")


def _strings(obj: Json, field: str) -> dict[str, str]:
    return {key: value for key, value in mapping(obj, "metadata", field).items() if isinstance(value, str)}


def is_deleting(obj: Json) -> bool:
    """Tell whether deletion has begun."""
    return bool(dig(obj, "metadata", "deletionTimestamp"))


def is_owned_by(obj: Json, owner: Json) -> bool:
    """Tell whether `owner` is the controller of an object."""
    references = items(obj, "metadata", "ownerReferences")
    return any(item.get("controller") is True and item.get("uid") == uid_of(owner) for item in references)


# Pods


def is_terminal(pod: Json) -> bool:
    """Tell whether all containers have ended for good."""
    return dig(pod, "status", "phase") in ("Succeeded", "Failed")


def is_done(pod: Json) -> bool:
    """Tell whether the pod runs no more and never will: it needs its claims no longer."""
    abandoned = is_deleting(pod) and not node_name_of(pod)
    return is_terminal(pod) or abandoned


def node_name_of(pod: Json) -> str:
    """Return the node that a pod is bound to, or was created for; empty before it is."""
    return text(pod, "spec", "nodeName")


def waits_for_node(pod: Json) -> bool:
    """Tell whether the pod is to be scheduled: unbound, alive, no gates."""
    bound = node_name_of(pod) or dig(pod, "spec", "schedulingGates")
    return not bound and not is_terminal(pod) and not is_deleting(pod)


def claim_names(pod: Json) -> dict[str, str | None]:
    """Return by the pod's own claim name the ResourceClaim's name; None where none was generated yet."""
    generated = {
        text(item, "name"): text(item, "resourceClaimName") for item in items(pod, "status", "resourceClaimStatuses")
    }
    return {
        text(item, "name"): text(item, "resourceClaimName") or generated.get(text(item, "name")) or None
        for item in items(pod, "spec", "resourceClaims")
        if text(item, "name")
    }


def is_generated(pod: Json, own_name: str) -> bool:
    """Tell whether a claim of the pod comes from a template."""
    entries = items(pod, "spec", "resourceClaims")
    return any(item.get("name") == own_name and bool(item.get("resourceClaimTemplateName")) for item in entries)


# Claims


def is_allocated(claim: Json) -> bool:
    """Tell whether a claim has an allocation."""
    return dig(claim, "status", "allocation") is not None


def has_finalizer(claim: Json) -> bool:
    """Tell whether a claim has the finalizer that deallocation looks for."""
    return FINALIZER in texts(claim, "metadata", "finalizers")


def reserved_uids(claim: Json) -> list[str]:
    """Return the UIDs of the claim's consumers."""
    return [text(item, "uid") for item in items(claim, "status", "reservedFor")]


# Nodes


def is_ready(obj: Json) -> bool:
    """Tell whether the condition Ready is True."""
    conditions = items(obj, "status", "conditions")
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
