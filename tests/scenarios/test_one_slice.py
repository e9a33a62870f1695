"""The shortest way through everything, on both clusters: a claim, a pod, a slice of a GPU, and nothing left."""

from __future__ import annotations

import json

import yaml

from fracgpu.driver.names import CLASS_FRACTION
from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.lab.node import NodeUnderTest
from fracgpu.sim.node.api import Json

_GIB = 1 << 30


def objects(image: str) -> list[Json]:
    amounts = {"requests": {"memory": "8Gi", "cores": "30"}}
    request = {"name": "gpu", "exactly": {"deviceClassName": CLASS_FRACTION, "capacity": amounts}}
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "slice"},
        "spec": {"devices": {"requests": [request]}},
    }
    container = {
        "name": "main",
        "image": image,
        "command": ["sleep", "infinity"],
        "resources": {"claims": [{"name": "gpu"}]},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "user"},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "resourceClaims": [{"name": "gpu", "resourceClaimName": "slice"}],
            "containers": [container],
        },
    }
    return [claim, pod]


def create(cluster: ClusterUnderTest, namespace: str) -> Json:
    """Create the pod with its claim; return the pod when it runs."""
    cluster.apply(yaml.safe_dump_all(objects(cluster.image)), namespace)
    return cluster.wait_pod("user", namespace=namespace)


def test_a_pod_sees_its_slice(cluster: ClusterUnderTest, namespace: str) -> None:
    create(cluster, namespace)
    view = json.loads(cluster.output_of("user", ["fracgpu-view"], namespace=namespace))
    assert [device["total_bytes"] for device in view["cuda"]["devices"]] == [8 * _GIB]


def test_a_pod_leaves_nothing_on_the_node(cluster: ClusterUnderTest, node: NodeUnderTest, namespace: str) -> None:
    (claim,) = cluster.claims_of(create(cluster, namespace))
    uid = claim["metadata"]["uid"]

    def left() -> list[str]:
        places = (node.cdi_dir, node.run_dir / "allocations")
        return [path.name for place in places for path in place.iterdir() if uid in path.name]

    assert len(left()) == 2
    cluster.delete_pod("user", namespace=namespace)
    assert left() == []
