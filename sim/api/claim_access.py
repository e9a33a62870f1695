"""Who may change which part of a claim's status: the granular authorization of 1.36.

`resourceclaims/status` alone lets nobody change anything: allocation and reservedFor need `resourceclaims/binding`,
the device entries of each driver need `resourceclaims/driver`, with a verb that says whether the writer is bound to
the claim's node. A writer without it gets 422, not 403: the check is part of validation.

Source: KEP-4817 and pkg/registry/resource/utils.go of Kubernetes 1.36 (DRAResourceClaimGranularStatusAuthorization).
"""

from __future__ import annotations

from collections.abc import Callable

from fracgpu.sim.api.errors import FieldError, forbidden_field
from fracgpu.sim.api.identity import User
from fracgpu.sim.api.objects import JsonObject, dig
from fracgpu.sim.api.rbac import Attributes
from fracgpu.sim.api.resources import RESOURCE_CLAIMS
from fracgpu.sim.api.rules_allocation import device_key

Allowed = Callable[[Attributes], bool]
_BINDING = f"{RESOURCE_CLAIMS.plural}/binding"
_DRIVER = f"{RESOURCE_CLAIMS.plural}/driver"


def check_status_access(
    claim: JsonObject, old: JsonObject, *, user: User, verb: str, allowed: Allowed
) -> list[FieldError]:
    """Return the findings about a change of a claim's status by a user; `verb` is `update` or `patch`."""
    status, before = claim.get("status") or {}, old.get("status") or {}
    errors: list[FieldError] = []
    if any(status.get(part) != before.get(part) for part in ("allocation", "reservedFor")):
        wanted = Attributes(verb=verb, group=RESOURCE_CLAIMS.group, resource=_BINDING)
        if not allowed(wanted):
            what = f'changing status.allocation or status.reservedFor requires resource="{_BINDING}", verb="{verb}"'
            errors.append(forbidden_field("status.allocation", f"{what} permission: {_denied(wanted, user)}"))
    if not status.get("allocation"):
        # The entries of a claim without allocation go by themselves, or are refused for pointing nowhere.
        return errors
    namespace = str(dig(claim, "metadata", "namespace") or "")
    verbs = _driver_verbs(status, user, verb)
    for driver in sorted(_changed_drivers(status, before)):
        asked = [
            Attributes(verb=one, group=RESOURCE_CLAIMS.group, resource=_DRIVER, namespace=namespace, name=driver)
            for one in verbs
        ]
        if not any(map(allowed, asked)):
            what = f'changing status.devices requires resource="{_DRIVER}", verb="[{" ".join(verbs)}]"'
            errors.append(forbidden_field("status.devices", f"{what} permission: {_denied(asked[0], user)}"))
    return errors


def _denied(wanted: Attributes, user: User) -> str:
    name = f' "{wanted.name}"' if wanted.name else ""
    return f"{RESOURCE_CLAIMS.qualified}{name} is forbidden: {wanted.refusal(user)}"


def _driver_verbs(status: JsonObject, user: User, verb: str) -> list[str]:
    node = _allocated_node(status)
    bound = bool(node) and user.is_service_account and user.node_name == node
    return [f"associated-node:{verb}", f"arbitrary-node:{verb}"] if bound else [f"arbitrary-node:{verb}"]


def _allocated_node(status: JsonObject) -> str:
    """Return the one node of an allocation whose selector has exactly the form that says so; empty otherwise."""
    terms = dig(status, "allocation", "nodeSelector", "nodeSelectorTerms") or []
    if len(terms) != 1 or terms[0].get("matchExpressions") or len(terms[0].get("matchFields") or []) != 1:
        return ""
    match = terms[0]["matchFields"][0]
    values = match.get("values") or []
    single = match.get("key") == "metadata.name" and match.get("operator") == "In" and len(values) == 1
    return str(values[0]) if single else ""


def _changed_drivers(status: JsonObject, before: JsonObject) -> set[str]:
    """Return the drivers of which an entry was added, removed or changed."""
    entries = {device_key(entry): entry for entry in status.get("devices") or []}
    old = {device_key(entry): entry for entry in before.get("devices") or []}
    return {key[0] for key in entries.keys() | old.keys() if entries.get(key) != old.get(key)}
