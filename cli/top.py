"""``fracgpu top``: GPUs, claims or nodes with what is allocated, free and in use. Only reads."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.cli.cluster_options import EXIT_GOOD, EXIT_NO_ANSWER, OUTPUT_JSON
from fracgpu.cli.shares import Share, shares_of
from fracgpu.cli.snapshot import ClusterUnread, Snapshot, read_snapshot
from fracgpu.cli.tables import NOTHING, as_json, complain, print_lines, table
from fracgpu.controller.allocator.world import CLAIMS, NODES, SLICES, Owner, World
from fracgpu.controller.fit.nodes import Free, blocking_taints
from fracgpu.controller.fit.views import GpuView
from fracgpu.controller.objects.facts import is_allocated, items, name_of, namespace_of, text
from fracgpu.controller.owners import SecondOwner, second_owners
from fracgpu.controller.ports import Json
from fracgpu.driver.names import ATTR_PRODUCT_NAME, ATTR_UUID, DRIVER_NAME
from fracgpu.driver.quantity import format_mib

_OWNERS: Final[tuple[Owner, ...]] = ("controller", "scheduler")
_MOST_PODS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One published GPU and what is free of it."""

    view: GpuView
    free: Free
    owner: Owner

    @property
    def allocated_bytes(self) -> int:
        """Memory that is given away, in bytes."""
        return self.view.memory_bytes - self.free.memory_bytes

    @property
    def health(self) -> str:
        """`ok`, or the taints that keep claims away."""
        taints = [f"{taint.key}:{taint.effect}" for taint in blocking_taints(self.view)]
        return ", ".join(sorted(taints)) or "ok"

    @property
    def product(self) -> str:
        """The product's name, empty if unknown."""
        return str(self.view.attributes.get(ATTR_PRODUCT_NAME, ""))


def run_top(parsed: argparse.Namespace) -> int:
    """Print what the command line asks for; return the exit status."""
    try:
        snapshot = read_snapshot(parsed)
    except ClusterUnread as error:
        complain("top", error)
        return EXIT_NO_ANSWER
    worlds = {owner: snapshot.world(owner) for owner in _OWNERS}
    gpus = _gpus(worlds)
    others = second_owners(snapshot.of(NODES), snapshot.of(SLICES))
    if parsed.what == "claims":
        lines, document = _claims(snapshot, worlds["controller"], parsed.namespace)
    elif parsed.what == "nodes":
        lines, document = _nodes(gpus, worlds["controller"])
    else:
        lines, document = _gpu_lines(gpus), [_gpu_json(gpu) for gpu in gpus]
    if parsed.output == OUTPUT_JSON:
        warnings = [{"node": one.node, "what": one.what, "remedy": one.remedy} for one in others]
        lines = as_json({parsed.what: document, "secondOwners": warnings})
    else:
        lines = [*lines, *_warnings(others)]
    return EXIT_GOOD if print_lines("top", lines) else EXIT_NO_ANSWER


def _gpus(worlds: Mapping[Owner, World]) -> list[Gpu]:
    """Return all GPUs, whoever owns them, by node and name."""
    found = []
    for owner, world in worlds.items():
        for node in world.ledger.nodes():
            for view in world.ledger.gpus_of(node):
                free = world.ledger.free(view.key)
                if free is not None:
                    found.append(Gpu(view=view, free=free, owner=owner))
    return sorted(found, key=lambda gpu: (gpu.view.node, gpu.view.pool, gpu.view.device))


def _gpu_lines(gpus: Sequence[Gpu]) -> list[str]:
    if not gpus:
        return [f"no GPU of {DRIVER_NAME} is published; look at the pods of fracgpu's plugin, and run fracgpu doctor"]
    head = ("NODE", "GPU", "PRODUCT", "MEMORY", "ALLOCATED", "FREE", "CORES", "SHARERS", "ALLOCATOR", "HEALTH")
    rows = [
        (
            gpu.view.node,
            gpu.view.device,
            gpu.product,
            format_mib(gpu.view.memory_bytes),
            format_mib(gpu.allocated_bytes),
            format_mib(gpu.free.memory_bytes),
            f"{gpu.view.cores - gpu.free.cores}/{gpu.view.cores}",
            f"{gpu.view.slots - gpu.free.slots}/{gpu.view.slots}",
            gpu.owner,
            gpu.health,
        )
        for gpu in gpus
    ]
    return table(head, rows, right=("MEMORY", "ALLOCATED", "FREE", "CORES", "SHARERS"))


