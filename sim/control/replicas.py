"""Stand-ins for the deployment and replica set controllers: replicas exist, follow the template, cascade away.

A changed template rolls: as many new pods as the surge allows, and old ones go as new ones become ready. With shares
of GPUs that is felt, as the surge needs room of its own.
"""

from __future__ import annotations

import copy
import hashlib
import json

from fracgpu.controller.objects.facts import is_deleting, is_owned_by, is_ready, is_terminal
from fracgpu.sim.api.objects import JsonObject, dig, metadata, name_of, namespace_of, now, revision_of
from fracgpu.sim.api.rawjson import plain
from fracgpu.sim.api.resources import DEPLOYMENTS, PODS, REPLICA_SETS
from fracgpu.sim.control.cluster import Cluster
from fracgpu.sim.control.loop import Controller
from fracgpu.sim.control.pods import owner_reference

_HASH_LABEL = "pod-template-hash"


def pod_from_template(owner: JsonObject, template: JsonObject) -> JsonObject:
    """Return the body of a pod of a workload."""
    meta = copy.deepcopy(template.get("metadata") or {})
    kept = {key: meta[key] for key in ("labels", "annotations") if meta.get(key)}
    return {
        "apiVersion": PODS.api_version,
        "kind": PODS.kind,
        "metadata": kept | {"generateName": f"{name_of(owner)}-", "ownerReferences": [owner_reference(owner)]},
        "spec": copy.deepcopy(template["spec"]),
    }


def pods_of(cluster: Cluster, owner: JsonObject) -> list[JsonObject]:
    """Return the pods that a workload controls, newest first."""
    pods = [pod for pod in cluster.all(PODS) if is_owned_by(pod, owner)]
    return sorted(pods, key=revision_of, reverse=True)


class DeploymentController(Controller):
    """Keeps one replica set per template of a deployment, and only the current one scaled up."""

    name = "deployments"

    def reconcile(self) -> None:
        """Look at every deployment."""
        self.each((one for one in self.cluster.all(DEPLOYMENTS) if not is_deleting(one)), self._sync)

    def _sync(self, deployment: JsonObject) -> None:
        digest = template_hash(deployment["spec"]["template"])
        own = [item for item in self.cluster.all(REPLICA_SETS) if is_owned_by(item, deployment)]
        current = next((item for item in own if (metadata(item).get("labels") or {}).get(_HASH_LABEL) == digest), None)
        if current is None:
            body = _replica_set(deployment, digest)
            body["spec"]["replicas"] = 0
            current = self.cluster.create(REPLICA_SETS, namespace_of(deployment), body)
        old = [item for item in own if item is not current]
        if dig(deployment, "spec", "strategy", "type") == "Recreate":
            self._recreate(deployment, current, old)
        else:
            self._roll(deployment, current, old)
        self._report(deployment, current, old)

    def _recreate(self, deployment: JsonObject, current: JsonObject, old: list[JsonObject]) -> None:
        for item in old:
            self._scale(item, 0)
        if not any(pods_of(self.cluster, item) for item in old):
            self._scale(current, deployment["spec"]["replicas"])

    def _roll(self, deployment: JsonObject, current: JsonObject, old: list[JsonObject]) -> None:
        """Take one step of a rolling update. Source: rolling.go of kube-controller-manager's deployment controller."""
        wanted = deployment["spec"]["replicas"]
        surge, unavailable = _bounds(deployment)
        total = sum(item["spec"]["replicas"] for item in (current, *old))
        have = current["spec"]["replicas"]
        if have > wanted:
            self._scale(current, wanted)
        elif have < wanted and wanted + surge > total:
            self._scale(current, min(wanted, have + wanted + surge - total))
        spare = sum(_ready(item) for item in (current, *old)) - (wanted - unavailable)
        for item in old:
            # Who is not ready serves nobody, and may go at once.
            idle = max(0, item["spec"]["replicas"] - _ready(item))
            fewer = min(item["spec"]["replicas"], idle + max(0, spare))
            spare -= max(0, fewer - idle)
            self._scale(item, item["spec"]["replicas"] - fewer)

    def _scale(self, replica_set: JsonObject, replicas: int) -> None:
        if replica_set["spec"].get("replicas") != replicas and not is_deleting(replica_set):
            changed = copy.deepcopy(replica_set)
            changed["spec"]["replicas"] = replicas
            self.cluster.update(REPLICA_SETS, changed)

    def _report(self, deployment: JsonObject, current: JsonObject, old_sets: list[JsonObject]) -> None:
        counts = current.get("status") or {}
        wanted = deployment["spec"]["replicas"]
        ready = sum(_ready(item) for item in (current, *old_sets))
        available = "True" if ready >= wanted else "False"
        reason = "MinimumReplicasAvailable" if available == "True" else "MinimumReplicasUnavailable"
        conditions = dig(deployment, "status", "conditions") or []
        old = next((item for item in conditions if item.get("type") == "Available"), None)
        if old is None or old.get("status") != available:
            old = {"type": "Available", "status": available, "reason": reason, "lastTransitionTime": now()}
        self.cluster.change_status(
            DEPLOYMENTS,
            deployment,
            observedGeneration=metadata(deployment).get("generation"),
            replicas=sum(dig(item, "status", "replicas") or 0 for item in (current, *old_sets)),
            updatedReplicas=counts.get("replicas", 0),
            readyReplicas=ready,
            availableReplicas=ready,
            unavailableReplicas=max(0, wanted - ready) or None,
            conditions=[old],
        )


