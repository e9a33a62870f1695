"""Rules of the small resources: Namespace, Node, Event; and the table from resource to rules."""

# One signature serves all rules, so most of them leave an argument alone.
# ruff: noqa: ARG002
from __future__ import annotations

from fracgpu.sim.api import resources
from fracgpu.sim.api.errors import FieldError, invalid, required
from fracgpu.sim.api.objects import JsonObject, dig, name_of, namespace_of
from fracgpu.sim.api.resources import Resource
from fracgpu.sim.api.rules_base import Context, Rules
from fracgpu.sim.api.rules_claims import ClaimRules, TemplateRules
from fracgpu.sim.api.rules_custom import CustomRules, DefinitionRules
from fracgpu.sim.api.rules_pods import PodRules
from fracgpu.sim.api.rules_slices import ClassRules, SliceRules
from fracgpu.sim.api.rules_workloads import JobRules, ReplicatedRules, StatefulSetRules


class NamespaceRules(Rules):
    """Namespace: labelled with its name, held by the finalizer of its content."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Set label, finalizer and phase."""
        labels = obj["metadata"].get("labels") or {}
        obj["metadata"]["labels"] = labels | {"kubernetes.io/metadata.name": name_of(obj)}
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Keep spec and status: they are the server's."""
        obj["spec"], obj["status"] = old.get("spec", {}), old.get("status", {})


class NodeRules(Rules):
    """Node: a status may be given on create, as kubelets do."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Make sure that spec and status exist."""
        obj.setdefault("spec", {})
        obj.setdefault("status", {})

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Keep the status."""
        obj["status"] = old.get("status", {})


class EventRules(Rules):
    """Event: it lies in the namespace of the object that it is about."""

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check the reference."""
        involved = obj.get("involvedObject") or {}
        if not involved.get("kind"):
            return [required("involvedObject.kind")]
        expected = involved.get("namespace") or "default"
        if namespace_of(obj) != expected:
            return [invalid("involvedObject.namespace", involved.get("namespace"), "does not match event.namespace")]
        return []


class LeaseRules(Rules):
    """Lease: a positive duration, no negative count; what coordinated leader election uses is behind a gate."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Make sure that there is a spec, without what is gated off."""
        spec = obj.setdefault("spec", {})
        for key in ("strategy", "preferredHolder"):
            spec.pop(key, None)

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Do the same."""
        self.prepare_create(obj, context)

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check the numbers."""
        errors: list[FieldError] = []
        duration, transitions = dig(obj, "spec", "leaseDurationSeconds"), dig(obj, "spec", "leaseTransitions")
        if duration is not None and duration <= 0:
            errors.append(invalid("spec.leaseDurationSeconds", duration, "must be greater than 0"))
        if transitions is not None and transitions < 0:
            errors.append(invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
        return errors


_RULES: dict[Resource, Rules] = {
    resources.NAMESPACES: NamespaceRules(),
    resources.NODES: NodeRules(),
    resources.PODS: PodRules(),
    resources.EVENTS: EventRules(),
    resources.RESOURCE_CLAIMS: ClaimRules(),
    resources.RESOURCE_CLAIM_TEMPLATES: TemplateRules(),
    resources.RESOURCE_SLICES: SliceRules(),
    resources.DEVICE_CLASSES: ClassRules(),
    resources.DEPLOYMENTS: ReplicatedRules(),
    resources.REPLICA_SETS: ReplicatedRules(),
    resources.STATEFUL_SETS: StatefulSetRules(),
    resources.JOBS: JobRules(),
    resources.LEASES: LeaseRules(),
    resources.CUSTOM_RESOURCE_DEFINITIONS: DefinitionRules(),
    resources.FRACTION_QUOTAS: CustomRules(),
}


def rules_for(resource: Resource) -> Rules:
    """Return the rules of a resource."""
    return _RULES[resource]
