"""What the controllers ask of the cluster about a pod: its claims, the nodes that would take it, its ownership."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fracgpu.controller.objects.facts import (
    claim_names,
    is_generated,
    is_owned_by,
    is_terminal,
    name_of,
    namespace_of,
    node_name_of,
    uid_of,
)
from fracgpu.controller.objects.node_fit import PodNeeds, host_ports, node_facts, pod_requests
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.rawjson import plain
from fracgpu.sim.api.resources import NODES, PODS, RESOURCE_CLAIMS
from fracgpu.sim.control.cluster import Cluster


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


def rejections(cluster: Cluster, pod: JsonObject, claims: Sequence[JsonObject]) -> dict[str, str | None]:
    """Return for each node why the pod, which has these claims, cannot run there, or None."""
    needs = PodNeeds.of(pod, plain(list(claims)))
    others: dict[str, list[JsonObject]] = {}
    for other in cluster.all(PODS):
        if uid_of(other) != uid_of(pod) and not is_terminal(other):
            others.setdefault(node_name_of(other), []).append(other)
    answers: dict[str, str | None] = {}
    for node in cluster.all(NODES):
        there = others.get(name_of(node), [])
        used: Counter[str] = Counter()
        for other in there:
            used.update(pod_requests(other))
        ports = [port for other in there for port in host_ports(other)]
        answers[name_of(node)] = needs.rejects(node_facts(node), used, len(there), ports)
    return answers


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
