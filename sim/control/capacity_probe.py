"""Does the API keep capacity fields?

Found out by a dry run, because a server with the gate off drops them in silence.
"""

from __future__ import annotations

from fracgpu.driver.names import CAPACITY_MEMORY, CLASS_FRACTION
from fracgpu.sim.api.objects import JsonObject, dig
from fracgpu.sim.api.resources import RESOURCE_CLAIMS
from fracgpu.sim.control.client import ApiClient

_NAMESPACE = "default"


def keeps_capacity(client: ApiClient) -> bool:
    """Return whether capacity.requests of a claim survive a write. Raises ApiRefusedError or ApiUnreachableError."""
    capacity = {"requests": {CAPACITY_MEMORY: "1Mi"}}
    request = {"name": "probe", "exactly": {"deviceClassName": CLASS_FRACTION, "capacity": capacity}}
    body: JsonObject = {
        "apiVersion": RESOURCE_CLAIMS.api_version,
        "kind": RESOURCE_CLAIMS.kind,
        "metadata": {"generateName": "fracgpu-capacity-probe-"},
        "spec": {"devices": {"requests": [request]}},
    }
    answer = client.create(RESOURCE_CLAIMS, _NAMESPACE, body, dry_run=True)
    requests = dig(answer, "spec", "devices", "requests") or [{}]
    return dig(requests[0], "exactly", "capacity", "requests", CAPACITY_MEMORY) is not None
