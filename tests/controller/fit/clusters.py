"""Random clusters and demands, small enough for brute force, and the brute force: written apart from the engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from fracgpu.controller.fit.views import (
    AnyGpu,
    Budget,
    Constraint,
    Demand,
    DeviceRequest,
    GpuView,
    Holding,
    Policy,
    Selector,
    Taint,
    Toleration,
)
from fracgpu.driver.config import FractionConfig

GIB = 1024**3


@dataclass(frozen=True)
class OfKind:
    """Selects by the attribute `kind`."""

    kind: int

    def matches(self, gpu: GpuView) -> bool:
        return gpu.attributes["kind"] == self.kind


SELECTORS: st.SearchStrategy[Selector] = st.sampled_from([AnyGpu(), AnyGpu(), OfKind(1), OfKind(2)])
POLICIES: st.SearchStrategy[Policy] = st.sampled_from(["Binpack", "Spread"])


@dataclass(frozen=True)
class Case:
    """A cluster, a demand, and what limits it."""

    gpus: list[GpuView]
    holdings: list[Holding]
    demand: Demand
    budget: Budget | None = None


@st.composite
def gpus(draw: st.DrawFn, nodes: int = 3) -> list[GpuView]:
    """Up to three nodes with up to three GPUs."""
    return [
        GpuView(
            node=f"n{node}",
            pool=f"n{node}",
            device=f"g{index}",
            physical_memory_bytes=(memory := draw(st.sampled_from([8, 10, 16]))) * GIB,
            memory_bytes=memory * draw(st.sampled_from([1, 1, 2])) * GIB,
            slots=draw(st.integers(0, 3)),
            attributes={"kind": draw(st.integers(1, 2)), "numaNode": draw(st.integers(-1, 1))},
            taints=draw(st.sampled_from([(), (), (), (Taint(key="a"),), (Taint(key="b", effect="None"),)])),
        )
        for node in range(draw(st.integers(1, nodes)))
        for index in range(draw(st.integers(0, 3)))
    ]


@st.composite
def holdings(draw: st.DrawFn, most: int = 5) -> list[Holding]:
    """Some holdings, perhaps too many, perhaps on GPUs that nobody has."""
    return [
        Holding(
            pool=f"n{draw(st.integers(0, 2))}",
            device=f"g{draw(st.integers(0, 2))}",
            memory_bytes=draw(st.integers(1, 9)) * GIB,
            cores=draw(st.sampled_from([0, 30, 60])),
            whole=draw(st.sampled_from([False] * 7 + [True])),
        )
        for _ in range(draw(st.integers(0, most)))
    ]


@st.composite
def requests(draw: st.DrawFn, claim: str, name: str) -> DeviceRequest:
    """One request, of any kind."""
    percent = draw(st.sampled_from([None, None, None, 30, 60]))
    amounts: dict[str, Any] = {"cores": draw(st.sampled_from([0, 40, 80]))}
    if percent is None:
        amounts["memory"] = draw(st.integers(1, 10)) * GIB
    return DeviceRequest(
        claim=claim,
        name=name,
        count=draw(st.sampled_from([1, 1, 1, 2, 3])),
        every=draw(st.sampled_from([False] * 5 + [True])),
        requests=amounts,
        claim_config=FractionConfig(memory_percent=percent),
        admin=draw(st.sampled_from([False] * 5 + [True])),
        gpu_policy=draw(st.sampled_from(["Binpack", "Spread"])),
        selector=draw(SELECTORS),
        tolerations=draw(st.sampled_from([(), (), (Toleration(operator="Exists"),)])),
    )


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    """Up to three requests of up to two claims, some with alternatives, some under constraints."""
    choices: list[tuple[DeviceRequest, ...]] = []
    for index in range(draw(st.integers(1, 3))):
        claim = draw(st.sampled_from(["c", "c", "d"]))
        if draw(st.sampled_from([False, False, True])):
            choices.append(tuple(draw(requests(claim, f"r{index}/{sub}")) for sub in "xy"))
        else:
            choices.append((draw(requests(claim, f"r{index}")),))
    constraints = [
        Constraint(
            claim=draw(st.sampled_from(["c", "d"])),
            attribute="numaNode",
            kind=draw(st.sampled_from(["match", "match", "distinct"])),
            requests=draw(st.sampled_from([(), (), ("r0",), ("r0", "r1"), ("r1/x", "r2")])),
            unknown=(-1,),
        )
        for _ in range(draw(st.sampled_from([0, 0, 1, 2])))
    ]
    return Demand(choices=tuple(choices), constraints=tuple(constraints), node_policy=draw(POLICIES))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A whole case."""
    limit = st.sampled_from([None, None, 3, 12, 30])
    budget = None
    if draw(st.sampled_from([False, False, True])):
        memory = draw(limit)
        budget = Budget(
            memory_bytes=None if memory is None else memory * GIB,
            cores=draw(st.sampled_from([None, 60, 150])),
            slots=draw(st.sampled_from([None, 1, 2, 3])),
        )
    return Case(draw(gpus()), draw(holdings()), draw(demands()), budget)


