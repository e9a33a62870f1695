"""The PodScheduled condition: where `kubectl describe pod` shows why a pod waits."""

from __future__ import annotations

from fracgpu.sim.api.objects import JsonObject, dig, name_of, namespace_of, now, uid_of
from fracgpu.sim.api.resources import PODS
from fracgpu.sim.control.cluster import Cluster


def mark_unschedulable(cluster: Cluster, pod: JsonObject, message: str) -> None:
    """Set PodScheduled=False, reason Unschedulable, on an unbound pod; written only when it says something new."""
    current = cluster.get(PODS, namespace_of(pod), name_of(pod))
    if current is None or uid_of(current) != uid_of(pod) or dig(current, "spec", "nodeName"):
        return
    conditions = dig(current, "status", "conditions") or []
    old = next((item for item in conditions if item.get("type") == "PodScheduled"), None)
    if old is not None and old.get("status") == "False" and old.get("message") == message:
        return
    entry = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": now(),
    }
    kept = [item for item in conditions if item.get("type") != "PodScheduled"]
    cluster.change_status(PODS, current, conditions=[*kept, entry])