class ReplicaSetController(Controller):
    """Keeps the number of a replica set's pods; ended pods are replaced."""

    name = "replicasets"

    def reconcile(self) -> None:
        """Look at every replica set."""
        self.each((one for one in self.cluster.all(REPLICA_SETS) if not is_deleting(one)), self._sync)

    def _sync(self, replica_set: JsonObject) -> None:
        active = [pod for pod in pods_of(self.cluster, replica_set) if not is_terminal(pod) and not is_deleting(pod)]
        wanted = replica_set["spec"].get("replicas", 1)
        for _ in range(wanted - len(active)):
            body = pod_from_template(replica_set, replica_set["spec"]["template"])
            active.append(self.cluster.create(PODS, namespace_of(replica_set), body))
        # Those that do not run yet go first, then the newest.
        for pod in sorted(active, key=is_ready)[: max(0, len(active) - wanted)]:
            self.cluster.delete(PODS, pod)
            active.remove(pod)
        ready = sum(is_ready(pod) for pod in active)
        self.cluster.change_status(
            REPLICA_SETS,
            replica_set,
            observedGeneration=metadata(replica_set).get("generation"),
            replicas=len(active),
            fullyLabeledReplicas=len(active),
            readyReplicas=ready,
            availableReplicas=ready,
        )


def _ready(replica_set: JsonObject) -> int:
    # Its status may be older than its last scaling: who is to go is not counted on.
    return min(int(dig(replica_set, "status", "readyReplicas") or 0), int(replica_set["spec"]["replicas"]))


def _bounds(deployment: JsonObject) -> tuple[int, int]:
    """Return how many pods more, and how many fewer than wanted there may be during an update."""
    wanted = deployment["spec"]["replicas"]
    limits = dig(deployment, "spec", "strategy", "rollingUpdate") or {}
    surge = _portion(limits.get("maxSurge", "25%"), wanted, up=True)
    unavailable = _portion(limits.get("maxUnavailable", "25%"), wanted, up=False)
    # Neither would be no way to begin.
    return surge, unavailable if surge or unavailable else 1


def _portion(amount: int | str, whole: int, *, up: bool) -> int:
    if isinstance(amount, int):
        return amount
    percent = int(amount.removesuffix("%")) * whole
    return -(-percent // 100) if up else percent // 100


def template_hash(template: JsonObject) -> str:
    """Return a short text that differs where templates differ."""
    text = json.dumps(plain(template), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _replica_set(deployment: JsonObject, digest: str) -> JsonObject:
    template = copy.deepcopy(deployment["spec"]["template"])
    labels = (dig(template, "metadata", "labels") or {}) | {_HASH_LABEL: digest}
    template["metadata"] = (template.get("metadata") or {}) | {"labels": labels}
    wanted = dig(deployment, "spec", "selector", "matchLabels") or {}
    return {
        "apiVersion": REPLICA_SETS.api_version,
        "kind": REPLICA_SETS.kind,
        "metadata": {
            "name": f"{name_of(deployment)}-{digest}",
            "labels": labels,
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": deployment["spec"]["replicas"],
            "selector": {"matchLabels": wanted | {_HASH_LABEL: digest}},
            "template": template,
        },
    }
