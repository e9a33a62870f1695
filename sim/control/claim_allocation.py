"""What kube-scheduler does for the claims of a pod that nobody has allocated: find devices, write the allocation.

It finds devices that are its own only (attribute `allocator`), so of the controller's it allocates none: those claims
wait until the controller has allocated them. It reads no configuration of ours; what that says is Prepare's business.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from fracgpu.controller.fit.views import Demand, PlacedDevice
from fracgpu.controller.objects.allocation import build_allocation
from fracgpu.controller.objects.classes import class_names_of
from fracgpu.controller.objects.demand import build_demand
from fracgpu.controller.objects.facts import items, text
from fracgpu.controller.objects.selectors import SelectorNotSupported
from fracgpu.driver.amounts import Amounts
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.grant import is_grant
from fracgpu.driver.names import API_VERSION, DRIVER_NAME
from fracgpu.driver.quantity import format_bytes
from fracgpu.sim.api.objects import JsonObject, dig, now, uid_of
from fracgpu.sim.api.rawjson import plain
from fracgpu.sim.api.resources import DEVICE_CLASSES, RESOURCE_CLAIMS, RESOURCE_SLICES
from fracgpu.sim.control.cluster import Cluster
from fracgpu.sim.control.first_fit import FirstFit, SearchTimeoutError, Share
from fracgpu.sim.control.shared_devices import Use, devices_by_node

_NOTHING_SAID: JsonObject = {
    "opaque": {"driver": DRIVER_NAME, "parameters": {"apiVersion": API_VERSION, "kind": "FractionConfig"}}
}
# Written into no allocation: what is consumed stands in the shares.
_NO_AMOUNTS = Amounts(memory_bytes=0, cores=0, slots=0)


class FilterFailedError(Exception):
    """Something about claims or classes ends the pod's turn on all nodes; the text is kube-scheduler's."""


class ClaimAllocation:
    """The unallocated claims of one pod, tried on one node after the other."""

    def __init__(self, cluster: Cluster, claims: Sequence[JsonObject]) -> None:
        self._cluster = cluster
        self._claims = claims
        self._devices = devices_by_node(cluster.all(RESOURCE_SLICES)) if claims else {}
        self._use = Use.of(cluster.all(RESOURCE_CLAIMS)) if claims else Use()
        self._demand = self._read() if claims else None

    def missing_class(self) -> str:
        """Return which class does not exist, in kube-scheduler's words; empty when all do."""
        for claim in self._claims:
            for name in class_names_of(claim):
                if self._class(name) is None:
                    request = next(part for part, used in _requests(claim) if used == name)
                    return f"request {request}: device class {name} does not exist"
        return ""

    def on(self, node: str) -> list[JsonObject] | None:
        """Return the allocations, in the order of the claims, if all claims fit on a node; None if they do not.

        Raises FilterFailedError.
        """
        if not self._claims:
            return []
        if self._demand is None:
            return None
        try:
            shares = FirstFit(self._devices.get(node, ()), self._use, self._demand).run()
        except SearchTimeoutError as error:
            raise _failed(f"node {node}: timed out trying to allocate devices") from error
        except SelectorNotSupported as error:
            raise _failed(str(error)) from error
        return None if shares is None else [self._allocation(claim, node, shares) for claim in self._claims]

    def _read(self) -> Demand | None:
        """Return what is asked for; None for what no device of ours can be found for, other drivers' claims above all.

        Raises FilterFailedError.
        """
        bare = [_without_config(plain(claim)) for claim in self._claims]
        try:
            return build_demand(bare, self._bare_class, keeps_capacity=True, allocator="scheduler")
        except SelectorNotSupported as error:
            raise _failed(str(error)) from error
        except FracgpuError:
            return None

    def _class(self, name: str) -> JsonObject | None:
        return self._cluster.get(DEVICE_CLASSES, "", name)

    def _bare_class(self, name: str) -> JsonObject | None:
        found = self._class(name)
        if found is None or not dig(found, "spec", "config"):
            return found
        return {**found, "spec": {**found["spec"], "config": [_NOTHING_SAID]}}

    def _allocation(self, claim: JsonObject, node: str, shares: Sequence[Share]) -> JsonObject:
        own = [share for share in shares if share.request.claim == uid_of(claim)]
        placed = [
            PlacedDevice(
                claim=share.request.claim,
                request=share.request.name,
                class_name=share.request.class_name,
                pool=share.device.view.pool,
                device=share.device.view.device,
                amounts=_NO_AMOUNTS,
                admin=share.request.admin,
            )
            for share in own
        ]
        allocation: JsonObject = build_allocation(
            claim, node, placed, find_class=self._class, keeps_capacity=False, now=now(), share_ids=str
        )
        devices = allocation["devices"]
        for result, share in zip(devices["results"], own, strict=True):
            if share.consumed is not None:
                result["shareID"] = str(uuid.uuid4())
                result["consumedCapacity"] = {name: format_bytes(count) for name, count in share.consumed.items()}
        # The same but for the grant, which is the controller's.
        devices["config"] = [one for one in devices["config"] if not is_grant(plain(one["opaque"].get("parameters")))]
        return allocation


def _failed(text: str) -> FilterFailedError:
    return FilterFailedError(f'running "DynamicResources" filter plugin: {text}')


def _without_config(claim: JsonObject) -> JsonObject:
    devices = {key: value for key, value in claim["spec"]["devices"].items() if key != "config"}
    return {**claim, "spec": {**claim["spec"], "devices": devices}}


def _requests(claim: JsonObject) -> list[tuple[str, str]]:
    """Return the requests and alternatives of a claim by their full names, with the class of each."""
    found: list[tuple[str, str]] = []
    for request in items(claim, "spec", "devices", "requests"):
        name = text(request, "name")
        found += [(name, text(request, "exactly", "deviceClassName"))] if request.get("exactly") else []
        found += [
            (f"{name}/{text(sub, 'name')}", text(sub, "deviceClassName")) for sub in items(request, "firstAvailable")
        ]
    return found
