"""The example for kube-scheduler's allocation, on whichever allocates here; the others are in tests/examples."""

from __future__ import annotations

import json
from pathlib import Path

from fracgpu.sim.lab.cluster import ClusterUnderTest
from tests.scenarios.tenant import MIB, Tenant

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "scheduler-two-pods.yaml"


def test_two_pods_have_what_their_template_says(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    cluster.apply(EXAMPLE.read_text().replace("fracgpu/probe", cluster.image), namespace)
    for name in ("slice-a", "slice-b"):
        pod = cluster.wait_pod(name, namespace=namespace)
        (claim,) = cluster.claims_of(pod)
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        assert result["consumedCapacity"] == {"memory": "4Gi", "cores": "20", "slots": "1"}
        logged = json.loads(cluster.wait_log(name, "cuda", namespace=namespace))
        assert [one["total_bytes"] for one in logged["cuda"]["devices"]] == [4096 * MIB]
        assert tenant.climb(name) == 4096
