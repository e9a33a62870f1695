"""Stand-in for kube-scheduler: allocates claims from its own GPUs, reserves claims for a pod, binds it.

Towards claims it behaves as the real one does, traps included: a claim without allocationTimestamp gets one at
reservation and so can never be reserved; a claim whose node will not do is deallocated; why claims do not fit it does
not say.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from fracgpu.controller.objects.facts import (
    claim_names,
    has_finalizer,
    is_allocated,
    reserved_uids,
    waits_for_node,
)
from fracgpu.controller.objects.node_fit import CLAIM_ELSEWHERE
from fracgpu.driver.names import FINALIZER
from fracgpu.sim.api.objects import JsonObject, dig, metadata, name_of, namespace_of, now, uid_of
from fracgpu.sim.api.resources import NODES, PODS, RESOURCE_CLAIMS
from fracgpu.sim.control.claim_allocation import ClaimAllocation, FilterFailedError
from fracgpu.sim.control.client import path_of
from fracgpu.sim.control.conditions import mark_unschedulable
from fracgpu.sim.control.fit_error import (
    CANNOT_ALLOCATE,
    DEALLOCATED,
    NO_CLAIMS,
    STILL,
    fit_error,
    pre_filter_error,
)
from fracgpu.sim.control.loop import Controller
from fracgpu.sim.control.pods import claims_of, rejections
from fracgpu.sim.transport import ApiRefusedError

COMPONENT = "default-scheduler"
_NOT_SCHEDULED = "FailedScheduling"


class Scheduler(Controller):
    """Binds pods to the ready node with fewest pods, of those on which all of their claims are or can be allocated."""

    name = "scheduler"

    def reconcile(self) -> None:
        """Try every unbound pod, oldest first."""
        waiting = [pod for pod in self.cluster.all(PODS) if waits_for_node(pod)]
        self.each(sorted(waiting, key=lambda item: (metadata(item)["creationTimestamp"], uid_of(item))), self._schedule)

    def _schedule(self, pod: JsonObject) -> None:
        claims, missing = claims_of(self.cluster, pod)
        if missing:
            if self._is_missing(pod, missing[0]):
                self._refuse(pod, f'resourceclaim "{missing[0]}" not found')
            return
        try:
            self._try_nodes(pod, claims)
        except FilterFailedError as error:
            self._fail(pod, str(error))

    def _try_nodes(self, pod: JsonObject, claims: Sequence[JsonObject]) -> None:
        allocation = ClaimAllocation(self.cluster, [claim for claim in claims if not is_allocated(claim)])
        if unknown := allocation.missing_class():
            self._refuse(pod, unknown)
            return
        fitting: dict[str, list[JsonObject]] = {}
        rejected: dict[str, str] = {}
        for node, reason in rejections(self.cluster, pod, claims).items():
            if reason is not None and reason != CLAIM_ELSEWHERE:
                rejected[node] = reason
                continue
            # The real one looks last whether allocated claims are elsewhere, after it has tried to allocate the others.
            found = allocation.on(node)
            if found is None:
                rejected[node] = CANNOT_ALLOCATE
            elif reason is not None:
                rejected[node] = reason
            else:
                fitting[node] = found
        if fitting:
            node = self._least_loaded(list(fitting))
            self._bind(pod, claims, node, fitting[node])
            return
        deallocated = CLAIM_ELSEWHERE in rejected.values() and self._deallocate(pod, claims)
        after = DEALLOCATED if deallocated else STILL if claims else NO_CLAIMS
        self._fail(pod, fit_error(rejected, after))

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

    def _least_loaded(self, nodes: Sequence[str]) -> str:
        bound = [dig(pod, "spec", "nodeName") for pod in self.cluster.all(PODS)]
        return min(nodes, key=lambda name: (bound.count(name), name))

    def _bind(
        self, pod: JsonObject, claims: Sequence[JsonObject], node: str, allocations: Sequence[JsonObject]
    ) -> None:
        new = iter(allocations)
        for claim in claims:
            try:
                self._reserve(pod, claim, None if is_allocated(claim) else next(new))
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

    def _reserve(self, pod: JsonObject, claim: JsonObject, allocation: JsonObject | None) -> None:
        """Reserve a claim for the pod, with its allocation if that is new: both in one write."""
        if uid_of(pod) in reserved_uids(claim):
            return
        if allocation is not None and not has_finalizer(claim):
            changed = copy.deepcopy(claim)
            metadata(changed)["finalizers"] = [*(metadata(claim).get("finalizers") or []), FINALIZER]
            claim = self.cluster.update(RESOURCE_CLAIMS, changed)
        changed = copy.deepcopy(claim)
        status = changed.setdefault("status", {})
        if allocation is not None:
            status["allocation"] = allocation
        status["allocation"].setdefault("allocationTimestamp", now())
        entry = {"resource": "pods", "name": name_of(pod), "uid": uid_of(pod)}
        status["reservedFor"] = [*(status.get("reservedFor") or []), entry]
        self.cluster.update_status(RESOURCE_CLAIMS, changed)

    def _deallocate(self, pod: JsonObject, claims: Sequence[JsonObject]) -> bool:
        """Take one allocation back that only this pod could use; return whether there was one."""
        for claim in claims:
            if is_allocated(claim) and all(uid == uid_of(pod) for uid in reserved_uids(claim)):
                self.cluster.change_status(RESOURCE_CLAIMS, claim, allocation=None, reservedFor=None, devices=None)
                return True
        return False

    def _refuse(self, pod: JsonObject, why: str) -> None:
        """Say why no node was looked at."""
        self._fail(pod, pre_filter_error([name_of(node) for node in self.cluster.all(NODES)], why))

    def _fail(self, pod: JsonObject, message: str) -> None:
        self.cluster.event(pod, "Warning", _NOT_SCHEDULED, message, component=COMPONENT)
        mark_unschedulable(self.cluster, pod, message)
