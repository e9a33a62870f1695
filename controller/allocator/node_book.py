"""Nodes, and what the pods on them ask for: can one more pod run there?

kube-scheduler has the last word. Asking its main questions here first keeps us from allocating where it will not go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fracgpu.controller.objects.facts import name_of
from fracgpu.controller.objects.node_fit import HostPort, NodeFacts, PodNeeds, host_ports, node_facts, pod_requests
from fracgpu.controller.ports import Json

PodKey = tuple[str, str]
"""Namespace and name of a pod."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A pod on a node, with what it takes there."""

    node: str
    requests: Mapping[str, int]
    ports: frozenset[HostPort]

    @classmethod
    def of(cls, pod: Json, node: str) -> Seat:
        """Return the seat that a pod takes on a node."""
        return cls(node, pod_requests(pod), host_ports(pod))


class NodeBook:
    """All nodes and the pods that are on them, or are about to be."""

    def __init__(self) -> None:
        self._facts: dict[str, NodeFacts] = {}
        self._objects: dict[str, Json] = {}
        self._used: dict[str, Counter[str]] = {}
        self._on: dict[str, set[PodKey]] = {}
        self._seats: dict[PodKey, Seat] = {}

    def set_node(self, node: Json) -> bool:
        """Take in a node as it is now; return whether anything that we look at has changed."""
        facts = node_facts(node)
        changed = self._facts.get(facts.name) != facts
        self._facts[facts.name] = facts
        self._objects[facts.name] = node
        return changed

    def remove_node(self, node: Json) -> None:
        """Forget a node. What is said of pods on it stays: it may come back."""
        self._facts.pop(name_of(node), None)
        self._objects.pop(name_of(node), None)

    def put_pod(self, key: PodKey, seat: Seat) -> bool:
        """Say that a pod is on a node, or will be; return whether another seat is free now for that."""
        if self._seats.get(key) == seat:
            return False
        moved = self.remove_pod(key)
        self._seats[key] = seat
        self._used.setdefault(seat.node, Counter()).update(seat.requests)
        self._on.setdefault(seat.node, set()).add(key)
        return moved

    def remove_pod(self, key: PodKey) -> bool:
        """Say that a pod is on no node; return whether it was."""
        seat = self._seats.pop(key, None)
        if seat is None:
            return False
        self._used[seat.node].subtract(seat.requests)
        self._on[seat.node].discard(key)
        return True

    def objects(self) -> list[Json]:
        """Return all nodes as they are. Do not change them."""
        return list(self._objects.values())

    def facts(self, node: str) -> NodeFacts | None:
        """Return what is known of a node."""
        return self._facts.get(node)

    def rejects(self, needs: PodNeeds, key: PodKey, node: str) -> str | None:
        """Return why a pod cannot run on a node, in a few words, or None when nothing speaks against it."""
        facts = self._facts.get(node)
        if facts is None:
            return "node(s) do not exist"
        used: Mapping[str, int] = self._used.get(node, {})
        others = self._on.get(node, set())
        own = self._seats.get(key)
        if own is not None and own.node == node:
            # It is counted there already, because of the claims that it has.
            used = Counter(used)
            used.subtract(own.requests)
            others = others - {key}
        ports = {port for other in others for port in self._seats[other].ports} if needs.ports else ()
        return needs.rejects(facts, used, len(others), ports)
