"""Rules of Pod: defaults that others read, the claim references, and a spec that is immutable but for a few fields.

Only what the emulated cluster gives meaning to is validated; the rest of PodSpec is kept as sent.
"""

# One signature serves all rules, so most of them leave an argument alone.
# ruff: noqa: ARG002
from __future__ import annotations

import copy

from fracgpu.sim.api.errors import FieldError, duplicate, forbidden_field, invalid, not_supported, required
from fracgpu.sim.api.objects import JsonObject, dig
from fracgpu.sim.api.rules_base import Context, Rules, check_label, check_subdomain

_RESTART = ("Always", "OnFailure", "Never")
_CONTAINER_RESTART = ("Always", "Never", "OnFailure")


def default_pod_spec(spec: JsonObject) -> None:
    """Set the defaults that components of the emulated cluster rely on."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")


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
    sources = [key for key in ("resourceClaimName", "resourceClaimTemplateName") if claim.get(key)]
    if not sources:
        text = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
        errors.append(invalid(path, claim, text))
    elif len(sources) > 1:
        text = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
        errors.append(invalid(path, claim, text))
    for key in sources:
        errors += check_subdomain(claim[key], f"{path}.{key}")
    return errors


def _check_container(container: JsonObject, path: str, names: set[str], claims: set[str]) -> list[FieldError]:
    errors = check_label(container.get("name"), f"{path}.name")
    name = str(container.get("name"))
    if name in names:
        errors.append(duplicate(f"{path}.name", name))
    names.add(name)
    if not container.get("image"):
        errors.append(required(f"{path}.image"))
    policy = container.get("restartPolicy")
    if policy and policy not in _CONTAINER_RESTART:
        errors.append(not_supported(f"{path}.restartPolicy", policy, _CONTAINER_RESTART))
    return errors + _check_uses(dig(container, "resources", "claims") or [], f"{path}.resources.claims", claims)


def _check_uses(uses: list[JsonObject], path: str, claims: set[str]) -> list[FieldError]:
    errors: list[FieldError] = []
    used: set[tuple[str, str]] = set()
    for index, claim in enumerate(uses):
        where = f"{path}[{index}]"
        name, request = str(claim.get("name", "")), str(claim.get("request", ""))
        if not name:
            errors.append(required(f"{where}.name"))
            continue
        # A whole claim and a request of it are one too many as well.
        if (name, request) in used or (name, "") in used or (not request and any(name == seen for seen, _ in used)):
            errors.append(duplicate(where, name))
        elif name not in claims:
            known = ", ".join(sorted(claims))
            text = f'Not found: "{name}": must be one of the names in pod.spec.resourceClaims: {known}'
            errors.append(FieldError(where, "FieldValueNotFound", text))
        used.add((name, request))
    return errors


class PodRules(Rules):
    """Pod: phase Pending at first; after creation only images, tolerations, deadlines and gates may change."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Set defaults; a status given on create is replaced."""
        spec = obj.setdefault("spec", {})
        default_pod_spec(spec)
        # What admission adds to every pod.
        spec.setdefault("serviceAccountName", "default")
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
        spec.setdefault("enableServiceLinks", True)
        spec.setdefault("priority", 0)
        spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
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
