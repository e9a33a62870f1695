"""``fracgpu fit``: would these manifests get their GPUs, and where? Only reads.

The pods are placed one after the other into the cluster as it is now, by the engine that the controller decides with,
and what they take is counted for the next one. Nothing is written, and others may be faster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from fracgpu.cli.asking import Question, describe_free
from fracgpu.cli.cluster_options import EXIT_GOOD, EXIT_NO_ANSWER, EXIT_NOT, EXIT_USAGE, MOST_PODS, OUTPUT_JSON
from fracgpu.cli.errors import UsageWrong
from fracgpu.cli.fit_workloads import PodMaker, Workload, WorkloadUnclear, as_created, by_name, workloads_of
from fracgpu.cli.migrate.documents import documents_of
from fracgpu.cli.migrate.objects import objects_of
from fracgpu.cli.migrate.sources import ManifestUnreadable, read_sources
from fracgpu.cli.printable import printable
from fracgpu.cli.snapshot import TEMPLATES, ClusterUnread, Snapshot, read_snapshot
from fracgpu.cli.streams import put
from fracgpu.cli.tables import NOTHING, as_json, complain, print_lines, table
from fracgpu.controller.allocator.world import CLAIMS, CLASSES, PODS
from fracgpu.controller.fit.nodes import Free
from fracgpu.controller.fit.views import Misfit, PlacedDevice, Placement
from fracgpu.controller.objects.allocation import build_allocation
from fracgpu.controller.objects.facts import is_allocated, mapping, name_of, namespace_of
from fracgpu.controller.objects.holdings import node_of
from fracgpu.controller.ports import Change, Json
from fracgpu.driver.quantity import format_mib
from fracgpu.driver.reasons import Reason, ReasonCode

_MOST_ROWS: Final = 20
_NOW: Final = "1970-01-01T00:00:00Z"
_NOBODYS_SHARE: Final = "00000000-0000-0000-0000-000000000000"
# Newer than anything that an API server has said.
_FIRST_REVISION: Final = 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One pod: where it would go, with what remains of each of its GPUs, or why it goes nowhere."""

    pod: str
    node: str = ""
    devices: tuple[tuple[PlacedDevice, Free], ...] = ()
    why: Misfit | None = None


@dataclass(slots=True)
class Outcome:
    """What was found about one workload.

    `more` pods of it would fit besides (at most MOST_PODS are tried); None: any number, they share what is there.
    """

    workload: Workload
    tried: list[Tried] = field(default_factory=list)
    more: int | None = 0

    @property
    def fitting(self) -> int:
        """How many of its pods would get what they ask for."""
        return sum(one.why is None for one in self.tried)


def run_fit(parsed: argparse.Namespace) -> int:
    """Try the manifests of the command line; return the exit status."""
    try:
        sources = read_sources(parsed.filename, recursive=parsed.recursive)
        objects = [obj for source in sources for document in documents_of(source) for _, obj in objects_of(document)]
        snapshot = read_snapshot(parsed, templates=True)
        trial = Trial(snapshot, objects)
        outcomes = trial.run(parsed.replicas)
    except UsageWrong as error:
        complain("fit", error)
        return EXIT_USAGE
    except (ManifestUnreadable, ClusterUnread, WorkloadUnclear) as error:
        complain("fit", error)
        return EXIT_NO_ANSWER
    for hint in trial.hints:
        put(sys.stderr, f"fracgpu fit: {printable(hint)}\n")
    lines = as_json([_document(one) for one in outcomes]) if parsed.output == OUTPUT_JSON else _lines(outcomes)
    if not print_lines("fit", lines):
        return EXIT_NO_ANSWER
    return EXIT_GOOD if all(one.fitting == len(one.tried) for one in outcomes) else EXIT_NOT


