"""Claims and pods as the scenarios want them, as objects to be changed before they are applied."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from fracgpu.sim.node.api import Json

WORKLOAD: Final = "fracgpu.test/workload:e2e"
MIB: Final = 1 << 20
_API: Final = "resource.k8s.io/v1"


def document(*objects: Json) -> str:
    """Return objects as one manifest for kubectl."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def claim_spec(memory: str = "1Gi") -> Json:
    """Return the spec of a claim for `memory` (a quantity) of one GPU."""
    exactly = {"deviceClassName": "gpu.fracgpu.dev", "capacity": {"requests": {"memory": memory}}}
    return {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}


def claim(name: str, memory: str = "1Gi") -> Json:
    """Return a claim for `memory` of one GPU."""
    return {"apiVersion": _API, "kind": "ResourceClaim", "metadata": {"name": name}, "spec": claim_spec(memory)}


def claim_template(name: str, memory: str = "1Gi") -> Json:
    """Return a template of such claims."""
    spec = {"spec": claim_spec(memory)}
    return {"apiVersion": _API, "kind": "ResourceClaimTemplate", "metadata": {"name": name}, "spec": spec}


def pod_spec(claim_source: Json, command: Sequence[str], *, restart: str = "Never", image: str = WORKLOAD) -> Json:
    """Return the spec of a pod whose one container `main` uses one claim, named as `claim_source` says."""
    container = {"name": "main", "image": image, "command": list(command), "resources": {"claims": [{"name": "gpu"}]}}
    return {
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": 1,
        "resourceClaims": [{"name": "gpu", **claim_source}],
        "containers": [container],
    }


def pod(
    name: str,
    command: Sequence[str] = ("sleep", "infinity"),
    *,
    claim: str = "",
    restart: str = "Never",
    image: str = WORKLOAD,
) -> Json:
    """Return a pod that uses the claim `claim`, or the one with its own name."""
    spec = pod_spec({"resourceClaimName": claim or name}, command, restart=restart, image=image)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
