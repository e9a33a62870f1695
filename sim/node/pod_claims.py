"""Which claim objects a pod means: the names that its status gives to its templates, and whose they are.

As k8s.io/dynamic-resource-allocation/resourceclaim has it (Name, IsForPod), down to the texts, which end up in events.
"""

from __future__ import annotations

from dataclasses import dataclass

from fracgpu.sim.node.api import Json
from fracgpu.sim.node.errors import ClaimNotForPod, ClaimNotNamed


@dataclass(frozen=True, slots=True)
class PodClaim:
    """One entry of a pod's resourceClaims; ``claim`` is None where none was needed (the template's maker said so)."""

    name: str
    claim: str | None
    from_template: bool


def pod_claims(pod: Json) -> list[PodClaim]:
    """Return the claims of ``pod``, in its order.

    Raises:
        ClaimNotNamed: the claim of a template does not exist yet.

    """
    made = {
        one["name"]: one.get("resourceClaimName") for one in pod.get("status", {}).get("resourceClaimStatuses") or []
    }
    found = []
    for entry in pod["spec"].get("resourceClaims") or []:
        name = entry["name"]
        if entry.get("resourceClaimName"):
            found.append(PodClaim(name, entry["resourceClaimName"], from_template=False))
        elif name in made:
            found.append(PodClaim(name, made[name], from_template=True))
        else:
            what = f'pod "{pod_key(pod)}": ResourceClaim not created yet'
            raise ClaimNotNamed(f"claim {name} of pod {pod_key(pod)}", what, remedy="see the events of the pod")
    return found


def check_owner(pod: Json, claim: Json) -> None:
    """Raise ClaimNotForPod unless ``claim``, made from a template, was made for ``pod``."""
    owners = claim["metadata"].get("ownerReferences") or []
    if not any(owner.get("controller") and owner["uid"] == pod["metadata"]["uid"] for owner in owners):
        key = f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"
        what = f"ResourceClaim {key} was not created for Pod {pod_key(pod)} (Pod is not owner)"
        raise ClaimNotForPod(f"claim {key}", what, remedy="delete the claim, or the pod")


def pod_key(pod: Json) -> str:
    """Return namespace and name of ``pod``, as messages name it."""
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
