"""Random cases for kube-scheduler and our fit engine: nodes with GPUs, what is taken of them, and one pod.

Every case has nodes of its own, which carry the label `case`, so that many are decided at once. A case is what its
number and seed make of it, always the same. It says only what means the same to both; claims.py has the exceptions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from fracgpu.driver.gpu import Gpu, scaled_cores
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.quantity import MIB
from tests.cluster.agreement.claims import make_claims, make_claims_for_all
from tests.cluster.agreement.pods import make_filler, make_pod
from tests.cluster.hollow import HollowNode, card

Json = dict[str, Any]
NAMESPACE: Final = "agreement"
LABEL: Final = "case"
_CARDS: Final[Sequence[Mapping[str, Any]]] = (
    {"product": "NVIDIA L40S", "mib": 46068, "architecture": "Ada", "compute_capability": "8.9.0"},
    {"product": "NVIDIA A100", "mib": 81920, "architecture": "Ampere", "compute_capability": "8.0.0"},
    {"product": "NVIDIA T4", "mib": 15360, "architecture": "Turing", "compute_capability": "7.5.0"},
    {"product": "NVIDIA H200", "mib": 143771, "architecture": "Hopper", "compute_capability": "9.0.0"},
    {"product": "", "mib": 24564, "architecture": "", "compute_capability": "0.0.0", "driver_version": "0.0.0"},
)
_DEVICE_TAINTS: Final[Sequence[Json]] = (
    {"key": "example.com/sold", "value": "yes", "effect": "NoSchedule"},
    {"key": "example.com/sold", "value": "no", "effect": "NoExecute"},
    {"key": "example.com/slow", "effect": "None"},
    {"key": "example.com/slow", "effect": "NoSchedule"},
)
_NODE_TAINTS: Final[Sequence[Json]] = (
    {"key": "example.com/team", "value": "vision", "effect": "NoSchedule"},
    {"key": "example.com/night", "effect": "NoExecute"},
    {"key": "example.com/rather-not", "effect": "PreferNoSchedule"},
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question: can `pod` with `claims` run on one of `nodes`, given `holders` and `fillers`?

    `holders` are claims with the allocation that they have, `fillers` pods that are bound already, `device_taints` is
    by device name. Objects have no namespace; all belong into NAMESPACE.
    """

    number: int
    nodes: Sequence[HollowNode]
    device_taints: Mapping[str, Sequence[Json]]
    holders: Sequence[Json]
    fillers: Sequence[Json]
    claims: Sequence[Json]
    pod: Json

    @property
    def name(self) -> str:
        """What the names of all its objects begin with."""
        return f"c{self.number}"

    def slice(self, node: HollowNode, node_uid: str) -> Json:
        """Return the slice of one of the nodes, with the taints of this case."""
        item = node.slice(node_uid)
        for device in item["spec"]["devices"]:
            taints = self.device_taints.get(device["name"])
            if taints:
                device["taints"] = [*device.get("taints", []), *taints]
        return item


def make_case(number: int, seed: int) -> Case:
    """Return the case with this number of a run with this seed."""
    choice = random.Random(f"{seed}/{number}")  # noqa: S311 (cases, not secrets)
    nodes = [_node(choice, number, index) for index in range(choice.choice((1, 1, 2, 2, 3)))]
    gpus = [gpu for node in nodes for gpu in node.gpus]
    tainted = {str(gpu.device_name): choice.sample(_DEVICE_TAINTS, 1) for gpu in gpus if choice.random() < 0.1}
    wants_all = choice.random() < 0.1
    holders = [held for node in nodes if (held := _holder(choice, number, node)) is not None and not wants_all]
    make = make_claims_for_all if wants_all else make_claims
    claims = make(choice, f"c{number}", [gpu.physical_memory_bytes for gpu in gpus])
    return Case(
        number=number,
        nodes=nodes,
        device_taints=tainted,
        holders=holders,
        fillers=[
            make_filler(choice, f"c{number}-filler-{node.name}", node.name) for node in nodes if choice.random() < 0.2
        ],
        claims=claims,
        pod=make_pod(choice, f"c{number}", {LABEL: f"c{number}"}, [claim["metadata"]["name"] for claim in claims]),
    )


