"""The search of kube-scheduler on one node: depth first, and the first that fits is taken.

Requests in their order, alternatives in theirs, devices in the order of the slices. No device is better than another:
whoever wants the emptiest or the fullest GPU lets the plugin order its slice, or fracgpu's controller allocate.

Source: structured/internal/incubating/allocator_incubating.go of k8s.io/dynamic-resource-allocation 0.36.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.fit.search import MAX_RESULTS, value_under
from fracgpu.controller.fit.views import Constraint, Demand, DeviceKey, DeviceRequest
from fracgpu.sim.control.shared_devices import Consumed, SharedDevice, Use

_MOST_STEPS: Final = 200_000
_BLOCKING: Final = ("NoSchedule", "NoExecute")


class SearchTimeoutError(Exception):
    """The search was given up; the real one gives up after ten seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A device for a request, and what is consumed of it; None where the device is not shared."""

    request: DeviceRequest
    device: SharedDevice
    consumed: Consumed | None


class FirstFit:
    """One search for the claims of one pod; `use` is what others have taken."""

    def __init__(self, devices: Sequence[SharedDevice], use: Use, demand: Demand) -> None:
        self._devices = devices
        self._use = use
        self._choices = demand.choices
        self._constraints = demand.constraints
        self._steps = 0
        self._shares: list[Share] = []
        self._exclusive: Counter[DeviceKey] = Counter()
        self._taken: dict[DeviceKey, Counter[str]] = {}
        self._results: Counter[str] = Counter()

    def run(self) -> list[Share] | None:
        """Return the shares in the order of the requests, None when not all of them fit.

        Raises SearchTimeoutError, or what a selector raises that cannot be evaluated: an error for the whole pod.
        """
        return list(self._shares) if self._choice(0) else None

    def _choice(self, index: int) -> bool:
        if index == len(self._choices):
            return True
        return any(self._alternative(index, request) for request in self._choices[index])

    def _alternative(self, index: int, request: DeviceRequest) -> bool:
        if not request.every:
            return self._some(index, request, request.count, 0)
        wanted = [device for device in self._devices if self._may_have(request, device) and self._fits(request, device)]
        return bool(wanted) and self._all(index, request, wanted)

    def _some(self, index: int, request: DeviceRequest, count: int, start: int) -> bool:
        """Take `count` devices at or behind a place in the order: different ones, as they are asked for at once."""
        if count == 0:
            return self._choice(index + 1)
        if self._results[request.claim] + count > MAX_RESULTS:
            return False
        for position in range(start, len(self._devices)):
            device = self._devices[position]
            if self._may_have(request, device) and self._take(request, device):
                if self._some(index, request, count - 1, position + 1):
                    return True
                self._give_back()
        return False

    def _all(self, index: int, request: DeviceRequest, wanted: Sequence[SharedDevice]) -> bool:
        if self._results[request.claim] + len(wanted) > MAX_RESULTS:
            return False
        taken = 0
        for device in wanted:
            if not self._take(request, device):
                break
            taken += 1
        if taken == len(wanted) and self._choice(index + 1):
            return True
        for _ in range(taken):
            self._give_back()
        return False

    def _may_have(self, request: DeviceRequest, device: SharedDevice) -> bool:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise SearchTimeoutError
        if not request.admin and (device.key in self._use.exclusive or self._exclusive[device.key]):
            return False
        return request.selector.matches(device.view)

    def _fits(self, request: DeviceRequest, device: SharedDevice) -> bool:
        """Tell whether enough is left. Admin access counts for nobody else, but what it asks for has to be there."""
        wanted = device.consumed_by(request.requests)
        if wanted is None:
            return False
        mine = self._taken.get(device.key, Counter())
        return self._use.leaves(device, {name: amount + mine[name] for name, amount in wanted.items()})

    def _take(self, request: DeviceRequest, device: SharedDevice) -> bool:
        if not (self._fits(request, device) and _tolerates(request, device) and self._agrees(request, device)):
            return False
        consumed = device.consumed_by(request.requests) if device.shared else None
        if consumed is None:
            self._exclusive[device.key] += 1
        else:
            self._taken.setdefault(device.key, Counter()).update(consumed)
        self._results[request.claim] += 1
        self._shares.append(Share(request=request, device=device, consumed=consumed))
        return True

    def _give_back(self) -> None:
        share = self._shares.pop()
        self._results[share.request.claim] -= 1
        if share.consumed is None:
            self._exclusive[share.device.key] -= 1
        else:
            self._taken[share.device.key].subtract(share.consumed)

    def _agrees(self, request: DeviceRequest, device: SharedDevice) -> bool:
        return all(self._satisfies(one, device) for one in self._constraints if one.covers(request))

    def _satisfies(self, constraint: Constraint, device: SharedDevice) -> bool:
        value = value_under(constraint, device.view)
        if value is None:
            return False
        others = [
            value_under(constraint, share.device.view) for share in self._shares if constraint.covers(share.request)
        ]
        return not others or (value in others) is (constraint.kind == "match")


def _tolerates(request: DeviceRequest, device: SharedDevice) -> bool:
    blocking = (taint for taint in device.view.taints if taint.effect in _BLOCKING)
    return all(any(toleration.tolerates(taint) for toleration in request.tolerations) for taint in blocking)