class Trial:
    """The cluster as it is, into which pods are placed in thought."""

    def __init__(self, snapshot: Snapshot, objects: Sequence[Json]) -> None:
        self.hints: list[str] = []
        self._namespace = snapshot.namespace
        self._keeps_capacity = snapshot.keeps_capacity
        self._objects = objects
        self._world = snapshot.world()
        self._revisions = count(_FIRST_REVISION)
        for obj in objects:
            if obj.get("kind") == "DeviceClass":
                self._tell(CLASSES, obj)
        namespace = snapshot.namespace
        for claim in by_name(objects, "ResourceClaim", namespace).values():
            key = (namespace_of(claim) or namespace, name_of(claim))
            if self._world.claims.get(key) is None:
                self._tell(CLAIMS, as_created(claim, namespace))
        self._templates = {
            **by_name(snapshot.of(TEMPLATES), "ResourceClaimTemplate", namespace),
            **by_name(objects, "ResourceClaimTemplate", namespace),
        }
        self._maker = PodMaker(
            find_claim=lambda inside, name: self._world.claims.get((inside, name)),
            find_template=lambda inside, name: self._templates.get((inside, name)),
        )

    def run(self, replicas: int | None) -> list[Outcome]:
        """Place all pods of all workloads, then look how many more of each would fit. Raises WorkloadUnclear."""
        workloads = list(workloads_of(self._objects, namespace=self._namespace, replicas=replicas))
        if not workloads:
            raise WorkloadUnclear("the manifests", "have no pods in them", remedy="give Pods, Deployments or Jobs")
        total = sum(workload.replicas for workload in workloads)
        if total > MOST_PODS:
            what = f"have {total} pods, at most {MOST_PODS} are tried"
            raise WorkloadUnclear("the manifests", what, remedy="give --replicas, or fewer manifests")
        outcomes = [Outcome(workload) for workload in workloads if self._concerns(workload)]
        for outcome in outcomes:
            self._try_all(outcome)
        for outcome in outcomes:
            refused = outcome.fitting < len(outcome.tried)
            outcome.more = 0 if refused else self._count_more(outcome.workload)
        return outcomes

    def _concerns(self, workload: Workload) -> bool:
        if workload.asks_a_device_plugin:
            self.hints.append(
                f"{workload.title} asks a device plugin for GPUs, not a claim; translate it with fracgpu migrate first"
            )
        elif not workload.names_claims:
            self.hints.append(f"{workload.title} has no claims: it is not looked at")
        return workload.names_claims

    def _try_all(self, outcome: Outcome) -> None:
        """Place all pods of a workload. They are alike: when one finds no place, those after it find none either."""
        why: Misfit | None = None
        for _ in range(outcome.workload.replicas):
            if why is None:
                outcome.tried.append(self._try(outcome.workload))
                why = outcome.tried[-1].why
            else:
                outcome.tried.append(Tried(pod=self._maker.next_name(outcome.workload), why=why))

    def _try(self, workload: Workload) -> Tried:
        pod, own, shared = self._maker.make(workload)
        for claim in own:
            self._tell(CLAIMS, claim)
        self._tell(PODS, pod)
        claims = [*own, *shared]
        question = self._question(pod, claims)
        if not question.open:
            return self._bound(pod, question, claims)
        answer = question.answer()
        if isinstance(answer, Misfit):
            for claim in own:
                self._tell(CLAIMS, claim, gone=True)
            self._tell(PODS, pod, gone=True)
            return Tried(pod=name_of(pod), why=answer)
        self._put(question.open, answer)
        devices = tuple((device, self._world.ledger.free(device.key) or Free(0, 0, 0)) for device in answer.devices)
        return Tried(pod=name_of(pod), node=answer.node, devices=devices)

    def _bound(self, pod: Json, question: Question, claims: Sequence[Json]) -> Tried:
        """A pod whose claims are all allocated, or another driver's, takes nothing new; it must still run there."""
        nodes = sorted({node for claim in claims if is_allocated(claim) and (node := node_of(claim)) is not None})
        for node in nodes:
            why = question.rejects(node)
            if why is not None:
                reason = Reason(code=ReasonCode.NODE_MISMATCH, affected=1, total=1, unit="nodes", detail=why)
                return Tried(pod=name_of(pod), why=Misfit((reason,)))
        return Tried(pod=name_of(pod), node=", ".join(nodes))

    def _question(self, pod: Json, claims: Sequence[Json]) -> Question:
        return Question(self._world, pod, claims, keeps_capacity=self._keeps_capacity)

    def _put(self, claims: Sequence[Json], placement: Placement) -> None:
        """Let the world know the claims as allocated; it counts their pod on that node then."""
        for claim in claims:
            self._tell(CLAIMS, {**claim, "status": {"allocation": self._allocation(claim, placement)}})

    def _allocation(self, claim: Json, placement: Placement) -> Json:
        return build_allocation(
            claim,
            placement.node,
            placement.devices,
            find_class=self._world.find_class,
            keeps_capacity=self._keeps_capacity,
            now=_NOW,
            share_ids=lambda: _NOBODYS_SHARE,
        )

    def _count_more(self, workload: Workload) -> int | None:
        """Return how many more pods would fit, at most MOST_PODS; afterwards the world is as it was.

        None where pods take nothing new, since they share claims that are allocated.
        """
        made: list[tuple[Json, list[Json]]] = []
        opened: list[Json] = []
        fitting = 0
        while fitting < MOST_PODS:
            pod, own, shared = self._maker.make(workload)
            question = self._question(pod, [*own, *shared])
            if not question.open:
                self._take_back(made, opened)
                return None
            for claim in own:
                self._tell(CLAIMS, claim)
            self._tell(PODS, pod)
            made.append((pod, own))
            placement = question.placement()
            if placement is None:
                break
            fitting += 1
            opened += [claim for claim in question.open if claim not in own]
            self._put(question.open, placement)
        self._take_back(made, opened)
        return fitting

    def _take_back(self, made: Sequence[tuple[Json, list[Json]]], opened: Sequence[Json]) -> None:
        for pod, own in made:
            for claim in own:
                self._tell(CLAIMS, claim, gone=True)
            self._tell(PODS, pod, gone=True)
        for claim in opened:
            self._tell(CLAIMS, claim)

    def _tell(self, resource: str, obj: Json, *, gone: bool = False) -> None:
        meta = {**mapping(obj, "metadata"), "resourceVersion": str(next(self._revisions))}
        self._world.apply(Change(resource, "DELETED" if gone else "MODIFIED", {**obj, "metadata": meta}))


