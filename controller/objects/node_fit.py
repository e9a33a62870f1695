"""Whether kube-scheduler would let a pod run on a node, as far as that is known before the pod has its GPUs.

An allocation fixes the node. If kube-scheduler finds that the pod cannot run there it takes the allocation back, and
the pod waits another round. So the filters that decide most often are asked here first, by its own rules, in its order
and in its words: cordons, node name, taints, selector and affinity, host ports, resources, and what other claims are
bound to. Affinity between pods, topology spread and volumes are not: there the scheduler's refusal is the answer.

Source: pkg/scheduler/framework/plugins of Kubernetes 1.36 (nodename, nodeaffinity, tainttoleration, nodeunschedulable,
noderesources/fit, nodeports), k8s.io/component-helpers/scheduling/corev1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fracgpu.controller.fit.views import Taint, Toleration
from fracgpu.controller.objects.facts import (
    Json,
    dig,
    is_deleting,
    is_ready,
    items,
    labels_of,
    mapping,
    name_of,
    node_name_of,
    text,
)
from fracgpu.controller.objects.node_selectors import selector_takes
from fracgpu.controller.objects.pod_requests import amounts_of, pod_requests

__all__ = [
    "CLAIM_ELSEWHERE",
    "HostPort",
    "NodeFacts",
    "PodNeeds",
    "host_ports",
    "node_facts",
    "pod_requests",
    "selects",
]

HostPort = tuple[str, str, int]
"""Address (`0.0.0.0` is all), protocol, port."""

CLAIM_ELSEWHERE: Final = "resourceclaim not available on the node"
"""What is said of a node for which another claim of the pod is not allocated."""

_PODS: Final = "pods"
_EVERY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - compared with, never listened on
_UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"
_NOT_READY: Final = "node.kubernetes.io/not-ready"
_UNREACHABLE: Final = "node.kubernetes.io/unreachable"
_TAINT_TEXTS: Final = {
    _UNSCHEDULABLE: "node(s) were unschedulable",
    _NOT_READY: "node(s) were not ready",
    _UNREACHABLE: "node(s) were not ready",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What decides whether pods may run on a node.

    `taints` are those that keep pods away, with the ones that its state stands for: a cordoned node, and one that is
    not ready, keeps pods away before anybody has written the taint. `allocatable` in the units of pod_requests.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = True
    deleting: bool = False
    allocatable: Mapping[str, int] = field(default_factory=dict)


def node_facts(node: Json) -> NodeFacts:
    """Return what decides on a Node. Never raises; a taint whose effect is not known keeps nobody away."""
    taints = [
        Taint(key=text(item, "key"), value=text(item, "value"), effect=text(item, "effect"))
        for item in items(node, "spec", "taints")
        if item.get("effect") in ("NoSchedule", "NoExecute")
    ]
    unschedulable, ready = bool(dig(node, "spec", "unschedulable")), is_ready(node)
    keys = {taint.key for taint in taints}
    if not ready and not keys & {_NOT_READY, _UNREACHABLE}:
        unknown = any(
            item.get("type") == "Ready" and item.get("status") == "Unknown"
            for item in items(node, "status", "conditions")
        )
        taints.append(Taint(key=_UNREACHABLE if unknown else _NOT_READY))
    if unschedulable and _UNSCHEDULABLE not in keys:
        taints.append(Taint(key=_UNSCHEDULABLE))
    # kube-scheduler asks about the cordon before it asks about taints, so that is what people are told.
    taints.sort(key=lambda taint: taint.key != _UNSCHEDULABLE)
    return NodeFacts(
        name=name_of(node),
        labels=labels_of(node),
        taints=tuple(taints),
        unschedulable=unschedulable,
        ready=ready,
        deleting=is_deleting(node),
        allocatable=amounts_of(mapping(node, "status", "allocatable")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNeeds:
    """What a pod asks of its node. `node_name` is set where it is decided already; kube-scheduler is not asked then."""

    node_name: str
    node_labels: Mapping[str, str]
    affinity: Json | None
    claims_selectors: tuple[Json, ...]
    tolerations: tuple[Toleration, ...]
    requests: Mapping[str, int]
    ports: frozenset[HostPort]

    @classmethod
    def of(cls, pod: Json, claims: Sequence[Json] = ()) -> PodNeeds:
        """Return a pod's needs; of its `claims`, those that are allocated bind it to nodes. Never raises."""
        affinity = dig(pod, "spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
        selectors = [dig(claim, "status", "allocation", "nodeSelector") for claim in claims]
        return cls(
            node_name=node_name_of(pod),
            node_labels=mapping(pod, "spec", "nodeSelector"),
            affinity=affinity if affinity is None or isinstance(affinity, dict) else {},
            claims_selectors=tuple(selector for selector in selectors if isinstance(selector, dict)),
            tolerations=_tolerations(pod),
            requests=pod_requests(pod),
            ports=host_ports(pod),
        )

    def rejects(
        self, node: NodeFacts, used: Mapping[str, int], pod_count: int, ports: Collection[HostPort] = ()
    ) -> str | None:
        """Return why the pod cannot run on a node, None if it can.

        Of all other pods there that have not ended, `used` is the sum of their pod_requests, `pod_count` their number,
        `ports` their host ports. The texts are kube-scheduler's, without numbers, so that nodes can be counted by them.

        A pod that names its node goes past kube-scheduler, so only what the kubelet refuses counts. What it requests is
        not compared: the pod is among those that use the node already.
        """
        if node.deleting:
            return "node(s) were being deleted"
        if self.node_name and self.node_name != node.name:
            return "node(s) didn't match the requested node name"
        return (
            self._rejects_taints(node) or self._rejects_labels(node) or self._rejects_use(node, used, pod_count, ports)
        )

    def _rejects_taints(self, node: NodeFacts) -> str | None:
        for taint in node.taints:
            if self.node_name and taint.effect != "NoExecute":
                continue
            if not any(toleration.tolerates(taint) for toleration in self.tolerations):
                return _TAINT_TEXTS.get(taint.key, f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}")
        return None

    def _rejects_labels(self, node: NodeFacts) -> str | None:
        matching = all(node.labels.get(key) == value for key, value in self.node_labels.items())
        if not matching or not selects(self.affinity, node):
            return "node(s) didn't match Pod's node affinity/selector"
        return None

    def _rejects_use(
        self, node: NodeFacts, used: Mapping[str, int], pod_count: int, ports: Collection[HostPort]
    ) -> str | None:
        if not self.node_name:
            if any(_collide(wanted, taken) for wanted in self.ports for taken in ports):
                return "node(s) didn't have free ports for the requested pod ports"
            if pod_count >= node.allocatable.get(_PODS, 0):
                return "Too many pods"
            if missing := self._missing(node, used):
                return missing
        if not all(selects(selector, node) for selector in self.claims_selectors):
            return CLAIM_ELSEWHERE
        return None

    def _missing(self, node: NodeFacts, used: Mapping[str, int]) -> str:
        missing = [
            name
            for name, amount in self.requests.items()
            if amount > 0 and amount > node.allocatable.get(name, 0) - used.get(name, 0)
        ]
        return ", ".join(f"Insufficient {name}" for name in sorted(missing))


def selects(selector: Json | None, node: NodeFacts) -> bool:
    """Tell whether a NodeSelector takes a node; None takes every node. Never raises."""
    return selector_takes(selector, node.name, node.labels)


def host_ports(pod: Json) -> frozenset[HostPort]:
    """Return the ports of its node that a pod takes. Never raises."""
    containers = items(pod, "spec", "containers")
    # Of the init containers only sidecars are there together with other pods' containers for long.
    containers += [item for item in items(pod, "spec", "initContainers") if item.get("restartPolicy") == "Always"]
    shares_host = dig(pod, "spec", "hostNetwork") is True
    found: set[HostPort] = set()
    for port in (port for container in containers for port in items(container, "ports")):
        # The API server fills in hostPort on the host's network; a manifest that it has not seen has none.
        number = port.get("hostPort") or (port.get("containerPort") if shares_host else None)
        if isinstance(number, int) and number > 0:
            found.add((text(port, "hostIP") or _EVERY_ADDRESS, text(port, "protocol") or "TCP", number))
    return frozenset(found)


def _collide(one: HostPort, other: HostPort) -> bool:
    same_address = one[0] == other[0] or _EVERY_ADDRESS in (one[0], other[0])
    return same_address and one[1:] == other[1:]


def _tolerations(pod: Json) -> tuple[Toleration, ...]:
    # Other operators (comparisons, behind a gate) tolerate nothing here; where they are enabled the scheduler knows.
    return tuple(
        Toleration(key=text(item, "key"), operator=operator, value=text(item, "value"), effect=text(item, "effect"))
        for item in items(pod, "spec", "tolerations")
        if (operator := text(item, "operator") or "Equal") in ("Equal", "Exists")
    )
