"""From a pod to an allocation: the recipe, the texts, who gets what."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from fracgpu.driver.amounts import granted_amounts
from fracgpu.driver.grant import parse_grant
from fracgpu.sim.api import resources as r

MIB = 1024**2


def _grant(claim: dict[str, Any]) -> Any:
    entries = claim["status"]["allocation"]["devices"]["config"]
    found = [item for item in entries if item["opaque"]["parameters"]["kind"] == "FractionGrant"]
    assert len(found) == 1
    return parse_grant(found[0]["opaque"]["parameters"], source=found[0]["source"])


def test_allocation_follows_the_recipe(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    one_node.apply(make_claim("t", "3000Mi", "30", config={"weight": 10}, template=True), make_pod("p", template="t"))
    assert one_node.bound("p") == "n1"
    claim = one_node.claim_of("p")
    pod = one_node.get(r.PODS, "p")
    allocation = claim["status"]["allocation"]
    result = allocation["devices"]["results"][0]
    assert claim["metadata"]["finalizers"] == ["resource.kubernetes.io/delete-protection"]
    assert allocation["allocationTimestamp"].endswith("Z")
    assert allocation["nodeSelector"] == {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]
    }
    assert (result["request"], result["driver"], result["pool"], result["device"]) == (
        "gpu",
        "gpu.fracgpu.dev",
        "n1",
        "gpu-a",
    )
    assert result["consumedCapacity"] == {"memory": "3000Mi", "cores": "30", "slots": "1"}
    assert len(result["shareID"]) == 36
    assert claim["status"]["reservedFor"] == [{"resource": "pods", "name": "p", "uid": pod["metadata"]["uid"]}]
    sources = [(item["source"], item["opaque"]["parameters"]["kind"]) for item in allocation["devices"]["config"]]
    assert sources == [("FromClass", "FractionGrant"), ("FromClaim", "FractionConfig")]
    grant = _grant(claim).find(request="gpu", pool="n1", device="gpu-a", ordinal=0)
    amounts = granted_amounts(
        subject="claim",
        allocator="controller",
        physical_memory_bytes=40960 * MIB,
        consumed=result["consumedCapacity"],
        grant=grant,
    )
    assert (amounts.memory_bytes, amounts.cores, amounts.slots) == (3000 * MIB, 30, 1)


def test_finalizer_comes_before_the_allocation_and_reservation_after(
    one_node: Any, make_claim: Any, make_pod: Any
) -> None:
    one_node.apply(make_claim("c", "1Gi"), make_pod("p", claim="c"))
    one_node.bound("p")
    steps: list[str] = []
    for change in one_node.server.registry.store.hub.since(0):
        if change.resource is r.RESOURCE_CLAIMS:
            status = change.obj.get("status") or {}
            flags = (bool(change.obj["metadata"].get("finalizers")), "allocation" in status, "reservedFor" in status)
            steps.append("".join("fAr"[index] for index, flag in enumerate(flags) if flag))
    assert steps == ["", "f", "fA", "fAr"]


def _post_template(url: str, parameters: str) -> None:
    body = (
        '{"metadata":{"name":"t"},"spec":{"spec":{"devices":{"requests":[{"name":"gpu","exactly":'
        '{"deviceClassName":"gpu.fracgpu.dev"}}],"config":[{"opaque":{"driver":"gpu.fracgpu.dev","parameters":'
        f"{parameters}}}}}]}}}}}}}}"
    )
    path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates"
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request("POST", path, body.encode(), {"Content-Type": "application/json"})
    assert connection.getresponse().status == 201
    connection.close()


@pytest.mark.parametrize("known", ["listed", "watched"])
@pytest.mark.parametrize("spaced", [True, False], ids=["spaces", "compact"])
def test_parameters_of_the_claim_keep_the_bytes_that_the_user_sent_to_the_end(
    start: Any, make_gpu: Any, make_pod: Any, spaced: bool, known: str
) -> None:
    """From template to claim to release: on every way one re-encoding would be the end of updates.

    The copy in the allocation is the allocator's own, and in the one encoding that every JSON client reproduces.
    """
    text = '{"kind": "FractionConfig",  "apiVersion":"gpu.fracgpu.dev/v1alpha1", "memory":"2Gi"}'
    text = text if spaced else text.replace(" ", "")
    world = start(control_plane=False)
    world.slice(world.node("n1"), make_gpu("gpu-a"))
    if known == "listed":
        _post_template(world.server.url, text)
    with world.controlled():
        if known == "watched":
            _post_template(world.server.url, text)
        world.apply(make_pod("p", template="t"))
        world.bound("p")
        name = world.claim_of("p")["metadata"]["name"]
        stored = world.server.registry.store.get(r.RESOURCE_CLAIMS, "default", name)
        copied = stored["status"]["allocation"]["devices"]["config"][-1]
        assert stored["spec"]["devices"]["config"][0]["opaque"]["parameters"].text == text
        assert copied["source"] == "FromClaim"
        assert copied["opaque"]["parameters"].text == (
            '{"apiVersion":"gpu.fracgpu.dev/v1alpha1","kind":"FractionConfig","memory":"2Gi"}'
        )
        world.phase("p", "Succeeded")
        world.until(lambda: not world.all(r.RESOURCE_CLAIMS))


def test_full_cluster_says_why_in_pod_and_claim_and_goes_on_when_room_comes(
    one_node: Any, make_claim: Any, make_pod: Any
) -> None:
    one_node.apply(make_claim("t", "30Gi", template=True))
    for name in ("p1", "p2", "p3"):
        one_node.apply(make_pod(name, template="t"))
        if name != "p3":
            one_node.bound(name)
    text = "CardInsufficientMemory (2/2 GPUs: need 30720Mi, max free 10240Mi)"
    assert one_node.refusal("p3", text) == text
    claim = one_node.claim_of("p3")["metadata"]["name"]
    for name in ("p3", claim):
        event = one_node.until(lambda name=name: one_node.events(name, "ClaimUnschedulable"))[0]
        assert (event["message"], event["type"], event["count"]) == (text, "Warning", 1)
    one_node.kill("p1")
    assert one_node.bound("p3") == "n1"
    message = one_node.until(lambda: one_node.events("p3", "ClaimAllocated"))[0]["message"]
    assert message.startswith("gpu: 30Gi memory, 0 cores on node n1 GPU gpu-a share ")
    assert one_node.until(lambda: one_node.events(claim, "ClaimAllocated"))[0]["message"] == message


def test_text_is_updated_not_repeated(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    one_node.apply(make_claim("t", "10Gi", template=True), make_claim("big", "41Gi", template=True))
    one_node.apply(make_pod("never", template="big"))
    one_node.refusal("never", "AmountsExceedDevice (2/2 GPUs: memory 41Gi is more than the GPU's 40Gi)")
    one_node.apply(make_claim("whole", "40Gi", template=True), make_pod("w", template="whole"))
    one_node.bound("w")
    one_node.apply(make_pod("w2", template="whole"))
    one_node.bound("w2")
    one_node.apply(make_pod("late", template="t"))
    one_node.refusal("late", "max free 0Mi")
    one_node.kill("w")
    one_node.bound("late")
    one_node.apply(make_pod("w3", template="whole"))
    text = one_node.refusal("w3", "CardInsufficientMemory (2/2 GPUs: need 40960Mi, max free 30720Mi)")
    one_node.kill("late")
    one_node.bound("w3")
    events = one_node.events("w3", "ClaimUnschedulable")
    assert [(item["message"], item["count"]) for item in events] == [(text, 1)]


def test_a_pending_pod_costs_nothing(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    """Nothing is written again and again while nothing changes."""
    one_node.apply(make_claim("c", "80Gi"), make_pod("p", claim="c"))
    one_node.refusal("p", "AmountsExceedDevice")
    assert one_node.quiet() == one_node.quiet()


def test_shares_add_up_on_one_gpu_by_policy(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    packed = {"placement": {"gpu": "Binpack"}}
    one_node.apply(make_claim("t", "10Gi", template=True, config=packed))
    for index in range(5):
        one_node.apply(make_pod(f"p{index}", template="t"))
        one_node.bound(f"p{index}")
    devices = [
        one_node.claim_of(f"p{index}")["status"]["allocation"]["devices"]["results"][0]["device"] for index in range(5)
    ]
    assert devices == ["gpu-a"] * 4 + ["gpu-b"]


def test_node_policy_of_the_claim(world: Any, make_gpu: Any, make_claim: Any, make_pod: Any) -> None:
    for name in ("n1", "n2"):
        world.slice(world.node(name), make_gpu(f"gpu-{name}"))
    world.apply(make_claim("pack", "1Gi", template=True))
    world.apply(make_claim("spread", "1Gi", template=True, config={"placement": {"node": "Spread"}}))
    nodes = []
    for name, template in (("a", "pack"), ("b", "pack"), ("c", "spread"), ("d", "pack")):
        world.apply(make_pod(name, template=template))
        nodes.append(world.bound(name))
    assert nodes == ["n1", "n1", "n2", "n1"]


def test_whole_class_needs_a_card_that_is_not_oversubscribed(
    world: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    world.slice(world.node("n1"), make_gpu("gpu-a", 80, physical=40), make_gpu("gpu-b"))
    world.apply(make_claim("w", template=True, device_class="whole.gpu.fracgpu.dev"))
    world.apply(make_pod("p1", template="w"), make_pod("p2", template="w"))
    bound = world.until(lambda: [pod for pod in world.all(r.PODS) if pod["spec"].get("nodeName")])
    other = next(name for name in ("p1", "p2") if name != bound[0]["metadata"]["name"])
    result = world.claim_of(bound[0]["metadata"]["name"])["status"]["allocation"]["devices"]["results"][0]
    assert (result["device"], result["consumedCapacity"]["memory"]) == ("gpu-b", "40Gi")
    assert world.refusal(other, "CardInsufficientMemory").startswith(
        "CardInsufficientMemory (1/2 GPUs: need 40960Mi, max free 0Mi); SelectorMismatch (1/2 GPUs: not selected by "
    )


def test_several_claims_of_a_pod_land_together(world: Any, make_gpu: Any, make_claim: Any, make_pod: Any) -> None:
    world.slice(world.node("n1"), make_gpu("gpu-a", 20))
    world.slice(world.node("n2"), make_gpu("gpu-b", 40))
    world.apply(make_claim("one", "15Gi"), make_claim("two", "15Gi"))
    claims = [{"name": "a", "resourceClaimName": "one"}, {"name": "b", "resourceClaimName": "two"}]
    world.apply(make_pod("p", resourceClaims=claims))
    assert world.bound("p") == "n2"


def test_second_claim_follows_the_first_that_is_allocated(
    world: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    world.slice(world.node("n1"), make_gpu("gpu-a"))
    world.slice(world.node("n2"), make_gpu("gpu-b"))
    world.apply(
        make_claim("fixed", "1Gi"), make_pod("first", claim="fixed", nodeSelector={"kubernetes.io/hostname": "n2"})
    )
    assert world.bound("first") == "n2"
    world.apply(make_claim("more", "1Gi"))
    claims = [{"name": "a", "resourceClaimName": "fixed"}, {"name": "b", "resourceClaimName": "more"}]
    world.apply(make_pod("second", resourceClaims=claims))
    assert world.bound("second") == "n2"


def test_prioritized_list_takes_the_first_that_fits(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    body = make_claim("c")
    parts = [
        {"name": "large", "deviceClassName": "gpu.fracgpu.dev", "capacity": {"requests": {"memory": "60Gi"}}},
        {"name": "small", "deviceClassName": "gpu.fracgpu.dev", "capacity": {"requests": {"memory": "20Gi"}}},
    ]
    body["spec"]["devices"]["requests"] = [{"name": "gpu", "firstAvailable": parts}]
    one_node.apply(body, make_pod("p", claim="c"))
    one_node.bound("p")
    result = one_node.get(r.RESOURCE_CLAIMS, "c")["status"]["allocation"]["devices"]["results"][0]
    assert (result["request"], result["consumedCapacity"]["memory"]) == ("gpu/small", "20Gi")


def test_admin_access_fits_a_full_gpu(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    label = {"name": "default", "labels": {"resource.kubernetes.io/admin-access": "true"}}
    one_node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": label})
    for index in range(2):
        one_node.apply(make_claim(f"c{index}", "40Gi"), make_pod(f"p{index}", claim=f"c{index}"))
        one_node.bound(f"p{index}")
    one_node.apply(make_claim("watch", adminAccess=True), make_pod("monitor", claim="watch"))
    one_node.bound("monitor")
    result = one_node.get(r.RESOURCE_CLAIMS, "watch")["status"]["allocation"]["devices"]["results"][0]
    assert result["adminAccess"] is True
    assert result["consumedCapacity"] == {"memory": "0", "cores": "0", "slots": "0"}


def test_gate_off_puts_the_amounts_into_the_grant_alone(
    start: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    world = start(consumable_capacity=False)
    world.slice(world.node("n1"), make_gpu("gpu-a"))
    world.apply(make_claim("dropped", "8Gi"), make_pod("p1", claim="dropped"))
    world.refusal("p1", "AmountsDropped (claim default/dropped request gpu: the API server drops capacity.requests")
    for name in ("p2", "p3"):
        world.apply(make_claim(name, config={"memory": "15Gi", "cores": 40}), make_pod(name, claim=name))
        world.bound(name)
    claim = world.get(r.RESOURCE_CLAIMS, "p3")
    result = claim["status"]["allocation"]["devices"]["results"][0]
    assert set(result) == {"request", "driver", "pool", "device"}
    grant = _grant(claim).find(request="gpu", pool="n1", device="gpu-a", ordinal=0)
    assert (grant.memory_bytes, grant.cores, grant.slots) == (15 * 1024 * MIB, 40, 1)
    world.apply(make_claim("p4", config={"memory": "15Gi"}), make_pod("p4", claim="p4"))
    world.refusal("p4", "CardInsufficientMemory (1/1 GPUs: need 15360Mi, max free 10240Mi)")


def test_node_without_cpu_for_the_pod_gets_no_allocation(
    world: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    for name in ("n1", "n2"):
        world.slice(world.node(name), make_gpu("gpu-a"))
    world.apply(make_claim("t", "1Gi", template=True))
    needs = [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "3"}, "claims": [{"name": "g"}]}}]
    for name, node in (("p1", "n1"), ("p2", "n2")):
        # Binpack would put both on n1.
        world.apply(make_pod(name, template="t", containers=needs))
        assert world.bound(name) == node
    world.apply(
        make_pod("p3", template="t", containers=needs),
        make_pod("p4", containers=[needs[0] | {"resources": {"requests": {"cpu": "2"}}}]),
    )
    assert "Insufficient cpu" in world.refusal("p3", "Insufficient cpu")
    assert world.unscheduled("p4", "Insufficient cpu").startswith("0/2 nodes are available: 2 Insufficient cpu. ")