Assignment = list[tuple[DeviceRequest, GpuView]]


def all_assignments(case: Case, node: str) -> Iterator[tuple[tuple[int, ...], Assignment]]:
    """Return every assignment on a node that respects every rule, with the ranks of the alternatives it uses."""
    own = [gpu for gpu in case.gpus if gpu.node == node]
    for ranks in itertools.product(*[range(len(choice)) for choice in case.demand.choices]):
        chosen = [choice[rank] for choice, rank in zip(case.demand.choices, ranks, strict=True)]
        sets = [list(_gpu_sets(request, own)) for request in chosen]
        for combination in itertools.product(*sets):
            pairs = [(request, gpu) for request, some in zip(chosen, combination, strict=True) for gpu in some]
            if respects(case, pairs):
                yield ranks, pairs


def _gpu_sets(request: DeviceRequest, own: Sequence[GpuView]) -> Iterator[tuple[GpuView, ...]]:
    selected = [gpu for gpu in own if request.selector.matches(gpu)]
    if request.every:
        if selected:
            yield tuple(selected)
        return
    yield from itertools.combinations(selected, request.count)


def respects(case: Case, pairs: Assignment) -> bool:
    """Tell whether an assignment exceeds nothing and breaks no rule."""
    for request, gpu in pairs:
        tolerant = bool(request.tolerations)
        if not tolerant and any(taint.effect in ("NoSchedule", "NoExecute") for taint in gpu.taints):
            return False
        if not request.admin and memory_of(request, gpu) > gpu.physical_memory_bytes:
            return False
    return _within_gpus(case, pairs) and _within_budget(case, pairs) and _within_constraints(case, pairs)


def memory_of(request: DeviceRequest, gpu: GpuView) -> int:
    """Return the memory in bytes that a request takes of a GPU."""
    percent = request.claim_config.memory_percent
    if percent is None:
        return int(request.requests["memory"])
    return gpu.physical_memory_bytes * percent // 100 // 2**20 * 2**20


def _within_gpus(case: Case, pairs: Assignment) -> bool:
    for gpu in {pair[1].key: pair[1] for pair in pairs}.values():
        asked = [request for request, other in pairs if other.key == gpu.key and not request.admin]
        held = [holding for holding in case.holdings if holding.key == gpu.key]
        if asked and any(holding.whole for holding in held):
            return False
        memory = sum(memory_of(request, gpu) for request in asked)
        cores = sum(int(request.requests["cores"]) for request in asked)
        if memory and memory + sum(holding.memory_bytes for holding in held) > gpu.memory_bytes:
            return False
        if cores and cores + sum(holding.cores for holding in held) > gpu.cores:
            return False
        if asked and len(asked) + sum(holding.slots for holding in held) > gpu.slots:
            return False
    return True


def _within_budget(case: Case, pairs: Assignment) -> bool:
    if case.budget is None:
        return True
    counted = [(request, gpu) for request, gpu in pairs if not request.admin]
    sums = (
        (sum(memory_of(*pair) for pair in counted), case.budget.memory_bytes),
        (sum(int(request.requests["cores"]) for request, _ in counted), case.budget.cores),
        (len(counted), case.budget.slots),
    )
    return all(limit is None or asked == 0 or asked <= limit for asked, limit in sums)


def _within_constraints(case: Case, pairs: Assignment) -> bool:
    for constraint in case.demand.constraints:
        values = [
            gpu.attributes["numaNode"]
            for request, gpu in pairs
            if request.claim == constraint.claim
            and (
                not constraint.requests
                or request.name in constraint.requests
                or request.name.split("/")[0] in constraint.requests
            )
        ]
        if -1 in values:
            return False
        different = len(set(values))
        if different > 1 if constraint.kind == "match" else different < len(values):
            return False
    return True