def _node(choice: random.Random, number: int, index: int) -> HollowNode:
    kinds = choice.sample(_CARDS, 2)
    gpus = [_gpu(choice, (number * 8 + index) * 8 + at + 1, kinds) for at in range(choice.choice((1, 2, 2, 3)))]
    labels = {LABEL: f"c{number}", "zone": choice.choice("ab"), "rank": str(choice.randrange(4))}
    if choice.random() < 0.3:
        labels["gpu-node"] = ""
    return HollowNode(
        name=f"c{number}-n{index}",
        gpus=gpus,
        allocator="scheduler",
        cpu=choice.choice(("2", "4", "4")),
        memory=choice.choice(("4Gi", "8Gi")),
        pods=choice.choice(("2", "110", "110", "110")),
        labels=labels,
        taints=choice.sample(_NODE_TAINTS, 1) if choice.random() < 0.15 else (),
        unschedulable=choice.random() < 0.05,
        memory_scale=Decimal(choice.choice(("1", "1", "1", "1.5", "2"))),
        cores_scale=Decimal(choice.choice(("1", "1", "1", "1.5"))),
        slots=choice.choice((10, 10, 10, 2, 1)),
    )


def _gpu(choice: random.Random, number: int, kinds: Sequence[Mapping[str, Any]]) -> Gpu:
    return card(
        number,
        **choice.choice(kinds),
        index=number % 8,
        numa_node=choice.choice((-1, 0, 0, 1)),
        pcie_root=choice.choice((None, "pci0000:00", "pci0000:00", "pci0000:40")),
        healthy=choice.random() > 0.05,
    )


def _holder(choice: random.Random, number: int, node: HollowNode) -> Json | None:
    """Return a claim that holds shares of the node's GPUs, as an allocator has written it; None if it holds none."""
    results: list[Json] = []
    for gpu in node.gpus:
        left = {
            "memory": gpu.scaled_memory_bytes(node.memory_scale) // MIB,
            "cores": scaled_cores(node.cores_scale),
            "slots": node.slots,
        }
        for _ in range(choice.choice((0, 0, 0, 1, 1, 2, 3))):
            share = _share(choice, gpu)
            if all(share[name] <= left[name] for name in left):
                left = {name: left[name] - share[name] for name in left}
                results.append(_result(choice, node, gpu, share))
    if not results:
        return None
    for at, result in enumerate(results):
        result["request"] = f"r{at}"
    fields = [{"key": "metadata.name", "operator": "In", "values": [node.name]}]
    allocation = {
        "allocationTimestamp": "2026-01-01T00:00:00Z",
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": fields}]},
        "devices": {"results": results},
    }
    requests = [{"name": result["request"], "exactly": {"deviceClassName": DRIVER_NAME}} for result in results]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": f"c{number}-held-{node.name}"},
        "spec": {"devices": {"requests": requests}},
        "status": {"allocation": allocation},
    }


def _share(choice: random.Random, gpu: Gpu) -> dict[str, int]:
    """Return amounts, memory in MiB."""
    mib = gpu.physical_memory_bytes // MIB
    memory = choice.choice((mib, mib // 2, mib // 4, mib // 8, mib // 8, 1024, 1024, mib // 2 + 1))
    return {"memory": memory, "cores": choice.choice((0, 0, 0, 20, 50, 100)), "slots": 1}


def _result(choice: random.Random, node: HollowNode, gpu: Gpu, share: Mapping[str, int]) -> Json:
    result: Json = {"driver": DRIVER_NAME, "pool": node.name, "device": gpu.device_name}
    if choice.random() < 0.04:
        # Without a share the whole device is taken, as a set; that is what the amounts of such a result mean.
        return result
    consumed = {"memory": f"{share['memory']}Mi", "cores": str(share["cores"]), "slots": str(share["slots"])}
    return result | {"shareID": _uuid(choice), "consumedCapacity": consumed}


def _uuid(choice: random.Random) -> str:
    digits = f"{choice.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
