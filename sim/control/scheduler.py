"""Stand-in for kube-scheduler: reserves allocated claims for a pod and binds it.

It allocates nothing. Towards claims it behaves as the real one does, traps included: a claim without
allocationTimestamp gets one at reservation and so can never be reserved; a claim whose node will not do is deallocated.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from fracgpu.sim.api.objects import JsonObject, dig, metadata, name_of, namespace_of, now, uid_of
from fracgpu.sim.api.resources import DEVICE_CLASSES, NODES, PODS, RESOURCE_CLAIMS
from fracgpu.sim.control.client import path_of
from fracgpu.sim.control.conditions import mark_unschedulable
from fracgpu.sim.control.demand import is_ours
from fracgpu.sim.control.facts import (
    can_run,
    claim_names,
    claims_of,
    is_allocated,
    reserved_uids,
    selects,
    waits_for_node,
)
from fracgpu.sim.control.loop import Controller
from fracgpu.sim.transport import ApiRefusedError

COMPONENT = "default-scheduler"
_NOT_SCHEDULED = "FailedScheduling"


class Scheduler(Controller):
    """Binds pods whose claims are all allocated; pods without claims go to the ready node with fewest pods."""

    name = "scheduler"

    def reconcile(self) -> None:
        """Try every unbound pod, oldest first."""
        waiting = [pod for pod in self.cluster.all(PODS) if waits_for_node(pod)]
        self.each(sorted(waiting, key=lambda item: (metadata(item)["creationTimestamp"], uid_of(item))), self._schedule)

    def _schedule(self, pod: JsonObject) -> None:
        claims, missing = claims_of(self.cluster, pod)
        if missing:
            if self._is_missing(pod, missing[0]):
                self._fail(pod, f'resourceclaim "{missing[0]}" not found')
            return
        unallocated = [claim for claim in claims if not is_allocated(claim)]
        if unallocated:
            # Of ours the allocator has the reason and says it on the pod; for others there is no allocator here.
            if not all(is_ours(claim, self._class) for claim in unallocated):
                total = len(self.cluster.all(NODES))
                self._fail(pod, f"0/{total} nodes are available: {total} cannot allocate all claims")
            return
        nodes = [node for node in self.cluster.all(NODES) if can_run(pod, node)]
        fitting = [
            node
            for node in nodes
            if all(selects(dig(claim, "status", "allocation", "nodeSelector"), node) for claim in claims)
        ]
        if fitting:
            self._bind(pod, claims, self._least_loaded(fitting))
        else:
            total = len(self.cluster.all(NODES))
            what = "resourceclaim not available on the node" if claims and nodes else "node(s) not ready or not wanted"
            self._fail(pod, f"0/{total} nodes are available: {what}")
            if nodes:
                self._deallocate(pod, claims)

    def _is_missing(self, pod: JsonObject, name: str) -> bool:
        """Tell whether a claim is really not there, as opposed to not generated yet or not known here yet."""
        if name not in claim_names(pod).values():
            # To be generated: the claim controller is at it, or has said why it cannot.
            return False
        try:
            self.cluster.client.get(RESOURCE_CLAIMS, namespace_of(pod), name)
        except ApiRefusedError as error:
            return error.code == 404
        return False

    def _class(self, name: str) -> JsonObject | None:
        return self.cluster.get(DEVICE_CLASSES, "", name)

    def _least_loaded(self, nodes: Sequence[JsonObject]) -> str:
        bound = [dig(pod, "spec", "nodeName") for pod in self.cluster.all(PODS)]
        return min((name_of(node) for node in nodes), key=lambda name: (bound.count(name), name))

    def _bind(self, pod: JsonObject, claims: Sequence[JsonObject], node: str) -> None:
        for claim in claims:
            try:
                self._reserve(pod, claim)
            except ApiRefusedError as error:
                if error.code != 422:
                    raise
                self._fail(pod, f"running PreBind plugin DynamicResources: {error.what}")
                return
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name_of(pod), "namespace": namespace_of(pod), "uid": uid_of(pod)},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self.cluster.client.post(f"{path_of(PODS, namespace_of(pod), name_of(pod))}/binding", body)
        text = f"Successfully assigned {namespace_of(pod)}/{name_of(pod)} to {node}"
        self.cluster.event(pod, "Normal", "Scheduled", text, component=COMPONENT)

    def _reserve(self, pod: JsonObject, claim: JsonObject) -> None:
        if uid_of(pod) in reserved_uids(claim):
            return
        changed = copy.deepcopy(claim)
        status = changed["status"]
        status["allocation"].setdefault("allocationTimestamp", now())
        entry = {"resource": "pods", "name": name_of(pod), "uid": uid_of(pod)}
        status["reservedFor"] = [*(status.get("reservedFor") or []), entry]
        self.cluster.update_status(RESOURCE_CLAIMS, changed)

    def _deallocate(self, pod: JsonObject, claims: Sequence[JsonObject]) -> None:
        for claim in claims:
            if all(uid == uid_of(pod) for uid in reserved_uids(claim)):
                self.cluster.change_status(RESOURCE_CLAIMS, claim, allocation=None, reservedFor=None, devices=None)
                text = "deallocation of ResourceClaim completed"
                self.cluster.event(pod, "Warning", _NOT_SCHEDULED, text, component=COMPONENT)
                return

    def _fail(self, pod: JsonObject, message: str) -> None:
        self.cluster.event(pod, "Warning", _NOT_SCHEDULED, message, component=COMPONENT)
        mark_unschedulable(self.cluster, pod, message)
