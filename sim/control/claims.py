"""Stand-in for the resource claim controller of kube-controller-manager.

It generates claims from templates, drops consumers that are done, deallocates, removes the finalizer and deletes
generated claims. As with the real one, an allocated claim without the finalizer stays allocated.
"""

from __future__ import annotations

import copy

from fracgpu.controller.objects.facts import (
    has_finalizer,
    is_allocated,
    is_deleting,
    is_done,
    is_owned_by,
    is_terminal,
    reserved_uids,
)
from fracgpu.driver.names import FINALIZER
from fracgpu.sim.api.objects import JsonObject, dig, metadata, name_of, namespace_of, uid_of
from fracgpu.sim.api.resources import PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS
from fracgpu.sim.control.loop import Controller
from fracgpu.sim.control.pods import claims_of, owner_reference
from fracgpu.sim.transport import ApiRefusedError

COMPONENT = "resource-claim-controller"
POD_CLAIM_NAME = "resource.kubernetes.io/pod-claim-name"


class ClaimController(Controller):
    """Life of claims around their pods."""

    name = "claims"

    def reconcile(self) -> None:
        """Look at every pod, then at every claim."""
        self.each((pod for pod in self.cluster.all(PODS) if not is_done(pod) and not is_deleting(pod)), self._serve)
        self.each(self.cluster.all(RESOURCE_CLAIMS), self._release)

    def _serve(self, pod: JsonObject) -> None:
        self._generate(pod)
        self._reserve_for_bound(pod)

    def _generate(self, pod: JsonObject) -> None:
        statuses = list(dig(pod, "status", "resourceClaimStatuses") or [])
        known = {item.get("name") for item in statuses}
        for entry in dig(pod, "spec", "resourceClaims") or []:
            if entry.get("resourceClaimTemplateName") and entry["name"] not in known:
                claim = self._existing(pod, entry["name"]) or self._create(pod, entry)
                if claim is not None:
                    statuses.append({"name": entry["name"], "resourceClaimName": name_of(claim)})
        if statuses:
            self.cluster.change_status(PODS, pod, resourceClaimStatuses=statuses)

    def _existing(self, pod: JsonObject, own_name: str) -> JsonObject | None:
        for claim in self.cluster.all(RESOURCE_CLAIMS):
            annotations = metadata(claim).get("annotations") or {}
            if is_owned_by(claim, pod) and annotations.get(POD_CLAIM_NAME) == own_name:
                return claim
        return None

    def _create(self, pod: JsonObject, entry: JsonObject) -> JsonObject | None:
        namespace, template_name = namespace_of(pod), entry["resourceClaimTemplateName"]
        template = self.cluster.get(RESOURCE_CLAIM_TEMPLATES, namespace, template_name)
        if template is None:
            self._failed(pod, f'resourceclaimtemplate.resource.k8s.io "{template_name}" not found')
            return None
        inner = template["spec"]
        own_meta = inner.get("metadata") or {}
        meta: JsonObject = {
            "generateName": f"{name_of(pod)}-{entry['name']}-",
            "namespace": namespace,
            "annotations": (own_meta.get("annotations") or {}) | {POD_CLAIM_NAME: entry["name"]},
            "ownerReferences": [owner_reference(pod)],
        }
        if own_meta.get("labels"):
            meta["labels"] = own_meta["labels"]
        body = {
            "apiVersion": RESOURCE_CLAIMS.api_version,
            "kind": RESOURCE_CLAIMS.kind,
            "metadata": meta,
            "spec": inner["spec"],
        }
        try:
            return self.cluster.create(RESOURCE_CLAIMS, namespace, body)
        except ApiRefusedError as error:
            self._failed(pod, error.what)
            return None

    def _failed(self, pod: JsonObject, what: str) -> None:
        text = f"PodResourceClaim: failed to create ResourceClaim: {what}"
        self.cluster.event(pod, "Warning", "FailedResourceClaimCreation", text, component=COMPONENT)

    def _reserve_for_bound(self, pod: JsonObject) -> None:
        """Reserve for a pod that named its node itself: no scheduler will."""
        if not dig(pod, "spec", "nodeName"):
            return
        for claim in claims_of(self.cluster, pod)[0]:
            if is_allocated(claim) and uid_of(pod) not in reserved_uids(claim) and not is_deleting(claim):
                entry = {"resource": "pods", "name": name_of(pod), "uid": uid_of(pod)}
                reserved = [*(dig(claim, "status", "reservedFor") or []), entry]
                self.cluster.change_status(RESOURCE_CLAIMS, claim, reservedFor=reserved)

    def _release(self, claim: JsonObject) -> None:
        reserved = dig(claim, "status", "reservedFor") or []
        valid = [entry for entry in reserved if self._is_consumer(claim, entry)]
        if len(valid) < len(reserved):
            freed = not valid and has_finalizer(claim)
            claim = self._write_reserved(claim, valid, deallocate=freed)
        elif not valid and is_allocated(claim) and is_deleting(claim) and has_finalizer(claim):
            claim = self._write_reserved(claim, [], deallocate=True)
        if has_finalizer(claim) and not is_allocated(claim) and (is_deleting(claim) or len(valid) < len(reserved)):
            changed = copy.deepcopy(claim)
            metadata(changed)["finalizers"] = [item for item in metadata(claim)["finalizers"] if item != FINALIZER]
            claim = self.cluster.update(RESOURCE_CLAIMS, changed)
        if not valid and not is_deleting(claim) and self._outlived_its_pod(claim):
            self.cluster.delete(RESOURCE_CLAIMS, claim)

    def _write_reserved(self, claim: JsonObject, valid: list[JsonObject], *, deallocate: bool) -> JsonObject:
        if deallocate:
            return self.cluster.change_status(RESOURCE_CLAIMS, claim, reservedFor=None, allocation=None)
        return self.cluster.change_status(RESOURCE_CLAIMS, claim, reservedFor=valid or None)

    def _is_consumer(self, claim: JsonObject, entry: JsonObject) -> bool:
        if entry.get("resource") != "pods" or entry.get("apiGroup"):
            return True
        pod = self.cluster.get(PODS, namespace_of(claim), str(entry.get("name")))
        return pod is not None and uid_of(pod) == entry.get("uid") and not is_done(pod)

    def _outlived_its_pod(self, claim: JsonObject) -> bool:
        """Tell whether a generated claim belongs to a pod that has ended (the collector takes those of pods gone)."""
        if POD_CLAIM_NAME not in (metadata(claim).get("annotations") or {}):
            return False
        owner = next((item for item in metadata(claim).get("ownerReferences") or [] if item.get("controller")), None)
        pod = self.cluster.get(PODS, namespace_of(claim), str(owner.get("name"))) if owner else None
        return pod is not None and owner is not None and uid_of(pod) == owner["uid"] and is_terminal(pod)
