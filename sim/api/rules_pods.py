"""Rules of Pod: defaults that others read, the claim references, and a spec that is immutable but for a few fields.

Only what the emulated cluster gives meaning to is validated; the rest of PodSpec is kept as sent.
"""

# One signature serves all rules, so most of them leave an argument alone.
# ruff: noqa: ARG002
from __future__ import annotations

import copy

from fracgpu.sim.api.errors import FieldError, duplicate, forbidden_field, not_supported, required
from fracgpu.sim.api.objects import JsonObject, dig
from fracgpu.sim.api.rules_base import Context, Rules, check_label

_RESTART = ("Always", "Never", "OnFailure")


def default_pod_spec(spec: JsonObject) -> None:
    """Set the defaults that components of the emulated cluster rely on."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.setdefault("resources", {})


def check_pod_spec(spec: JsonObject, path: str) -> list[FieldError]:
    """Return the findings about a pod spec below `path`."""
    errors: list[FieldError] = []
    containers = spec.get("containers") or []
    if not containers:
        errors.append(required(f"{path}.containers"))
    if spec.get("restartPolicy") not in _RESTART:
        errors.append(not_supported(f"{path}.restartPolicy", spec.get("restartPolicy"), _RESTART))
    names: set[str] = set()
    claims: set[str] = set()
    for index, claim in enumerate(spec.get("resourceClaims") or []):
        errors += _check_pod_claim(claim, f"{path}.resourceClaims[{index}]", claims)
    for group in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(group) or []):
            errors += _check_container(container, f"{path}.{group}[{index}]", names, claims)
    return errors


def _check_pod_claim(claim: JsonObject, path: str, seen: set[str]) -> list[FieldError]:
    errors = check_label(claim.get("name"), f"{path}.name")
    name = str(claim.get("name"))
    if name in seen:
        errors.append(duplicate(f"{path}.name", name))
    seen.add(name)
    if bool(claim.get("resourceClaimName")) == bool(claim.get("resourceClaimTemplateName")):
        errors.append(required(path, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
    return errors


def _check_container(container: JsonObject, path: str, names: set[str], claims: set[str]) -> list[FieldError]:
    errors = check_label(container.get("name"), f"{path}.name")
    name = str(container.get("name"))
    if name in names:
        errors.append(duplicate(f"{path}.name", name))
    names.add(name)
    if not container.get("image"):
        errors.append(required(f"{path}.image"))
    used: set[tuple[str, str]] = set()
    for index, claim in enumerate(dig(container, "resources", "claims") or []):
        where = f"{path}.resources.claims[{index}]"
        key = (str(claim.get("name")), str(claim.get("request", "")))
        if not claim.get("name"):
            errors.append(required(f"{where}.name"))
        elif key[0] not in claims:
            errors.append(FieldError(f"{where}.name", "FieldValueNotFound", f'Not found: "{key[0]}"'))
        if key in used:
            errors.append(duplicate(where, key[0]))
        used.add(key)
    return errors


class PodRules(Rules):
    """Pod: phase Pending at first; after creation only images, tolerations, deadlines and gates may change."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Set defaults; a status given on create is replaced."""
        default_pod_spec(obj.setdefault("spec", {}))
        obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Keep the status."""
        default_pod_spec(obj.setdefault("spec", {}))
        obj["status"] = old.get("status", {})

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check the spec."""
        return check_pod_spec(obj.get("spec") or {}, "spec")

    def validate_update(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Refuse changes of immutable fields."""
        if _frozen_part(obj) == _frozen_part(old):
            return []
        text = (
            "pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
            "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously "
            "negative)"
        )
        return [forbidden_field("spec", text)]


def _frozen_part(pod: JsonObject) -> JsonObject:
    spec = copy.deepcopy(pod.get("spec") or {})
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        container.pop("image", None)
    for name in ("activeDeadlineSeconds", "tolerations", "schedulingGates"):
        spec.pop(name, None)
    return spec
