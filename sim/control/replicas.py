"""Stand-ins for the deployment and replica set controllers: replicas exist, follow the template, cascade away.

A changed template replaces all pods at once: rolling updates are not what a GPU lab is about.
"""

from __future__ import annotations

import copy
import hashlib
import json

from fracgpu.sim.api.objects import JsonObject, dig, metadata, name_of, namespace_of, now, revision_of
from fracgpu.sim.api.rawjson import plain
from fracgpu.sim.api.resources import DEPLOYMENTS, PODS, REPLICA_SETS
from fracgpu.sim.control.cluster import Cluster
from fracgpu.sim.control.facts import is_deleting, is_owned_by, is_ready, is_terminal, owner_reference
from fracgpu.sim.control.loop import Controller

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
        for deployment in self.cluster.all(DEPLOYMENTS):
            if not is_deleting(deployment):
                self._sync(deployment)

    def _sync(self, deployment: JsonObject) -> None:
        digest = _template_hash(deployment["spec"]["template"])
        own = [item for item in self.cluster.all(REPLICA_SETS) if is_owned_by(item, deployment)]
        current = next((item for item in own if (metadata(item).get("labels") or {}).get(_HASH_LABEL) == digest), None)
        if current is None:
            body = _replica_set(deployment, digest)
            current = self.cluster.create(REPLICA_SETS, namespace_of(deployment), body)
        for item in own:
            wanted = deployment["spec"]["replicas"] if item is current else 0
            self._scale(item, wanted)
        self._report(deployment, current)

    def _scale(self, replica_set: JsonObject, replicas: int) -> None:
        if replica_set["spec"].get("replicas") != replicas and not is_deleting(replica_set):
            changed = copy.deepcopy(replica_set)
            changed["spec"]["replicas"] = replicas
            self.cluster.update(REPLICA_SETS, changed)

    def _report(self, deployment: JsonObject, current: JsonObject) -> None:
        counts = current.get("status") or {}
        wanted = deployment["spec"]["replicas"]
        ready = counts.get("readyReplicas", 0)
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
            replicas=counts.get("replicas", 0),
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
        for replica_set in self.cluster.all(REPLICA_SETS):
            if not is_deleting(replica_set):
                self._sync(replica_set)

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


def _template_hash(template: JsonObject) -> str:
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