def _gpu_json(gpu: Gpu) -> Mapping[str, Any]:
    view, free = gpu.view, gpu.free
    return {
        "node": view.node,
        "pool": view.pool,
        "device": view.device,
        "uuid": view.attributes.get(ATTR_UUID),
        "productName": gpu.product or None,
        "allocator": gpu.owner,
        "healthy": gpu.health == "ok",
        "taints": [{"key": one.key, "value": one.value, "effect": one.effect} for one in view.taints],
        "physicalMemoryBytes": view.physical_memory_bytes,
        "total": {"memoryBytes": view.memory_bytes, "cores": view.cores, "slots": view.slots},
        "free": {"memoryBytes": free.memory_bytes, "cores": free.cores, "slots": free.slots},
    }


def _claims(snapshot: Snapshot, world: World, namespace: str | None) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Return claims of ours: a line for each share, and one for a claim that has none yet."""
    ours = [
        claim
        for claim in snapshot.of(CLAIMS)
        if world.is_ours(claim) and (namespace is None or namespace_of(claim) == namespace)
    ]
    ours.sort(key=lambda claim: (namespace_of(claim), name_of(claim)))
    if not ours:
        return [f"no claim for {DRIVER_NAME}" + (f" in namespace {namespace}" if namespace is not None else "")], []
    head = ("NAMESPACE", "CLAIM", "REQUEST", "NODE", "GPU", "MEMORY", "CORES", "USED", "ENFORCED", "PODS")
    rows: list[tuple[str, ...]] = []
    document: list[Mapping[str, Any]] = []
    for claim in ours:
        shares, pods = shares_of(claim), _pods_of(claim, world)
        state = "allocated" if is_allocated(claim) else "not allocated"
        cells = [_share_cells(share) for share in shares] or [(state, *[NOTHING] * 6)]
        rows += [(namespace_of(claim), name_of(claim), *own, _shortened(pods)) for own in cells]
        document.append(
            {
                "namespace": namespace_of(claim),
                "name": name_of(claim),
                "allocated": is_allocated(claim),
                "pods": pods,
                "shares": [share.as_json() for share in shares],
            }
        )
    return table(head, rows, right=("MEMORY", "CORES", "USED")), document


def _share_cells(share: Share) -> tuple[str, ...]:
    return (share.request, share.node, share.device, share.memory, share.cores, share.used, share.enforced)


def _pods_of(claim: Json, world: World) -> list[str]:
    """Return the pods that use a claim, or want to."""
    reserved = [text(one, "name") for one in items(claim, "status", "reservedFor") if one.get("resource") == "pods"]
    wanting = [name_of(pod) for pod in world.pods.users_of((namespace_of(claim), name_of(claim)))]
    return sorted({*reserved, *wanting})


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_PODS} more" if len(names) > _MOST_PODS else ""
    return ", ".join(names[:_MOST_PODS]) + more


def _nodes(gpus: Sequence[Gpu], world: World) -> tuple[list[str], list[Mapping[str, Any]]]:
    if not gpus:
        return _gpu_lines(gpus), []
    head = ("NODE", "GPUS", "MEMORY", "ALLOCATED", "FREE", "LARGEST", "CORES", "SHARERS", "READY")
    rows: list[tuple[str, ...]] = []
    document: list[Mapping[str, Any]] = []
    for node in dict.fromkeys(gpu.view.node for gpu in gpus):
        own = [gpu for gpu in gpus if gpu.view.node == node]
        memory, free = sum(gpu.view.memory_bytes for gpu in own), sum(gpu.free.memory_bytes for gpu in own)
        # What is free on a GPU that claims are kept off helps nobody.
        largest = max((gpu.free.memory_bytes for gpu in own if not blocking_taints(gpu.view)), default=0)
        cores, slots = sum(gpu.view.cores for gpu in own), sum(gpu.view.slots for gpu in own)
        free_cores, free_slots = sum(gpu.free.cores for gpu in own), sum(gpu.free.slots for gpu in own)
        facts = world.nodes.facts(node)
        ready = facts is not None and facts.ready and not facts.unschedulable
        rows.append(
            (
                node,
                str(len(own)),
                format_mib(memory),
                format_mib(memory - free),
                format_mib(free),
                format_mib(largest),
                f"{cores - free_cores}/{cores}",
                f"{slots - free_slots}/{slots}",
                "yes" if ready else "no",
            )
        )
        total = {"memoryBytes": memory, "cores": cores, "slots": slots}
        left = {"memoryBytes": free, "cores": free_cores, "slots": free_slots}
        document.append(
            {"node": node, "gpus": len(own), "total": total, "free": left, "largestFreeBytes": largest, "ready": ready}
        )
    return table(head, rows, right=head[1:-1]), document


def _warnings(others: Sequence[SecondOwner]) -> list[str]:
    lines = [f"second owner of the GPUs of node {one.node}: {one.what}; {one.remedy}" for one in others]
    return ["", *lines] if lines else []
