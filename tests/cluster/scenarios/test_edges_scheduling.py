"""Sharp edges between the stock scheduler, the kubelet and our claims: ways past the scheduler, and its limits."""

from __future__ import annotations

import json

import pytest

from fracgpu.driver.names import DRIVER_NAME
from tests.cluster.cluster import Cluster
from tests.cluster.machine.layout import CDI_DIR
from tests.cluster.manifests import MIB, WORKLOAD
from tests.cluster.scenarios.edge_objects import (
    SELECT_T4,
    T4_MIB,
    apply,
    claim,
    copied_class,
    existing,
    pod,
    request,
    totals,
    view,
    wait_event,
)

PRIORITIES = "/apis/scheduling.k8s.io/v1/priorityclasses"
EXTENDED = "e2e.example.com/gpu"


@pytest.mark.allocator("scheduler")
def test_a_pod_that_names_its_node_gets_nothing_without_an_allocation(cluster: Cluster, namespace: str) -> None:
    preset = pod("user", "slice", nodeName=cluster.node_name)
    apply(cluster, namespace, claim("slice", request(capacity={"memory": "1Gi"})), preset)

    # Nobody allocates for a pod that the scheduler never sees, and the kubelet wants the pod among the claim's users.
    wait_event(cluster, namespace, "user", "is not allowed to use ResourceClaim slice")
    assert cluster.pod("user", namespace)["status"]["phase"] == "Pending"
    assert "allocation" not in cluster.claim("slice", namespace).get("status", {})
    assert list(CDI_DIR.iterdir()) == []


def test_a_pod_that_names_its_node_gets_what_our_controller_allocates(cluster: Cluster, namespace: str) -> None:
    preset = pod("user", "slice", nodeName=cluster.node_name)
    apply(cluster, namespace, claim("slice", request(capacity={"memory": "1Gi"})), preset)
    cluster.wait_pod("user", namespace=namespace)
    assert totals(view(cluster, "user", namespace)) == [1 << 30]


def test_a_pod_that_names_its_node_shares_a_claim_that_is_allocated(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, claim("slice", request(capacity={"memory": "1Gi"})), pod("first", "slice"))
    cluster.wait_pod("first", namespace=namespace)
    apply(cluster, namespace, pod("second", "slice", nodeName=cluster.node_name))
    cluster.wait_pod("second", namespace=namespace)

    assert totals(view(cluster, "second", namespace)) == [1 << 30]


def test_priority_does_not_take_a_gpu_from_a_running_pod(cluster: Cluster, namespace: str) -> None:
    important = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "e2e-important"},
        "value": 1000000,
    }
    most = request(selector=SELECT_T4, capacity={"memory": f"{T4_MIB - 1024}Mi"})
    with existing(cluster, PRIORITIES, important):
        apply(cluster, namespace, claim("held", most), pod("humble", "held"))
        cluster.wait_pod("humble", namespace=namespace)
        apply(cluster, namespace, claim("wanted", most), pod("great", "wanted", priorityClassName="e2e-important"))

        # The scheduler has looked for victims by then, and its text says what came of that.
        wait_event(cluster, namespace, "great", "preemption:")
        humble = cluster.pod("humble", namespace)
        assert humble["status"]["phase"] == "Running"
        assert "deletionTimestamp" not in humble["metadata"]

        cluster.delete_pod("humble", namespace)
        cluster.wait_pod("great", namespace=namespace)


def test_a_finished_pod_that_stays_holds_neither_claim_nor_gpu(cluster: Cluster, namespace: str) -> None:
    most = request(selector=SELECT_T4, capacity={"memory": f"{T4_MIB}Mi"})
    apply(cluster, namespace, claim("first", most), pod("done", "first", command=("fracgpu-view",)))
    cluster.wait_pod("done", "Succeeded", namespace=namespace)

    # Neither another claim nor another pod of the same claim has to wait until somebody deletes the finished pod.
    apply(cluster, namespace, claim("second", most), pod("next", "second", command=("fracgpu-view",)))
    cluster.wait_pod("next", "Succeeded", namespace=namespace)
    apply(cluster, namespace, pod("again", "first", command=("fracgpu-view",)))
    cluster.wait_pod("again", "Succeeded", namespace=namespace)

    claims = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims"
    cluster.wait_for(
        claims,
        lambda found: True if not any("allocation" in one.get("status", {}) for one in found.values()) else None,
        what="deallocated claims",
    )
    assert cluster.pod("done", namespace)["status"]["phase"] == "Succeeded"


@pytest.mark.allocator("scheduler")
def test_an_extended_resource_is_a_whole_gpu_of_the_container_that_asks(cluster: Cluster, namespace: str) -> None:
    limits = {"limits": {EXTENDED: "1"}}
    asking = {"name": "asking", "image": WORKLOAD, "command": ["sleep", "infinity"], "resources": limits}
    user = pod("user")
    user["spec"]["containers"].append(asking)
    with copied_class(cluster, "e2e-extended", extendedResourceName=EXTENDED):
        apply(cluster, namespace, user)
        cluster.wait_pod("user", namespace=namespace)

        (made,) = cluster.api.get(f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims")["items"]
        (result,) = made["status"]["allocation"]["devices"]["results"]
        assert result["request"] == "container-1-request-0"
        gpus = {gpu["name"]: gpu for gpu in cluster.slices(DRIVER_NAME)[0]["spec"]["devices"]}
        whole = gpus[result["device"]]["attributes"]["physicalMemoryMiB"]["int"] * MIB
        seen = cluster.output_of("user", ["fracgpu-view"], container="asking", namespace=namespace)
        assert totals(json.loads(seen)) == [whole]
        beside = cluster.execute("user", ["fracgpu-view"], container="main", namespace=namespace)
        assert "libcuda.so.1: cannot open" in beside.stdout
        cluster.delete_pod("user", namespace)
