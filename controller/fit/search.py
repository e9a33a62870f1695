"""Search on one node: an assignment of GPUs to requests, complete, in the order of preference.

Complete, because a heuristic that gives up early would leave a pod pending next to a free GPU. States that are
equivalent to one that failed are skipped; a bound on the work protects the allocator from claims made to be hard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fracgpu.controller.fit.ledger import Free, utilisation
from fracgpu.controller.fit.views import Constraint, DeviceKey, DeviceRequest, GpuView, PlacedDevice
from fracgpu.driver.amounts import Amounts
from fracgpu.driver.errors import AmountsError

_MAX_STEPS = 50_000


class SearchLimitError(Exception):
    """The search was cut off; whether the requests fit is not known."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """One GPU to be found: the n-th of a request's count."""

    request: DeviceRequest
    ordinal: int


def candidates(request: DeviceRequest, gpus: Sequence[GpuView]) -> dict[DeviceKey, Amounts]:
    """Return the GPUs that a request could ever use, with what it would take of each, whatever is free."""
    found: dict[DeviceKey, Amounts] = {}
    for gpu in gpus:
        if gpu.healthy and request.matches(gpu):
            try:
                found[gpu.key] = request.amounts_on(gpu)
            except AmountsError:
                continue
    return found


def search_node(
    requests: Sequence[DeviceRequest],
    gpus: Sequence[GpuView],
    free: Mapping[DeviceKey, Free],
    constraints: Sequence[Constraint] = (),
) -> tuple[PlacedDevice, ...] | None:
    """Return one assignment in the order of the requests, or None when there is none. Raises SearchLimitError."""
    return _Search(requests, gpus, free, constraints).run()


class _Search:
    """Depth-first search with memory of failed states."""

    def __init__(
        self,
        requests: Sequence[DeviceRequest],
        gpus: Sequence[GpuView],
        free: Mapping[DeviceKey, Free],
        constraints: Sequence[Constraint],
    ) -> None:
        self._units = [_Unit(request, ordinal) for request in requests for ordinal in range(request.count)]
        self._gpus = {gpu.key: gpu for gpu in gpus}
        self._free = {key: free[key] for key in self._gpus}
        self._constraints = constraints
        self._wanted = {(request.claim, request.name): candidates(request, gpus) for request in requests}
        self._chosen: list[DeviceKey] = []
        self._failed: set[object] = set()
        self._steps = 0

    def run(self) -> tuple[PlacedDevice, ...] | None:
        if not self._place(0):
            return None
        return tuple(self._placed(unit, key) for unit, key in zip(self._units, self._chosen, strict=True))

    def _placed(self, unit: _Unit, key: DeviceKey) -> PlacedDevice:
        request = unit.request
        return PlacedDevice(
            claim=request.claim,
            request=request.name,
            pool=key[0],
            device=key[1],
            amounts=self._wanted[request.claim, request.name][key],
            admin=request.admin,
        )

    def _place(self, index: int) -> bool:
        if index == len(self._units):
            return True
        state = self._state(index)
        if state in self._failed:
            return False
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise SearchLimitError
        unit = self._units[index]
        wanted = self._wanted[unit.request.claim, unit.request.name]
        for key in self._ordered(unit, wanted):
            before = self._free[key]
            self._free[key] = before.minus(wanted[key])
            self._chosen.append(key)
            if self._place(index + 1):
                return True
            self._chosen.pop()
            self._free[key] = before
        self._failed.add(state)
        return False

    def _ordered(self, unit: _Unit, wanted: Mapping[DeviceKey, Amounts]) -> list[DeviceKey]:
        taken = self._chosen[len(self._chosen) - unit.ordinal :] if unit.ordinal else []
        fitting = [
            key
            for key, amounts in wanted.items()
            if key not in taken and not any(self._free[key].lacks(amounts)) and self._allowed(unit.request, key)
        ]
        fullest_first = unit.request.gpu_policy == "Binpack"
        load = {key: utilisation([self._gpus[key]], self._free) for key in fitting}
        return sorted(
            fitting,
            key=lambda key: (
                -load[key] if fullest_first else load[key],
                self._free[key].cores if fullest_first else -self._free[key].cores,
                key,
            ),
        )

    def _allowed(self, request: DeviceRequest, key: DeviceKey) -> bool:
        for constraint in self._constraints:
            if not constraint.covers(request):
                continue
            value = self._gpus[key].attributes.get(constraint.attribute)
            if value is None or value in constraint.unknown:
                return False
            others = self._values(constraint)
            if constraint.kind == "match" and any(other != value for other in others):
                return False
            if constraint.kind == "distinct" and value in others:
                return False
        return True

    def _values(self, constraint: Constraint) -> list[object]:
        return [
            self._gpus[key].attributes.get(constraint.attribute)
            for unit, key in zip(self._units, self._chosen, strict=False)
            if constraint.covers(unit.request)
        ]

    def _state(self, index: int) -> object:
        unit = self._units[index]
        taken = frozenset(self._chosen[len(self._chosen) - unit.ordinal :]) if unit.ordinal else frozenset()
        bound = tuple(frozenset(map(repr, self._values(constraint))) for constraint in self._constraints)
        return (index, tuple(self._free.values()), taken, bound)
