"""Stand-in for the stateful set controller: pods with names that stay, one after the other.

A pod is made when all before it are ready, removed when all behind it are gone, and replaced one at a time from the
last when the template changed. Volumes are not part of it.
"""

from __future__ import annotations

from fracgpu.controller.objects.facts import is_deleting, is_ready, is_terminal
from fracgpu.sim.api.objects import JsonObject, dig, metadata, name_of, namespace_of
from fracgpu.sim.api.resources import PODS, STATEFUL_SETS
from fracgpu.sim.control.loop import Controller
from fracgpu.sim.control.replicas import pod_from_template, pods_of, template_hash

_REVISION_LABEL = "controller-revision-hash"
_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
_INDEX_LABEL = "apps.kubernetes.io/pod-index"


class StatefulSetController(Controller):
    """Keeps the pods of every stateful set."""

    name = "statefulsets"

    def reconcile(self) -> None:
        """Look at every stateful set."""
        self.each((one for one in self.cluster.all(STATEFUL_SETS) if not is_deleting(one)), self._sync)

    def _sync(self, owner: JsonObject) -> None:
        pods = {name_of(pod): pod for pod in pods_of(self.cluster, owner)}
        self._act(owner, pods)
        self._report(owner, list(pods.values()))

    def _act(self, owner: JsonObject, pods: dict[str, JsonObject]) -> None:
        """Do the next thing that is to be done; with parallel management, all of them."""
        spec = owner["spec"]
        revision, in_order = _revision(owner), spec.get("podManagementPolicy") != "Parallel"
        wanted = [f"{name_of(owner)}-{ordinal}" for ordinal in range(spec["replicas"])]
        for ordinal, name in enumerate(wanted):
            pod = pods.get(name)
            if pod is None:
                pods[name] = self.cluster.create(PODS, namespace_of(owner), _pod(owner, ordinal, revision))
            elif is_terminal(pod) and not is_deleting(pod):
                self.cluster.delete(PODS, pod)
            if in_order and (pod is None or is_deleting(pod) or not is_ready(pod)):
                return
        surplus = [pod for name, pod in pods.items() if name not in wanted]
        surplus.sort(key=_ordinal, reverse=True)
        leaving = surplus or self._replaceable(owner, [pods[name] for name in reversed(wanted)], revision)
        for pod in leaving[:1] if in_order else leaving:
            if not is_deleting(pod):
                self.cluster.delete(PODS, pod)

    @staticmethod
    def _replaceable(owner: JsonObject, from_last: list[JsonObject], revision: str) -> list[JsonObject]:
        """Return the pod to replace; one at a time, whatever the policy: the next goes when those behind are ready."""
        strategy = owner["spec"]["updateStrategy"]
        if strategy["type"] != "RollingUpdate":
            return []
        first = int(dig(strategy, "rollingUpdate", "partition") or 0)
        for pod in from_last:
            if _ordinal(pod) >= first and _revision_of(pod) != revision:
                return [pod]
            if is_deleting(pod) or not is_ready(pod):
                return []
        return []

    def _report(self, owner: JsonObject, pods: list[JsonObject]) -> None:
        revision = _revision(owner)
        present = [pod for pod in pods if not is_deleting(pod)]
        ready = sum(is_ready(pod) for pod in present)
        current = sum(_revision_of(pod) == revision for pod in present)
        self.cluster.change_status(
            STATEFUL_SETS,
            owner,
            observedGeneration=metadata(owner).get("generation"),
            replicas=len(pods),
            readyReplicas=ready or None,
            availableReplicas=ready,
            currentReplicas=current or None,
            updatedReplicas=current or None,
            updateRevision=revision,
        )


def _revision(owner: JsonObject) -> str:
    return f"{name_of(owner)}-{template_hash(owner['spec']['template'])}"


def _revision_of(pod: JsonObject) -> str:
    return str((metadata(pod).get("labels") or {}).get(_REVISION_LABEL))


def _ordinal(pod: JsonObject) -> int:
    return int(name_of(pod).rpartition("-")[2])


def _pod(owner: JsonObject, ordinal: int, revision: str) -> JsonObject:
    pod = pod_from_template(owner, owner["spec"]["template"])
    meta = pod["metadata"]
    name = f"{name_of(owner)}-{ordinal}"
    del meta["generateName"]
    meta["name"] = name
    own = {_REVISION_LABEL: revision, _NAME_LABEL: name, _INDEX_LABEL: str(ordinal)}
    meta["labels"] = (meta.get("labels") or {}) | own
    pod["spec"] |= {"hostname": name, "subdomain": owner["spec"].get("serviceName", "")}
    return pod