def _lines(outcomes: Sequence[Outcome]) -> list[str]:
    lines: list[str] = []
    for outcome in outcomes:
        lines += [_summary(outcome), *_rows(outcome.tried), ""]
    return lines[:-1]


def _summary(outcome: Outcome) -> str:
    if outcome.fitting < len(outcome.tried):
        more = ""
    elif outcome.more is None:
        more = ", others can share the same claims"
    elif not outcome.more:
        more = ", and no more would"
    else:
        more = f", and {'at least ' * (outcome.more >= MOST_PODS)}{outcome.more} more would"
    return f"{outcome.workload.title}: {outcome.fitting} of {len(outcome.tried)} fit{more}"


def _rows(tried: Sequence[Tried]) -> list[str]:
    head = ("POD", "NODE", "GPU", "SHARE", "REMAINS ON THE GPU")
    rows: list[tuple[str, ...]] = []
    whys: dict[str, list[str]] = {}
    for one in tried:
        if one.why is not None:
            whys.setdefault(one.why.message, []).append(one.pod)
        elif not one.devices:
            rows.append((one.pod, one.node, NOTHING, "allocated already", NOTHING))
        for device, free in one.devices:
            rows.append((one.pod, one.node, device.device, _share(device), describe_free(free)))
    shown = rows[:_MOST_ROWS]
    lines = [f"  {line}" for line in table(head, shown)] if shown else []
    if len(rows) > len(shown):
        lines.append(f"  and {len(rows) - len(shown)} more; -o json has all")
    for message, pods in whys.items():
        more = f" and {len(pods) - 1} more" if len(pods) > 1 else ""
        lines.append(f"  {printable(pods[0])}{more}: {printable(message)}")
    return lines


def _share(device: PlacedDevice) -> str:
    if device.admin:
        return "admin access"
    return f"{format_mib(device.amounts.memory_bytes)}, {device.amounts.cores} cores"


def _document(outcome: Outcome) -> Mapping[str, Any]:
    return {
        "kind": outcome.workload.kind,
        "namespace": outcome.workload.namespace,
        "name": outcome.workload.name,
        "fitting": outcome.fitting,
        "more": outcome.more,
        "pods": [
            {
                "name": one.pod,
                "node": one.node or None,
                "devices": [
                    {
                        "pool": device.pool,
                        "device": device.device,
                        "request": device.request,
                        "memoryBytes": device.amounts.memory_bytes,
                        "cores": device.amounts.cores,
                        "remains": {"memoryBytes": free.memory_bytes, "cores": free.cores, "slots": free.slots},
                    }
                    for device, free in one.devices
                ],
                "reasons": [] if one.why is None else [reason.message for reason in one.why.reasons],
            }
            for one in outcome.tried
        ],
    }
