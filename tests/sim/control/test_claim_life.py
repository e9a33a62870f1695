"""Claims around their pods: generated, reserved, released, gone; and what the stand-in scheduler does."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.allocator.fenced_writes import TAKEN_BY_ANNOTATION
from fracgpu.sim.api import resources as r
from fracgpu.sim.control import ControlPlane

FINALIZER = "resource.kubernetes.io/delete-protection"


def test_generated_claim_has_the_marks_of_the_real_one(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    template = make_claim("t", "1Gi", template=True)
    template["spec"]["metadata"] = {"labels": {"team": "x"}, "annotations": {"a": "b"}}
    one_node.apply(template, make_pod("p", template="t"))
    one_node.bound("p")
    claim, pod = one_node.claim_of("p"), one_node.get(r.PODS, "p")
    assert claim["metadata"]["name"].startswith("p-g-")
    given = {key: text for key, text in claim["metadata"]["annotations"].items() if key != TAKEN_BY_ANNOTATION}
    assert given == {"a": "b", "resource.kubernetes.io/pod-claim-name": "g"}
    assert claim["metadata"]["labels"] == {"team": "x"}
    owner = claim["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("Pod", pod["metadata"]["uid"], True)
    assert pod["status"]["resourceClaimStatuses"] == [{"name": "g", "resourceClaimName": claim["metadata"]["name"]}]


def test_missing_template_is_said_and_works_when_it_comes(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    one_node.apply(make_pod("p", template="t"))
    event = one_node.until(lambda: one_node.events("p", "FailedResourceClaimCreation"))[0]
    assert 'resourceclaimtemplate.resource.k8s.io "t" not found' in event["message"]
    one_node.apply(make_claim("t", "1Gi", template=True))
    assert one_node.bound("p") == "n1"


def test_missing_named_claim_is_said(one_node: Any, make_pod: Any) -> None:
    one_node.apply(make_pod("p", claim="nowhere"))
    one_node.unscheduled("p", 'resourceclaim "nowhere" not found')


@pytest.mark.parametrize("end", ["Succeeded", "Failed", "deleted"])
def test_generated_claim_goes_with_its_pod(one_node: Any, make_claim: Any, make_pod: Any, end: str) -> None:
    one_node.apply(make_claim("t", "1Gi", template=True), make_pod("p", template="t"))
    one_node.bound("p")
    one_node.phase("p", "Running")
    if end == "deleted":
        one_node.kill("p")
    else:
        one_node.phase("p", end)
    one_node.until(lambda: not one_node.all(r.RESOURCE_CLAIMS))


def test_named_claim_is_deallocated_after_its_last_consumer_and_used_again(
    one_node: Any, make_claim: Any, make_pod: Any
) -> None:
    one_node.apply(make_claim("c", "1Gi"), make_pod("p1", claim="c"), make_pod("p2", claim="c"))
    one_node.bound("p1")
    one_node.bound("p2")
    first = one_node.get(r.RESOURCE_CLAIMS, "c")["status"]
    assert len(first["reservedFor"]) == 2
    one_node.phase("p1", "Succeeded")
    one_node.until(lambda: len(one_node.get(r.RESOURCE_CLAIMS, "c")["status"]["reservedFor"]) == 1)
    assert one_node.get(r.RESOURCE_CLAIMS, "c")["status"]["allocation"] == first["allocation"]
    one_node.phase("p2", "Failed")
    one_node.until(lambda: not one_node.get(r.RESOURCE_CLAIMS, "c")["status"])
    one_node.until(lambda: not one_node.get(r.RESOURCE_CLAIMS, "c")["metadata"].get("finalizers"))
    one_node.apply(make_pod("p3", claim="c"))
    one_node.bound("p3")
    again = one_node.get(r.RESOURCE_CLAIMS, "c")["status"]["allocation"]["devices"]["results"][0]
    assert again["shareID"] != first["allocation"]["devices"]["results"][0]["shareID"]


def test_deleted_claim_waits_for_its_pod(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    one_node.apply(make_claim("c", "1Gi"), make_pod("p", claim="c"))
    one_node.bound("p")
    one_node.client.delete(r.RESOURCE_CLAIMS, one_node.get(r.RESOURCE_CLAIMS, "c"))
    one_node.quiet()
    assert "allocation" in one_node.get(r.RESOURCE_CLAIMS, "c")["status"]
    one_node.kill("p")
    one_node.until(lambda: one_node.get(r.RESOURCE_CLAIMS, "c") is None)


def test_claim_without_the_finalizer_stays_allocated(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    one_node.apply(make_claim("c", "1Gi"), make_pod("p", claim="c"))
    one_node.bound("p")
    one_node.change(r.RESOURCE_CLAIMS, "c", lambda claim: claim["metadata"].update(finalizers=[]))
    one_node.phase("p", "Succeeded")
    one_node.until(lambda: "reservedFor" not in one_node.get(r.RESOURCE_CLAIMS, "c")["status"])
    one_node.quiet()
    assert "allocation" in one_node.get(r.RESOURCE_CLAIMS, "c")["status"]


def test_pod_that_names_its_node_is_allocated_and_reserved_there(
    world: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    for name in ("n1", "n2"):
        world.slice(world.node(name), make_gpu(f"gpu-{name}"))
    world.apply(make_claim("c", "1Gi"), make_pod("p", claim="c", nodeName="n2"))
    claim = world.until(lambda: (found := world.get(r.RESOURCE_CLAIMS, "c"))["status"].get("reservedFor") and found)
    assert claim["status"]["allocation"]["devices"]["results"][0]["pool"] == "n2"


def test_claim_moves_when_its_node_is_lost_before_the_pod_is_bound(
    world: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    for name in ("n1", "n2"):
        world.slice(world.node(name), make_gpu(f"gpu-{name}"))
    world.apply(make_claim("c", "1Gi"), make_pod("p1", claim="c"))
    assert world.bound("p1") == "n1"
    world.set_ready("n1", False)
    world.phase("p1", "Succeeded")
    world.until(lambda: "allocation" not in world.get(r.RESOURCE_CLAIMS, "c")["status"])
    world.apply(make_pod("p2", claim="c"))
    assert world.bound("p2") == "n2"


def test_reserved_claim_of_a_lost_node_is_not_taken_from_its_user(
    world: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    for name in ("n1", "n2"):
        world.slice(world.node(name), make_gpu(f"gpu-{name}"))
    world.apply(make_claim("c", "1Gi"), make_pod("p1", claim="c"))
    assert world.bound("p1") == "n1"
    world.set_ready("n1", False)
    world.apply(make_pod("p2", claim="c"))
    world.unscheduled("p2", "resourceclaim not available on the node")
    assert world.get(r.RESOURCE_CLAIMS, "c")["status"]["allocation"]["devices"]["results"][0]["pool"] == "n1"
    world.set_ready("n1", True)
    assert world.bound("p2") == "n1"


def test_claim_is_not_taken_away_while_there_is_nowhere_else(
    start: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    """A restart of the only node: the claim stays where it is, and the pod goes there when the node is back."""
    world = start(control_plane=False)
    world.slice(world.node("n1", ready=False), make_gpu("gpu-a"))
    claim = world.client.create(r.RESOURCE_CLAIMS, "default", make_claim("c", "1Gi"))
    result = {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-a"}
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    allocation = {
        "allocationTimestamp": "2026-01-01T00:00:00Z",
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [term]},
    }
    claim["status"] = {"allocation": allocation}
    world.client.update(r.RESOURCE_CLAIMS, claim, subresource="status")
    world.apply(make_pod("p", claim="c"))
    with ControlPlane(world.server.url):
        world.unscheduled("p", "0/1 nodes are available")
        world.quiet()
        assert world.get(r.RESOURCE_CLAIMS, "c")["status"] == {"allocation": allocation}
        world.set_ready("n1", True)
        assert world.bound("p") == "n1"


def test_allocation_without_timestamp_can_never_be_reserved(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    """The trap of 1.36 that our allocator avoids."""
    (claim,) = one_node.apply(make_claim("c", "1Gi"))
    result = {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-a"}
    claim["status"] = {"allocation": {"devices": {"results": [result]}}}
    one_node.client.update(r.RESOURCE_CLAIMS, claim, subresource="status")
    one_node.apply(make_pod("p", claim="c"))
    one_node.unscheduled("p", "status.allocation: Invalid value")
    one_node.unscheduled("p", "field is immutable")


def test_pods_without_claims_go_to_ready_nodes(world: Any, make_pod: Any) -> None:
    world.node("down", ready=False)
    world.node("closed", unschedulable=True)
    world.node("tainted", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])
    world.apply(make_pod("p0"))
    world.unscheduled("p0", "0/3 nodes are available")
    world.node("n1")
    world.node("n2")
    world.apply(make_pod("p1"))
    nodes = sorted([world.bound("p0"), world.bound("p1")])
    assert nodes == ["n1", "n2"]
    world.apply(make_pod("p2", tolerations=[{"key": "k", "operator": "Exists"}]))
    assert world.bound("p2") == "tainted"
    world.apply(make_pod("p3", nodeSelector={"kubernetes.io/hostname": "n2"}))
    assert world.bound("p3") == "n2"


def test_gated_pod_waits(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    one_node.apply(make_claim("t", "1Gi", template=True))
    one_node.apply(make_pod("p", template="t", schedulingGates=[{"name": "example.com/g"}]))
    assert one_node.claim_of("p")["status"] == {}
    one_node.quiet()
    assert one_node.claim_of("p")["status"] == {}
    one_node.change(r.PODS, "p", lambda pod: pod["spec"].update(schedulingGates=[]))
    assert one_node.bound("p") == "n1"


def test_claim_of_another_driver_is_not_ours_to_explain(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    selectors = [{"cel": {"expression": "device.driver == 'nic.example.com'"}}]
    body = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "nic"}}
    one_node.apply(body | {"spec": {"selectors": selectors}})
    one_node.apply(make_claim("c", device_class="nic"), make_pod("p", claim="c"))
    one_node.unscheduled("p", "0/1 nodes are available: 1 cannot allocate all claims")
    assert not one_node.events("p", "ClaimUnschedulable")
