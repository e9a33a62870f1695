"""Rules of ResourceClaim and ResourceClaimTemplate.

Source: pkg/registry/resource/resourceclaim/strategy.go and pkg/apis/resource/validation of Kubernetes 1.36. Immutable
fields are compared with the parameters' bytes, as the real server does.
"""

# One signature serves all rules, so most of them leave an argument alone.
# ruff: noqa: ARG002
from __future__ import annotations

from fracgpu.sim.api.errors import FieldError, invalid
from fracgpu.sim.api.objects import JsonObject, dig, metadata
from fracgpu.sim.api.rules_allocation import check_status, check_status_change, drop_shares, drop_stale_devices
from fracgpu.sim.api.rules_base import Context, Rules
from fracgpu.sim.api.rules_deviceclaim import check_device_claim, default_device_claim, drop_capacity


class ClaimRules(Rules):
    """ResourceClaim: status comes only through its subresource, spec and allocation never change."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Default the spec, drop a status given on create, drop gated members."""
        obj.pop("status", None)
        obj["status"] = {}
        spec = obj.setdefault("spec", {})
        default_device_claim(spec)
        if not context.consumable_capacity:
            drop_capacity(spec)

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Keep the status; default the spec so that an omitted default is no change."""
        obj["status"] = old.get("status", {})
        default_device_claim(obj.setdefault("spec", {}))
        if not context.consumable_capacity and not _uses_capacity(old):
            drop_capacity(obj["spec"])

    def prepare_status(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Drop gated members and the device entries of results that are no longer allocated."""
        status = obj.setdefault("status", {})
        if not context.consumable_capacity and not _uses_shares(old):
            drop_shares(status)
        drop_stale_devices(status, old.get("status") or {})

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check the spec."""
        return check_device_claim(obj.get("spec") or {}, "spec", context)

    def validate_update(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Refuse every change of the spec."""
        return _immutable(obj.get("spec"), old.get("spec"), "spec")

    def validate_status(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Check the status and what changed in it."""
        spec, status, before = obj.get("spec") or {}, obj.get("status") or {}, old.get("status") or {}
        deleting = bool(metadata(obj).get("deletionTimestamp"))
        return check_status(status, spec) + check_status_change(status, before, deleting=deleting)


class TemplateRules(Rules):
    """ResourceClaimTemplate: its whole spec is immutable."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Default the inner spec and drop gated members."""
        obj.setdefault("spec", {}).setdefault("metadata", {})
        inner = obj["spec"].setdefault("spec", {})
        default_device_claim(inner)
        if not context.consumable_capacity:
            drop_capacity(inner)

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Default the inner spec so that an omitted default is no change."""
        self.prepare_create(obj, context)

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check the inner spec."""
        return check_device_claim(dig(obj, "spec", "spec") or {}, "spec.spec", context)

    def validate_update(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Refuse every change of the spec."""
        return _immutable(obj.get("spec"), old.get("spec"), "spec")


def _immutable(new: object, old: object, path: str) -> list[FieldError]:
    return [] if new == old else [invalid(path, new, "field is immutable")]


def _uses_capacity(obj: JsonObject) -> bool:
    spec = obj.get("spec") or {}
    return any((request.get("exactly") or {}).get("capacity") for request in dig(spec, "devices", "requests") or [])


def _uses_shares(obj: JsonObject) -> bool:
    results = dig(obj, "status", "allocation", "devices", "results") or []
    return any("shareID" in result or "consumedCapacity" in result for result in results)
