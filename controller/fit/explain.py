"""Why nothing fits: stable reasons with numbers, in a stable order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fracgpu.controller.fit.ledger import Free
from fracgpu.controller.fit.views import Constraint, DeviceKey, DeviceRequest, GpuView
from fracgpu.driver.amounts import Amounts
from fracgpu.driver.errors import AmountsError
from fracgpu.driver.reasons import Reason, ReasonCode

_NO_GPUS = "no GPU is published on a node that the pod can run on"


def explain(
    requests: Sequence[DeviceRequest],
    gpus: Sequence[GpuView],
    free: Mapping[DeviceKey, Free],
    constraints: Sequence[Constraint] = (),
    *,
    gave_up: bool = False,
) -> tuple[Reason, ...]:
    """Return the reasons for which the requests fit on no node; at least one, without repetition."""
    if not gpus:
        return (Reason(code=ReasonCode.NODE_INSUFFICIENT_DEVICE, detail=_NO_GPUS),)
    reasons: list[Reason] = []
    for request in requests:
        found = _Survey(request, gpus, free)
        if found.most_on_a_node < request.count:
            reasons += found.reasons()
    if not reasons:
        reasons.append(_jointly(requests, gpus, constraints, gave_up=gave_up))
    return tuple(dict.fromkeys(reasons))


def _jointly(
    requests: Sequence[DeviceRequest], gpus: Sequence[GpuView], constraints: Sequence[Constraint], *, gave_up: bool
) -> Reason:
    nodes = len({gpu.node for gpu in gpus})
    wanted = sum(request.count for request in requests)
    what = f"{wanted} shares" if len(requests) == 1 else f"{wanted} shares of {len(requests)} requests"
    if gave_up:
        detail = f"no place for {what} found within the search limit"
    else:
        detail = f"each fits alone, but no node has room for {what} together"
    code = ReasonCode.NODE_INSUFFICIENT_DEVICE
    if constraints and not gave_up:
        code = constraints[0].code
        names = ", ".join(f"{constraint.kind} {constraint.attribute}" for constraint in constraints)
        detail += f" under the constraints {names}"
    return Reason(code=code, affected=nodes, total=nodes, unit="nodes", detail=detail)


class _Survey:
    """One request against every GPU by itself."""

    def __init__(self, request: DeviceRequest, gpus: Sequence[GpuView], free: Mapping[DeviceKey, Free]) -> None:
        self._total = len(gpus)
        self._count = request.count
        self._nodes = len({gpu.node for gpu in gpus})
        self._fitting: Counter[str] = Counter()
        self._unlike = 0
        self._unhealthy = 0
        self._refused: dict[tuple[ReasonCode, str], int] = {}
        self._short_memory: list[tuple[Amounts, Free]] = []
        self._short_cores: list[tuple[Amounts, Free]] = []
        self._short_slots: list[tuple[Amounts, Free]] = []
        for gpu in gpus:
            self._look(request, gpu, free[gpu.key])

    def _look(self, request: DeviceRequest, gpu: GpuView, free: Free) -> None:
        if not request.matches(gpu):
            self._unlike += 1
            return
        if not gpu.healthy:
            self._unhealthy += 1
            return
        try:
            wanted = request.amounts_on(gpu)
        except AmountsError as error:
            key = (error.code, error.what)
            self._refused[key] = self._refused.get(key, 0) + 1
            return
        memory, cores, slots = free.lacks(wanted)
        for short, lacking in ((self._short_memory, memory), (self._short_cores, cores), (self._short_slots, slots)):
            if lacking:
                short.append((wanted, free))
        if not (memory or cores or slots):
            self._fitting[gpu.node] += 1

    @property
    def most_on_a_node(self) -> int:
        """Return how many GPUs of one node could take the request, on the node with most."""
        return max(self._fitting.values(), default=0)

    def reasons(self) -> list[Reason]:
        """Return what excludes the GPUs, shortage first."""
        reasons: list[Reason] = []
        total = self._total
        if self._count > 1:
            detail = f"need {self._count} GPUs on one node, at most {self.most_on_a_node} fit"
            code = ReasonCode.NODE_INSUFFICIENT_DEVICE
            reasons.append(Reason(code=code, affected=self._nodes, total=self._nodes, unit="nodes", detail=detail))
        if self._short_memory:
            need = min(wanted.memory_bytes for wanted, _ in self._short_memory)
            most = max(0, *(free.memory_bytes for _, free in self._short_memory))
            affected = len(self._short_memory)
            reasons.append(
                Reason.insufficient_memory(affected=affected, total=total, need_bytes=need, max_free_bytes=most)
            )
        if self._short_cores:
            need = min(wanted.cores for wanted, _ in self._short_cores)
            most = max(0, *(free.cores for _, free in self._short_cores))
            reasons.append(
                Reason.insufficient_cores(affected=len(self._short_cores), total=total, need=need, max_free=most)
            )
        counted = (
            (ReasonCode.CARD_TIME_SLICING_EXHAUSTED, len(self._short_slots), "no free slot"),
            (ReasonCode.CARD_TYPE_MISMATCH, self._unlike, "not selected by the class"),
            (ReasonCode.CARD_NOT_HEALTH, self._unhealthy, "tainted"),
        )
        for code, affected, detail in counted:
            if affected:
                reasons.append(Reason(code=code, affected=affected, total=total, detail=detail))
        for (code, what), affected in sorted(self._refused.items()):
            reasons.append(Reason(code=code, affected=affected, total=total, detail=what))
        return reasons
