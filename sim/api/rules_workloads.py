"""Rules of Deployment, ReplicaSet and Job: defaults, and selectors that must match their own template."""

# One signature serves all rules, so most of them leave an argument alone.
# ruff: noqa: ARG002
from __future__ import annotations

from fracgpu.sim.api.errors import FieldError, invalid, not_supported, required
from fracgpu.sim.api.objects import JsonObject, dig, name_of, uid_of
from fracgpu.sim.api.rules_base import Context, Rules
from fracgpu.sim.api.rules_pods import check_pod_spec, default_pod_spec


class ReplicatedRules(Rules):
    """Deployment and ReplicaSet."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Default replicas and template; drop a status given on create."""
        self._default(obj)
        obj["status"] = {"replicas": 0} if obj.get("kind") == "ReplicaSet" else {}

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Default what is omitted and keep the status."""
        self._default(obj)
        obj["status"] = old.get("status", {})

    def _default(self, obj: JsonObject) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("replicas", 1)
        default_pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check replicas, selector and template."""
        spec = obj.get("spec") or {}
        errors: list[FieldError] = []
        if spec.get("replicas", 0) < 0:
            errors.append(invalid("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
        wanted = dig(spec, "selector", "matchLabels") or {}
        if not wanted:
            errors.append(required("spec.selector"))
        labels = dig(spec, "template", "metadata", "labels") or {}
        if any(labels.get(key) != value for key, value in wanted.items()):
            errors.append(
                invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
            )
        template = dig(spec, "template", "spec") or {}
        if template.get("restartPolicy") != "Always":
            errors.append(not_supported("spec.template.spec.restartPolicy", template.get("restartPolicy"), ("Always",)))
        return errors + check_pod_spec(template, "spec.template.spec")

    def validate_update(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Refuse a change of the selector."""
        new, before = dig(obj, "spec", "selector"), dig(old, "spec", "selector")
        return [] if new == before else [invalid("spec.selector", new, "field is immutable")]


class JobRules(Rules):
    """Job: the selector is generated from the UID, the template is immutable."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Set defaults and the generated selector and labels."""
        spec = self._default(obj)
        labels = {
            "batch.kubernetes.io/controller-uid": uid_of(obj),
            "batch.kubernetes.io/job-name": name_of(obj),
            "controller-uid": uid_of(obj),
            "job-name": name_of(obj),
        }
        template_meta = spec["template"].setdefault("metadata", {})
        template_meta["labels"] = (template_meta.get("labels") or {}) | labels
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid_of(obj)}}
        obj["status"] = {}

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Default what is omitted and keep the status."""
        self._default(obj)
        obj["status"] = old.get("status", {})

    def _default(self, obj: JsonObject) -> JsonObject:
        spec: JsonObject = obj.setdefault("spec", {})
        for key, value in (
            ("completions", 1),
            ("parallelism", 1),
            ("backoffLimit", 6),
            ("completionMode", "NonIndexed"),
        ):
            spec.setdefault(key, value)
        default_pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))
        return spec

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check the template and the counts."""
        spec = obj.get("spec") or {}
        errors = [
            invalid(f"spec.{key}", spec[key], "must be greater than or equal to 0")
            for key in ("completions", "parallelism", "backoffLimit")
            if spec.get(key, 0) < 0
        ]
        template = dig(spec, "template", "spec") or {}
        if template.get("restartPolicy") not in ("Never", "OnFailure"):
            known = ("OnFailure", "Never")
            errors.append(not_supported("spec.template.spec.restartPolicy", template.get("restartPolicy"), known))
        return errors + check_pod_spec(template, "spec.template.spec")

    def validate_update(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Refuse a change of template, selector or completions."""
        return [
            invalid(f"spec.{key}", dig(obj, "spec", key), "field is immutable")
            for key in ("template", "selector", "completions")
            if dig(obj, "spec", key) != dig(old, "spec", key)
        ]
