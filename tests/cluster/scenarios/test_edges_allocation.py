"""Sharp edges of allocations that a controller writes, seen by the stock scheduler, the API server and the node.

What our controller relies on is shown here without it, by writing what it writes.
"""

from __future__ import annotations

import copy
import datetime
import uuid

import pytest

from fracgpu.driver.names import DRIVER_NAME, FINALIZER
from fracgpu.sim.node.api import Json
from fracgpu.sim.transport import ApiRefusedError
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import is_released
from tests.cluster.scenarios.edge_objects import SELECT_T4, apply, claim, pod, request, totals, view, wait_event

CONFLICT = 409

# Our own controller must not be faster than the test that plays one.
pytestmark = pytest.mark.allocator("scheduler")


def claims_path(namespace: str) -> str:
    return f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims"


def t4(cluster: Cluster) -> str:
    (name,) = [
        device["name"]
        for device in cluster.slices(DRIVER_NAME)[0]["spec"]["devices"]
        if "T4" in device["attributes"]["productName"]["string"]
    ]
    return str(name)


def allocation(cluster: Cluster, *, gib: int, node: str = "") -> Json:
    node = node or cluster.node_name
    return {
        "allocationTimestamp": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "nodeSelector": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
        },
        "devices": {
            "results": [
                {
                    "request": "gpu",
                    "driver": DRIVER_NAME,
                    "pool": node,
                    "device": t4(cluster),
                    "shareID": str(uuid.uuid4()),
                    "consumedCapacity": {"memory": f"{gib}Gi", "cores": "0", "slots": "1"},
                }
            ]
        },
    }


def write(cluster: Cluster, namespace: str, name: str, granted: Json) -> Json:
    """Allocate as a controller: the finalizer, then one write of the status; return the claim as read before that."""
    held = cluster.claim(name, namespace)
    held["metadata"]["finalizers"] = [FINALIZER]
    held = cluster.api.replace(f"{claims_path(namespace)}/{name}", held)
    changed = copy.deepcopy(held)
    changed["status"] = {"allocation": granted}
    cluster.api.replace(f"{claims_path(namespace)}/{name}/status", changed)
    return held


def slice_of_t4(name: str, gib: int) -> Json:
    return claim(name, request(selector=SELECT_T4, capacity={"memory": f"{gib}Gi"}))


def test_an_allocation_of_a_controller_is_used_counted_and_taken_back(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, slice_of_t4("ours", 12))
    write(cluster, namespace, "ours", allocation(cluster, gib=12))
    apply(cluster, namespace, pod("user", "ours"))
    cluster.wait_pod("user", namespace=namespace)
    assert totals(view(cluster, "user", namespace)) == [12 << 30]

    # What the controller gave away is gone for the scheduler too.
    apply(cluster, namespace, slice_of_t4("theirs", 8), pod("other", "theirs"))
    wait_event(cluster, namespace, "other", "cannot allocate all claims")
    cluster.delete_pod("user", namespace)
    cluster.wait_pod("other", namespace=namespace)
    cluster.wait_for(
        claims_path(namespace),
        lambda found: True if is_released(found["ours"]) else None,
        what="deallocation by kube-controller-manager",
    )


def test_the_second_of_two_writers_is_refused(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, slice_of_t4("one", 4))
    stale = write(cluster, namespace, "one", allocation(cluster, gib=4))
    stale["status"] = {"allocation": allocation(cluster, gib=4)}
    with pytest.raises(ApiRefusedError) as refused:
        cluster.api.replace(f"{claims_path(namespace)}/one/status", stale)
    assert refused.value.code == CONFLICT


def test_two_allocators_that_give_away_the_same_memory_are_stopped_by_the_node(
    cluster: Cluster, namespace: str
) -> None:
    for name in ("first", "second"):
        apply(cluster, namespace, slice_of_t4(name, 12))
        write(cluster, namespace, name, allocation(cluster, gib=12))
    apply(cluster, namespace, pod("early", "first"))
    cluster.wait_pod("early", namespace=namespace)
    apply(cluster, namespace, pod("late", "second"))

    wait_event(cluster, namespace, "late", "CardInsufficientMemory (need 12288Mi memory, free 3072Mi of 15360Mi)")
    assert cluster.pod("late", namespace)["status"]["phase"] == "Pending"


def test_the_scheduler_takes_back_what_no_node_can_use(cluster: Cluster, namespace: str) -> None:
    # The claim that a controller has read as allocated may be empty, or someone else's, when it looks again.
    apply(cluster, namespace, slice_of_t4("lost", 4))
    write(cluster, namespace, "lost", allocation(cluster, gib=4, node="gone"))
    apply(cluster, namespace, pod("user", "lost"))
    cluster.wait_pod("user", namespace=namespace)

    (result,) = cluster.claim("lost", namespace)["status"]["allocation"]["devices"]["results"]
    assert result["pool"] == cluster.node_name
    assert totals(view(cluster, "user", namespace)) == [4 << 30]
