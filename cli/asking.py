"""Questions to the fit engine about one pod, or about a claim alone, as the controller would put them.

Where kube-scheduler allocates, the engine only says what it would have done: the same amounts, the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.allocator.planner import refusal_of
from fracgpu.controller.allocator.world import World
from fracgpu.controller.fit.engine import explain, place
from fracgpu.controller.fit.nodes import Free, blocking_taints
from fracgpu.controller.fit.survey import Refusing
from fracgpu.controller.fit.views import Budget, Demand, DeviceRequest, GpuView, Misfit, Placement
from fracgpu.controller.objects.demand import build_demand
from fracgpu.controller.objects.facts import is_allocated, name_of, namespace_of
from fracgpu.controller.objects.node_fit import PodNeeds
from fracgpu.controller.ports import Json
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.quantity import format_mib

_FITS: Final = "fits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One request held against one GPU: what is free of it, what is asked of it, and the verdict in a few words.

    `memory_bytes` and `cores` (percent of one GPU) are None where the GPU says nothing about them: it is not selected,
    or the amounts make no sense on it.
    """

    request: str
    gpu: GpuView
    free: Free
    memory_bytes: int | None
    cores: int | None
    verdict: str

    @property
    def fits(self) -> bool:
        """Whether the request by itself would get this GPU."""
        return self.verdict == _FITS


class Question:
    """What some claims need together, for a pod or for themselves. Allocated ones bind the pod and need nothing."""

    def __init__(self, world: World, pod: Json | None, claims: Sequence[Json], *, keeps_capacity: bool) -> None:
        self.world = world
        self.pod = pod
        self.open = [claim for claim in claims if not is_allocated(claim) and world.is_ours(claim)]
        self._keeps_capacity = keeps_capacity
        self._needs = PodNeeds.of(pod or {}, claims)
        self._key = (namespace_of(pod), name_of(pod)) if pod is not None else ("", "")

    def demand(self) -> Demand:
        """Return what is needed. Raises FracgpuError with a code."""
        owner = self.world.owner
        return build_demand(self.open, self.world.find_class, keeps_capacity=self._keeps_capacity, allocator=owner)

    def answer(self) -> Placement | Misfit:
        """Return where it goes, or why it goes nowhere."""
        try:
            demand = self.demand()
            placement = place(demand, self.world.ledger, admits=self._admits, budget=self._budget())
            if placement is not None:
                return placement
            return explain(demand, self.world.ledger, rejections=self.rejections(), budget=self._budget())
        except FracgpuError as error:
            return refusal_of(error)

    def placement(self) -> Placement | None:
        """Return where it goes, without looking for reasons."""
        try:
            return place(self.demand(), self.world.ledger, admits=self._admits, budget=self._budget())
        except FracgpuError:
            return None

    def rejections(self) -> Mapping[str, str]:
        """Return for the nodes with GPUs on which the pod cannot run, why."""
        found = {}
        for node in self.world.ledger.nodes():
            why = self.rejects(node)
            if why is not None:
                found[node] = why
        return found

    def looks(self) -> list[Look]:
        """Return every request, alternatives apart, against every GPU. Raises FracgpuError with a code."""
        demand = self.demand()
        rejected = self.rejections()
        return [
            self._look(request, gpu, rejected)
            for several in demand.choices
            for request in several
            for node in self.world.ledger.nodes()
            for gpu in self.world.ledger.gpus_of(node)
        ]

    def _look(self, request: DeviceRequest, gpu: GpuView, rejected: Mapping[str, str]) -> Look:
        free = self.world.ledger.free(gpu.key) or Free(0, 0, 0)
        memory = cores = None
        try:
            verdict = _unselected(request, gpu)
            if not verdict:
                amounts = request.amounts_on(gpu)
                memory, cores = amounts.memory_bytes, amounts.cores
                lacks = zip(("memory", "cores", "slots"), free.lacks(amounts), strict=True)
                verdict = ", ".join(name for name, lacking in lacks if lacking)
                verdict = f"too little {verdict}" if verdict else _FITS
        except FracgpuError as error:
            verdict = error.what
        verdict = rejected.get(gpu.node, verdict)
        return Look(request=request.name, gpu=gpu, free=free, memory_bytes=memory, cores=cores, verdict=verdict)

    def _admits(self, node: str) -> bool:
        return self.rejects(node) is None

    def rejects(self, node: str) -> str | None:
        """Return why the pod cannot run on a node, None if it can."""
        return self.world.nodes.rejects(self._needs, self._key, node) if self.pod is not None else None

    def _budget(self) -> Budget | None:
        """Return what the namespace may still be given; where kube-scheduler allocates, admission has asked before."""
        if self.world.owner == "scheduler" or not self.open:
            return None
        return self.world.quotas.left(namespace_of(self.open[0]))


def _unselected(request: DeviceRequest, gpu: GpuView) -> str:
    """Return why a GPU is none for a request whatever is free of it, empty if it is one. Raises FracgpuError."""
    if not request.selector.matches(gpu):
        if isinstance(request.selector, Refusing):
            return request.selector.why_not(gpu)[1]
        return "not selected"
    taints = [taint for taint in blocking_taints(gpu) if not any(one.tolerates(taint) for one in request.tolerations)]
    return f"untolerated taint {', '.join(f'{one.key}:{one.effect}' for one in taints)}" if taints else ""


def describe_request(request: DeviceRequest) -> str:
    """Return what a request asks for, as it is stated: `2 GPUs of class gpu.fracgpu.dev, memory 8000Mi, cores 25`."""
    number = "every matching GPU of a node" if request.every else f"{request.count} GPU{'s' * (request.count > 1)}"
    stated = {name: str(value) for name, value in request.requests.items()}
    for config in (request.claim_config, request.class_config):
        if config.memory is not None:
            stated.setdefault("memory", config.memory)
        elif config.memory_percent is not None:
            stated.setdefault("memory", f"{config.memory_percent}%")
        if config.cores is not None:
            stated.setdefault("cores", str(config.cores))
    if request.admin:
        stated = {"admin": "access"}
    amounts = ", ".join(f"{name} {value}" for name, value in stated.items()) or "all of its memory"
    return f"{number} of class {request.class_name}, {amounts}"


def describe_free(free: Free) -> str:
    """Return what is free of a GPU."""
    return f"{format_mib(free.memory_bytes)}, {free.cores} cores, {free.slots} slots"
