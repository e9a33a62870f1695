"""Rules of Deployment, ReplicaSet and Job: defaults, and selectors that must match their own template."""

# One signature serves all rules, so most of them leave an argument alone.
# ruff: noqa: ARG002
from __future__ import annotations

from fracgpu.sim.api.errors import FieldError, forbidden_field, invalid, not_supported, required
from fracgpu.sim.api.objects import JsonObject, dig, name_of, uid_of
from fracgpu.sim.api.rules_base import Context, Rules
from fracgpu.sim.api.rules_pods import check_pod_spec, default_pod_spec


class ReplicatedRules(Rules):
    """Deployment, ReplicaSet and what they share with StatefulSet."""

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
        if obj.get("kind") == "Deployment":
            spec.setdefault("revisionHistoryLimit", 10)
            spec.setdefault("progressDeadlineSeconds", 600)
            strategy = spec.setdefault("strategy", {})
            if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
                bounds = strategy.get("rollingUpdate") or {}
                strategy["rollingUpdate"] = {"maxUnavailable": "25%", "maxSurge": "25%"} | bounds

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


class StatefulSetRules(ReplicatedRules):
    """StatefulSet: after creation only a few members of the spec may change."""

    _MUTABLE = (
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    )

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Set defaults; drop a status given on create."""
        super().prepare_create(obj, context)
        obj["status"] = {"replicas": 0, "availableReplicas": 0}

    def _default(self, obj: JsonObject) -> None:
        super()._default(obj)
        spec = obj["spec"]
        spec.setdefault("podManagementPolicy", "OrderedReady")
        strategy = spec.setdefault("updateStrategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("persistentVolumeClaimRetentionPolicy", {"whenDeleted": "Retain", "whenScaled": "Retain"})

    def validate_update(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Refuse changes of anything else."""
        frozen = [{key: value for key, value in one["spec"].items() if key not in self._MUTABLE} for one in (obj, old)]
        if frozen[0] == frozen[1]:
            return []
        names = ", ".join(f"'{name}'" for name in self._MUTABLE[:-1]) + f" and '{self._MUTABLE[-1]}'"
        return [forbidden_field("spec", f"updates to statefulset spec for fields other than {names} are forbidden")]


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
            ("suspend", False),
            ("podReplacementPolicy", "TerminatingOrFailed"),
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
            errors.append(required("spec.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"'))
        return errors + check_pod_spec(template, "spec.template.spec")

    def validate_update(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Refuse a change of template, selector or completions."""
        return [
            invalid(f"spec.{key}", dig(obj, "spec", key), "field is immutable")
            for key in ("template", "selector", "completions")
            if dig(obj, "spec", key) != dig(old, "spec", key)
        ]
