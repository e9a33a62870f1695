"""The allocator: gives every waiting pod's claims a place, or says on pod and claims why there is none."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from fracgpu.controller.fit.engine import fit
from fracgpu.controller.fit.views import DeviceRequest, Misfit, PlacedDevice, Placement
from fracgpu.driver.errors import AmountsError, ConfigInvalid, FracgpuError
from fracgpu.driver.names import FINALIZER
from fracgpu.driver.quantity import format_bytes
from fracgpu.driver.reasons import ReasonCode
from fracgpu.sim.api.objects import JsonObject, dig, metadata, name_of, uid_of
from fracgpu.sim.api.resources import DEVICE_CLASSES, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from fracgpu.sim.control.allocation import build_allocation
from fracgpu.sim.control.capacity_probe import keeps_capacity
from fracgpu.sim.control.cel import SelectorNotSupportedError
from fracgpu.sim.control.cluster import Cluster
from fracgpu.sim.control.conditions import mark_unschedulable
from fracgpu.sim.control.demand import Demand, DemandError, build_demand, is_ours
from fracgpu.sim.control.facts import can_run, claims_of, is_allocated, is_deleting, is_terminal, selects
from fracgpu.sim.control.inventory import gpus_of, holdings_of
from fracgpu.sim.control.loop import Controller

COMPONENT = "fracgpu-controller"
UNSCHEDULABLE = "ClaimUnschedulable"
ALLOCATED = "ClaimAllocated"


class Allocator(Controller):
    """Plays fracgpu's controller with the fit engine that the product uses."""

    name = "allocator"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._keeps_capacity: bool | None = None

    def reconcile(self) -> None:
        """Try the waiting pods, oldest first, so that a large one is not starved by later small ones on equal terms."""
        if self._keeps_capacity is None:
            self._keeps_capacity = keeps_capacity(self.cluster.client)
        waiting = [pod for pod in self.cluster.all(PODS) if self._waits(pod)]
        self.each(sorted(waiting, key=lambda item: (metadata(item)["creationTimestamp"], uid_of(item))), self._serve)

    def _waits(self, pod: JsonObject) -> bool:
        spec = pod.get("spec") or {}
        return bool(spec.get("resourceClaims")) and not (
            spec.get("schedulingGates")
            or is_terminal(pod)
            or is_deleting(pod)
            or dig(pod, "status", "phase") == "Running"
        )

    def _serve(self, pod: JsonObject) -> None:
        claims, missing = claims_of(self.cluster, pod)
        open_claims = [claim for claim in claims if not is_allocated(claim) and is_ours(claim, self._class)]
        if missing or not open_claims:
            return
        if any(is_deleting(claim) for claim in open_claims):
            return
        try:
            demand = build_demand(open_claims, self._class, keeps_capacity=bool(self._keeps_capacity))
            answer = self._place(pod, claims, demand)
        except (DemandError, SelectorNotSupportedError, AmountsError, ConfigInvalid) as error:
            self._refuse(pod, open_claims, f"{_code_of(error)}: {error}")
            return
        if isinstance(answer, Misfit):
            self._refuse(pod, open_claims, answer.message)
            return
        requests, placement = answer
        for claim in open_claims:
            self._allocate(pod, claim, placement, requests)

    def _place(
        self, pod: JsonObject, claims: Sequence[JsonObject], demand: Demand
    ) -> tuple[tuple[DeviceRequest, ...], Placement] | Misfit:
        nodes = [name_of(node) for node in self.cluster.all(NODES) if can_run(pod, node) and _reachable(claims, node)]
        gpus = gpus_of(self.cluster.all(RESOURCE_SLICES))
        holdings = holdings_of(self.cluster.all(RESOURCE_CLAIMS), gpus)
        misfit: Misfit | None = None
        for requests in demand.combinations:
            answer = fit(
                requests,
                gpus,
                holdings,
                constraints=demand.constraints,
                node_policy=demand.node_policy,
                nodes=nodes,
            )
            if isinstance(answer, Placement):
                return requests, answer
            misfit = misfit or answer
        return misfit or Misfit(())

    def _allocate(
        self, pod: JsonObject, claim: JsonObject, placement: Placement, requests: Sequence[DeviceRequest]
    ) -> None:
        own = [device for device in placement.devices if device.claim == uid_of(claim)]
        held = self._with_finalizer(claim)
        changed = copy.deepcopy(held)
        changed.setdefault("status", {})["allocation"] = build_allocation(
            claim,
            placement.node,
            own,
            find_class=self._class,
            class_names={request.name: request.class_name for request in requests if request.claim == uid_of(claim)},
            keeps_capacity=bool(self._keeps_capacity),
        )
        written = self.cluster.update_status(RESOURCE_CLAIMS, changed)
        results = dig(written, "status", "allocation", "devices", "results") or []
        # Found out anew with every write: an API server may have been restarted without the gate.
        self._keeps_capacity = all("shareID" in result for result in results)
        text = "; ".join(_told(device, placement.node, result) for device, result in zip(own, results, strict=True))
        for obj in (pod, written):
            self.cluster.settled(obj, UNSCHEDULABLE)
            self.cluster.event(obj, "Normal", ALLOCATED, text, component=COMPONENT)

    def _with_finalizer(self, claim: JsonObject) -> JsonObject:
        finalizers = metadata(claim).get("finalizers") or []
        if FINALIZER in finalizers:
            return claim
        changed = copy.deepcopy(claim)
        metadata(changed)["finalizers"] = [*finalizers, FINALIZER]
        return self.cluster.update(RESOURCE_CLAIMS, changed)

    def _refuse(self, pod: JsonObject, claims: Sequence[JsonObject], message: str) -> None:
        for obj in (pod, *claims):
            self.cluster.event(obj, "Warning", UNSCHEDULABLE, message, component=COMPONENT)
        mark_unschedulable(self.cluster, pod, message)

    def _class(self, name: str) -> JsonObject | None:
        return self.cluster.get(DEVICE_CLASSES, "", name)


def _reachable(claims: Sequence[JsonObject], node: JsonObject) -> bool:
    return all(selects(dig(claim, "status", "allocation", "nodeSelector"), node) for claim in claims)


def _code_of(error: FracgpuError) -> str:
    code = getattr(error, "code", ReasonCode.CONFIG_INVALID)
    return str(code.value if isinstance(code, ReasonCode) else code)


def _told(device: PlacedDevice, node: str, result: JsonObject) -> str:
    amounts = device.amounts
    share = f" share {result['shareID'][:8]}" if result.get("shareID") else ""
    what = f"{format_bytes(amounts.memory_bytes)} memory, {amounts.cores} cores" if not device.admin else "admin access"
    return f"{device.request}: {what} on node {node} GPU {device.device}{share}"
