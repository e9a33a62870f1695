"""Who holds how much of each GPU, and what is free.

Told by and by, as the news come; the answer never depends on the order in which they came. Not safe for threads.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from types import MappingProxyType

from fracgpu.controller.fit.answers import Answers
from fracgpu.controller.fit.nodes import Free, Held, NodeState
from fracgpu.controller.fit.views import DeviceKey, GpuView, Holding, Policy

__all__ = ["Free", "Ledger"]

_Entry = tuple[int, str, NodeState]
_NOBODY: Mapping[str, tuple[Holding, ...]] = MappingProxyType({})
_STATE = itemgetter(2)
_FEW = 64
"""Up to so many changed nodes are put in their place one by one; more are sorted."""


class Ledger:
    """All GPUs and all holdings.

    A GPU that two nodes publish under one pool and device name belongs to the one that said so last.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, NodeState] = {}
        self._node_of: dict[DeviceKey, str] = {}
        self._owners: dict[str, tuple[Holding, ...]] = {}
        self._holders: dict[DeviceKey, dict[str, tuple[Holding, ...]]] = {}
        self._held: dict[DeviceKey, Held] = {}
        self._examples: dict[int, GpuView] | None = None
        self._dirty: set[str] = set()
        self._sorted: dict[Policy, list[_Entry]] = {"Binpack": [], "Spread": []}
        self.answers = Answers()

    # News

    def set_gpus(self, node: str, gpus: Sequence[GpuView]) -> None:
        """Set all GPUs of a node; none means that it has none any more. Each GPU must name this node."""
        views = tuple(sorted(gpus, key=lambda gpu: gpu.key))
        for view in views:
            if view.node != node:
                raise ValueError(f"GPU {view.pool}/{view.device} is on node {view.node}, not {node}")
        state = self._nodes.get(node)
        if views == (state.views if state is not None else ()):
            return
        for view in state.views if state is not None else ():
            del self._node_of[view.key]
        for view in views:
            former = self._node_of.get(view.key)
            if former is not None:
                self._take_away(former, view.key)
            self._node_of[view.key] = node
        self._put(node, views)

    def hold(self, owner: str, holdings: Sequence[Holding]) -> None:
        """Set what an owner (a claim's UID) holds, in place of what it held.

        Holdings on GPUs that are not known are remembered, and count as soon as the GPU is there.
        """
        new = tuple(holdings)
        old = self._owners.get(owner, ())
        if new == old:
            return
        self.release(owner)
        if not new:
            return
        self._owners[owner] = new
        for key, part in _by_gpu(new).items():
            self._holders.setdefault(key, {})[owner] = part
            _charge(self._held.setdefault(key, Held()), part, 1)
            self._touch(key)

    def release(self, owner: str) -> None:
        """Free what an owner holds, if anything."""
        for key, part in _by_gpu(self._owners.pop(owner, ())).items():
            holders = self._holders[key]
            del holders[owner]
            if holders:
                _charge(self._held[key], part, -1)
            else:
                del self._holders[key], self._held[key]
            self._touch(key)

    # Questions

    def nodes(self) -> Iterable[str]:
        """Return the names of the nodes with GPUs, sorted."""
        return sorted(self._nodes)

    def gpus_of(self, node: str) -> Sequence[GpuView]:
        """Return the GPUs of a node, sorted by key; none when it has none."""
        state = self._nodes.get(node)
        return state.views if state is not None else ()

    def gpu(self, key: DeviceKey) -> GpuView | None:
        """Return a GPU, or None when nobody publishes it."""
        node = self._node_of.get(key)
        return next((view for view in self.gpus_of(node) if view.key == key), None) if node is not None else None

    def free(self, key: DeviceKey) -> Free | None:
        """Return what is free of a GPU, or None when nobody publishes it."""
        gpu = self.gpu(key)
        return self._held.get(key, Held()).free_of(gpu) if gpu is not None else None

    def owners(self) -> Iterable[str]:
        """Return who holds anything."""
        return self._owners.keys()

    def held_by(self, owner: str) -> tuple[Holding, ...]:
        """Return what an owner holds."""
        return self._owners.get(owner, ())

    def holders(self, key: DeviceKey) -> Mapping[str, tuple[Holding, ...]]:
        """Return who holds what of a GPU."""
        held = self._holders.get(key)
        return MappingProxyType(held) if held is not None else _NOBODY

    def states(self, policy: Policy = "Binpack", without: Collection[str] = ()) -> Iterator[NodeState]:
        """Return the nodes in the order of a policy, as if the owners `without` held nothing.

        Binpack begins with the node whose memory is used most, Spread with the one whose is used least; equal ones go
        by name. The states are the ledger's own: they are only for reading, and until the next news.
        """
        self._flush()
        entries = self._sorted[policy]
        changed = self._as_without(without) if without else {}
        if changed:
            others = [entry for entry in entries if entry[1] not in changed]
            entries = sorted(others + [_entry(policy, state) for state in changed.values()])
        return map(_STATE, entries)

    def examples(self) -> Iterable[GpuView]:
        """Return one GPU of each size of physical memory."""
        if self._examples is None:
            self._examples = {
                view.physical_memory_bytes: view for state in self._nodes.values() for view in state.views
            }
        return self._examples.values()

    # The order

    def _put(self, node: str, views: tuple[GpuView, ...]) -> None:
        self._examples = None
        state = self._nodes.get(node)
        if state is None:
            state = self._nodes[node] = NodeState(node)
            self._insert(state)
        state.set_views(views)
        self._dirty.add(node)
        if not views:
            self._remove(state)
            del self._nodes[node]
            self._dirty.discard(node)
        self.answers.forget(node)

    def _take_away(self, node: str, key: DeviceKey) -> None:
        self._put(node, tuple(view for view in self._nodes[node].views if view.key != key))

    def _touch(self, key: DeviceKey) -> None:
        node = self._node_of.get(key)
        if node is not None:
            self._dirty.add(node)

    def _flush(self) -> None:
        if not self._dirty:
            return
        states = [self._nodes[node] for node in self._dirty]
        self._dirty.clear()
        if len(states) <= _FEW:
            for state in states:
                self._remove(state)
                state.refresh(self._held.get)
                self._insert(state)
            return
        for state in states:
            state.refresh(self._held.get)
        for policy in self._sorted:
            self._sorted[policy] = sorted([_entry(policy, state) for state in self._nodes.values()])

    def _insert(self, state: NodeState) -> None:
        for policy, entries in self._sorted.items():
            insort(entries, _entry(policy, state))

    def _remove(self, state: NodeState) -> None:
        for policy, entries in self._sorted.items():
            del entries[bisect_left(entries, _entry(policy, state)[:2])]

    def _as_without(self, owners: Collection[str]) -> dict[str, NodeState]:
        held: dict[DeviceKey, Held] = {}
        for owner in set(owners):
            for key, part in _by_gpu(self._owners.get(owner, ())).items():
                if key not in held:
                    held[key] = replace(self._held[key])
                _charge(held[key], part, -1)
        changed: dict[str, NodeState] = {}
        for node in {self._node_of[key] for key in held if key in self._node_of}:
            state = changed[node] = NodeState(node)
            state.set_views(self._nodes[node].views)
            state.refresh(lambda key: held.get(key, self._held.get(key)))
        return changed


def _entry(policy: Policy, state: NodeState) -> _Entry:
    # Names differ, so that two entries never come to compare their states.
    return (-state.load if policy == "Binpack" else state.load, state.name, state)


def _by_gpu(holdings: Sequence[Holding]) -> Mapping[DeviceKey, tuple[Holding, ...]]:
    if len(holdings) == 1:
        return {(holdings[0].pool, holdings[0].device): tuple(holdings)}
    parts: dict[DeviceKey, tuple[Holding, ...]] = {}
    for holding in holdings:
        parts[holding.key] = (*parts.get(holding.key, ()), holding)
    return parts


def _charge(held: Held, holdings: Sequence[Holding], sign: int) -> None:
    for holding in holdings:
        if holding.whole:
            held.whole += sign
        else:
            held.memory_bytes += sign * holding.memory_bytes
            held.cores += sign * holding.cores
            held.slots += sign * holding.slots
