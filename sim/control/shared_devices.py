"""GPUs as kube-scheduler counts them: capacity that several claims consume, by the rules that the slice states.

On purpose not the amounts of our fit engine: this plays the other side, which reads neither our configuration nor our
grants.

Source: KEP-5075; structured/internal/incubating/consumable_capacity.go of k8s.io/dynamic-resource-allocation 0.36.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING

from fracgpu.controller.fit.views import DeviceKey, GpuView
from fracgpu.controller.objects.facts import Json, dig, items, mapping, text
from fracgpu.controller.objects.inventory import gpus_of
from fracgpu.driver.amounts import Capacities
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.quantity import parse_quantity

Consumed = Mapping[str, int]
"""By capacity of a device: how much of it is, or would be, consumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDevice:
    """One GPU of kube-scheduler's. `shared` is whether the slice allows several allocations of it."""

    view: GpuView
    shared: bool
    capacity: Mapping[str, Json]

    @property
    def key(self) -> DeviceKey:
        """Return the GPU's identity."""
        return self.view.key

    def total(self, name: str) -> int:
        """Return how much there is of a capacity."""
        return _number(self.capacity[name]["value"])

    def consumed_by(self, asked: Capacities) -> Consumed | None:
        """Return what a request takes of each capacity; None when the device is not for it, however empty it is.

        What is not asked for is charged at its default, and all of it where there is none.
        """
        if any(name not in self.capacity for name in asked):
            return None
        taken = {name: _taken(asked.get(name), capacity) for name, capacity in self.capacity.items()}
        within = all(_keeps_policy(taken[name], capacity) for name, capacity in self.capacity.items())
        return taken if within else None


@dataclass(slots=True)
class Use:
    """What is taken of all devices: of those that are shared the sums, the others as a whole."""

    consumed: defaultdict[DeviceKey, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    exclusive: set[DeviceKey] = field(default_factory=set)

    @classmethod
    def of(cls, claims: Iterable[Json]) -> Use:
        """Return what the allocations of all claims take. An allocation without a share takes a whole device."""
        use = cls()
        for claim in claims:
            for result in items(claim, "status", "allocation", "devices", "results"):
                if result.get("driver") != DRIVER_NAME or result.get("adminAccess") is True:
                    continue
                key = (text(result, "pool"), text(result, "device"))
                if text(result, "shareID"):
                    consumed = mapping(result, "consumedCapacity")
                    use.consumed[key].update({name: _number(amount) for name, amount in consumed.items()})
                else:
                    use.exclusive.add(key)
        return use

    def leaves(self, device: SharedDevice, wanted: Consumed) -> bool:
        """Tell whether so much is left of a device."""
        taken = self.consumed[device.key]
        return all(taken[name] + amount <= device.total(name) for name, amount in wanted.items())


def devices_by_node(slices: Iterable[Json]) -> dict[str, list[SharedDevice]]:
    """Return the GPUs that kube-scheduler may allocate, in its order: pools and slices by name, then as published."""
    listed = list(slices)
    published = {
        (text(one, "spec", "pool", "name"), text(device, "name"), dig(one, "spec", "pool", "generation")): device
        for one in listed
        if dig(one, "spec", "driver") == DRIVER_NAME
        for device in items(one, "spec", "devices")
    }
    newest: dict[str, int] = {}
    for pool, _, generation in published:
        newest[pool] = max(generation, newest.get(pool, generation))
    found: dict[str, list[SharedDevice]] = {}
    for view in gpus_of(listed, owner="scheduler"):
        device = published[(view.pool, view.device, newest[view.pool])]
        shared = device.get("allowMultipleAllocations") is True
        one = SharedDevice(view=view, shared=shared, capacity=mapping(device, "capacity"))
        found.setdefault(view.node, []).append(one)
    return found


def _taken(asked: str | int | None, capacity: Json) -> int:
    policy = mapping(capacity, "requestPolicy")
    if asked is None:
        return _number(policy["default"] if "default" in policy else capacity["value"])
    amount = _number(asked)
    limits = mapping(policy, "validRange")
    if limits:
        least, step = _number(limits["min"]), _number(limits.get("step", 1))
        return max(least, least + -(-(amount - least) // step) * step)
    return next((value for value in map(_number, policy.get("validValues") or ()) if value >= amount), amount)


def _keeps_policy(amount: int, capacity: Json) -> bool:
    policy = mapping(capacity, "requestPolicy")
    most, values = mapping(policy, "validRange").get("max"), policy.get("validValues")
    default = policy.get("default")
    if default is not None and amount == _number(default):
        return True
    if most is not None:
        return amount <= _number(most)
    return not values or amount in map(_number, values)


def _number(quantity: str | int) -> int:
    """Return a quantity of an object that the API server has validated; a part of one counts as one."""
    return int(parse_quantity(quantity).to_integral_value(rounding=ROUND_CEILING))
