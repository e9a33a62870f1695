"""Questions about pods, claims and nodes that several controllers ask. Pure."""

from __future__ import annotations

from fracgpu.driver.names import FINALIZER
from fracgpu.sim.api.objects import JsonObject, dig, metadata, name_of, namespace_of, uid_of
from fracgpu.sim.api.resources import RESOURCE_CLAIMS
from fracgpu.sim.control.cluster import Cluster


def is_terminal(pod: JsonObject) -> bool:
    """Tell whether all containers have ended for good."""
    return dig(pod, "status", "phase") in ("Succeeded", "Failed")


def is_done(pod: JsonObject) -> bool:
    """Tell whether the pod runs no more and never will: it needs its claims no longer."""
    abandoned = is_deleting(pod) and not dig(pod, "spec", "nodeName")
    return is_terminal(pod) or abandoned


def is_deleting(obj: JsonObject) -> bool:
    """Tell whether deletion has begun."""
    return bool(metadata(obj).get("deletionTimestamp"))


def is_ready(obj: JsonObject) -> bool:
    """Tell whether the condition Ready is True."""
    conditions = dig(obj, "status", "conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


def waits_for_node(pod: JsonObject) -> bool:
    """Tell whether the pod is to be scheduled: unbound, alive, no gates."""
    spec = pod.get("spec") or {}
    bound = spec.get("nodeName") or spec.get("schedulingGates")
    return not bound and not is_terminal(pod) and not is_deleting(pod)


def claim_names(pod: JsonObject) -> dict[str, str | None]:
    """Return by the pod's own claim name the ResourceClaim's name; None where none was generated yet."""
    generated = {
        item.get("name"): item.get("resourceClaimName") for item in dig(pod, "status", "resourceClaimStatuses") or []
    }
    return {
        str(item["name"]): item.get("resourceClaimName") or generated.get(item["name"])
        for item in dig(pod, "spec", "resourceClaims") or []
    }


def claims_of(cluster: Cluster, pod: JsonObject) -> tuple[list[JsonObject], list[str]]:
    """Return the pod's claims that exist and the names of those that do not (yet)."""
    found: list[JsonObject] = []
    missing: list[str] = []
    for own_name, name in claim_names(pod).items():
        claim = cluster.get(RESOURCE_CLAIMS, namespace_of(pod), name) if name else None
        if claim is None or (is_generated(pod, own_name) and not is_owned_by(claim, pod)):
            missing.append(name or own_name)
        else:
            found.append(claim)
    return found, missing


def is_generated(pod: JsonObject, own_name: str) -> bool:
    """Tell whether a claim of the pod comes from a template."""
    entries = dig(pod, "spec", "resourceClaims") or []
    return any(item.get("name") == own_name and item.get("resourceClaimTemplateName") for item in entries)


def is_owned_by(obj: JsonObject, owner: JsonObject) -> bool:
    """Tell whether `owner` is the controller of an object."""
    references = metadata(obj).get("ownerReferences") or []
    return any(item.get("controller") and item.get("uid") == uid_of(owner) for item in references)


def owner_reference(owner: JsonObject) -> JsonObject:
    """Return the reference that makes an object the controller of another."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_allocated(claim: JsonObject) -> bool:
    """Tell whether a claim has an allocation."""
    return dig(claim, "status", "allocation") is not None


def has_finalizer(claim: JsonObject) -> bool:
    """Tell whether a claim has the finalizer that deallocation looks for."""
    return FINALIZER in (metadata(claim).get("finalizers") or [])


def reserved_uids(claim: JsonObject) -> list[str]:
    """Return the UIDs of the claim's consumers."""
    return [str(item.get("uid")) for item in dig(claim, "status", "reservedFor") or []]


def selects(selector: JsonObject | None, node: JsonObject) -> bool:
    """Tell whether a NodeSelector takes a node: fields by name, expressions by label. None takes all."""
    if selector is None:
        return True
    labels = metadata(node).get("labels") or {}
    for term in selector.get("nodeSelectorTerms") or []:
        fields = [_requirement(item, {"metadata.name": name_of(node)}) for item in term.get("matchFields") or []]
        expressions = [_requirement(item, labels) for item in term.get("matchExpressions") or []]
        if (fields or expressions) and all(fields + expressions):
            return True
    return False


def _requirement(item: JsonObject, values: JsonObject) -> bool:
    key, wanted = str(item.get("key")), item.get("values") or []
    operator = item.get("operator")
    if operator == "In":
        return values.get(key) in wanted
    if operator == "NotIn":
        return values.get(key) not in wanted
    if operator == "Exists":
        return key in values
    return operator == "DoesNotExist" and key not in values


def can_run(pod: JsonObject, node: JsonObject) -> bool:
    """Tell whether a node is ready, open for pods, and wanted by the pod: nodeName, nodeSelector, taints."""
    spec = pod.get("spec") or {}
    labels = metadata(node).get("labels") or {}
    if spec.get("nodeName") and spec["nodeName"] != name_of(node):
        return False
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    if spec.get("nodeName"):
        return True
    taints = dig(node, "spec", "taints") or []
    tolerated = all(_tolerates(spec.get("tolerations") or [], taint) for taint in taints)
    return is_ready(node) and not dig(node, "spec", "unschedulable") and tolerated and not is_deleting(node)


def _tolerates(tolerations: list[JsonObject], taint: JsonObject) -> bool:
    if taint.get("effect") not in ("NoSchedule", "NoExecute"):
        return True
    for item in tolerations:
        same_key = item.get("key") in (None, "", taint.get("key"))
        same_value = item.get("operator") == "Exists" or item.get("value", "") == taint.get("value", "")
        if same_key and same_value and item.get("effect") in (None, "", taint.get("effect")):
            return True
    return False
