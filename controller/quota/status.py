"""The status of a FractionQuota: what its namespace uses, and whether that is more than it allows.

The status is not only for people. Where kube-scheduler allocates, the admission policy compares what a claim asks for
with `spec.hard` and `status.used`, and it acts only where `status.enforcedAt` says so: the policy follows the
controller's --allocator without a setting of its own.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from fracgpu.controller.fit.views import Budget
from fracgpu.controller.quota.amounts import Json, Usage, limit, show
from fracgpu.controller.quota.book import Quota, exceeded
from fracgpu.driver.names import CAPACITIES

EnforcedAt = Literal["Allocation", "Admission"]
"""When a quota is enforced: as our controller allocates, or as a claim is created, for kube-scheduler to allocate."""

EXCEEDED: Final = "Exceeded"
VALID: Final = "Valid"


def desired_status(quota: Quota, used: Usage, *, enforced_at: EnforcedAt, now: str) -> Json | None:
    """Return the status that a quota should have, None if it has it already.

    `used` is what the namespace uses by now, `now` a time as the API writes it.
    """
    stored = quota.obj.get("status") or {}
    desired: Json = {
        "enforcedAt": enforced_at,
        "observedGeneration": int((quota.obj.get("metadata") or {}).get("generation") or 0),
        "used": {name: show(name, used.of(name)) for name in CAPACITIES},
        "conditions": [
            _condition(stored, VALID, now, *_validity(quota)),
            _condition(stored, EXCEEDED, now, *_excess(quota.hard, used)),
        ],
    }
    if quota.hard is not None:
        limits = {name: limit(quota.hard, name) for name in CAPACITIES}
        desired["hard"] = {name: show(name, value) for name, value in limits.items() if value is not None}
    return None if desired == stored else desired


def condition_of(quota: Json, kind: str) -> Json:
    """Return a condition of a quota's status, empty if there is none of this type."""
    conditions = (quota.get("status") or {}).get("conditions") or []
    return next((dict(found) for found in conditions if found.get("type") == kind), {})


def _validity(quota: Quota) -> tuple[str, str, str]:
    if quota.problem is None:
        return ("True", "Understood", "")
    return ("False", "QuotaInvalid", f"{quota.problem.what}; nothing new is given to this namespace until it is mended")


def _excess(hard: Budget | None, used: Usage) -> tuple[str, str, str]:
    if hard is None:
        return ("Unknown", "QuotaInvalid", "")
    names = exceeded(hard, used)
    if not names:
        return ("False", "WithinQuota", "")
    # A name is in `names` only if it has a limit.
    parts = [f"{name}: {show(name, used.of(name))} of {show(name, limit(hard, name) or 0)} used" for name in names]
    return ("True", "QuotaExceeded", "; ".join(parts))


def _condition(stored: Json, kind: str, now: str, status: str, reason: str, message: str) -> dict[str, Any]:
    before = condition_of({"status": stored}, kind)
    same = before.get("status") == status
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": before.get("lastTransitionTime", now) if same else now,
    }
