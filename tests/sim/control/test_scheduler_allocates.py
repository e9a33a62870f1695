"""Mode `scheduler`: the stand-in allocates as kube-scheduler does, and fracgpu's controller only explains."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from fracgpu.sim.api import resources as r

FULL = (
    "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, "
    "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
)
SPACED = '{"kind": "FractionConfig",  "apiVersion":"gpu.fracgpu.dev/v1alpha1", "utilizationView":"Device"}'


def results(world: Any, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.get(r.RESOURCE_CLAIMS, name)["status"]["allocation"]["devices"]["results"]
    return found


def user(world: Any, make_pod: Any, *claims: Any) -> str:
    """Apply the claims and a pod with all of them; return the node that it gets."""
    world.apply(*claims)
    name = claims[0]["metadata"]["name"]
    used = [{"name": f"c{at}", "resourceClaimName": one["metadata"]["name"]} for at, one in enumerate(claims)]
    world.apply(make_pod(name, resourceClaims=used))
    return str(world.bound(name))


@pytest.fixture
def world(start: Any) -> Any:
    return start(allocator="scheduler")


@pytest.fixture
def make_shared(make_gpu: Any) -> Any:
    """Build a GPU as the plugin publishes it: what is not asked for has a default that is not all of it."""

    def build(name: str, memory: int = 40, allocator: str = "scheduler") -> Any:
        gpu = make_gpu(name, memory, allocator=allocator)
        limits = {"min": "0", "max": "100", "step": "1"}
        gpu["capacity"]["cores"]["requestPolicy"] = {"default": "0", "validRange": limits}
        gpu["capacity"]["slots"]["requestPolicy"] = {"default": "1", "validRange": {"min": "0", "max": "1"}}
        return gpu

    return build


@pytest.fixture
def one_node(world: Any, make_shared: Any) -> Any:
    """One node with two GPUs of 40 GiB for kube-scheduler, published in this order."""
    world.slice(world.node("n1"), make_shared("gpu-b"), make_shared("gpu-a"))
    return world


def test_allocation_is_written_as_the_real_one_writes_it(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    one_node.apply(make_claim("c", "3000M", "30", config={"weight": 10}), make_pod("p", claim="c"))
    assert one_node.bound("p") == "n1"
    stored, pod = one_node.get(r.RESOURCE_CLAIMS, "c"), one_node.get(r.PODS, "p")
    allocation = stored["status"]["allocation"]
    (result,) = allocation["devices"]["results"]
    assert len(result.pop("shareID")) == 36
    # Rounded up to the step of the slice.
    consumed = {"memory": "2862Mi", "cores": "30", "slots": "1"}
    driver = {"driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-b"}
    assert result == {"request": "gpu", **driver, "consumedCapacity": consumed}
    assert [one["source"] for one in allocation["devices"]["config"]] == ["FromClaim"]
    assert stored["status"]["reservedFor"] == [{"resource": "pods", "name": "p", "uid": pod["metadata"]["uid"]}]
    steps = []
    for change in one_node.server.registry.store.hub.since(0):
        if change.resource is r.RESOURCE_CLAIMS:
            status = change.obj.get("status") or {}
            flags = (bool(change.obj["metadata"].get("finalizers")), "allocation" in status, "reservedFor" in status)
            steps.append("".join("fAr"[index] for index, flag in enumerate(flags) if flag))
    assert steps == ["", "f", "fAr"]


def test_configuration_is_copied_by_class_and_byte_for_byte(one_node: Any, make_pod: Any) -> None:
    body = (
        '{"metadata":{"name":"c"},"spec":{"devices":{"requests":[{"name":"gpu","exactly":'
        '{"deviceClassName":"whole.gpu.fracgpu.dev"}}],"config":[{"opaque":{"driver":"gpu.fracgpu.dev","parameters":'
        f"{SPACED}}}}}]}}}}}}"
    )
    connection = http.client.HTTPConnection(one_node.server.url.removeprefix("http://"), timeout=30)
    path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
    connection.request("POST", path, body.encode(), {"Content-Type": "application/json"})
    assert connection.getresponse().status == 201
    connection.close()
    one_node.apply(make_pod("p", claim="c"))
    one_node.bound("p")
    stored = one_node.server.registry.store.get(r.RESOURCE_CLAIMS, "default", "c")
    configs = stored["status"]["allocation"]["devices"]["config"]
    assert [(one["source"], one.get("requests")) for one in configs] == [("FromClass", ["gpu"]), ("FromClaim", None)]
    assert configs[1]["opaque"]["parameters"].text == SPACED


def test_first_fit_in_the_order_of_the_slice(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    for at in range(5):
        user(one_node, make_pod, make_claim(f"c{at}", "10Gi"))
    assert [results(one_node, f"c{at}")[0]["device"] for at in range(5)] == ["gpu-b"] * 4 + ["gpu-a"]


def test_what_does_not_fit_is_said_without_numbers_and_explained_with_them(
    one_node: Any, make_claim: Any, make_pod: Any
) -> None:
    for at in range(2):
        user(one_node, make_pod, make_claim(f"c{at}", "30Gi"))
    one_node.apply(make_claim("c", "30Gi"), make_pod("p", claim="c"))
    assert one_node.unscheduled("p", "0/1") == FULL
    event = one_node.until(lambda: one_node.events("p", "FailedScheduling"))[0]
    assert (event["message"], event["source"]["component"]) == (FULL, "default-scheduler")
    assert one_node.refusal("p", "Card") == "CardInsufficientMemory (2/2 GPUs: need 30720Mi, max free 10240Mi)"
    one_node.kill("c0")
    assert one_node.bound("p") == "n1"
    told = one_node.until(lambda: one_node.events("p", "ClaimAllocated"))[0]["message"]
    assert told.startswith("gpu: 30Gi memory, 0 cores on node n1 GPU gpu-b share ")


def test_gpus_of_the_controller_are_never_taken(start: Any, make_shared: Any, make_claim: Any, make_pod: Any) -> None:
    world = start(allocator=None)
    world.slice(world.node("n1"), make_shared("gpu-a", 40, "controller"), make_shared("gpu-b", 20))
    world.apply(make_claim("c", "30Gi"), make_pod("p", claim="c"))
    assert world.unscheduled("p", "0/1") == FULL
    assert user(world, make_pod, make_claim("small", "10Gi")) == "n1"
    assert results(world, "small")[0]["device"] == "gpu-b"
    world.quiet()
    assert "allocation" not in world.get(r.RESOURCE_CLAIMS, "c")["status"]


def test_more_than_a_share_may_have_and_what_nobody_has(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    one_node.apply(make_claim("large", "41Gi"), make_pod("large", claim="large"))
    assert one_node.unscheduled("large", "0/1") == FULL
    one_node.apply(make_claim("nowhere", device_class="nowhere"), make_pod("nowhere", claim="nowhere"))
    one_node.unscheduled("nowhere", "0/1 nodes are available: request gpu: device class nowhere does not exist. ")


def test_a_selector_that_fails_on_a_gpu_ends_the_pods_turn(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    selectors = [{"cel": {"expression": "device.attributes['x'].y == 1"}}]
    one_node.apply(make_claim("c", selectors=selectors), make_pod("p", claim="c"))
    one_node.unscheduled("p", 'running "DynamicResources" filter plugin: ')


def test_admin_access_counts_for_nobody_but_has_to_be_there(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    label = {"name": "default", "labels": {"resource.kubernetes.io/admin-access": "true"}}
    one_node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": label})
    for at in range(2):
        user(one_node, make_pod, make_claim(f"c{at}", "40Gi"))
    one_node.apply(make_claim("defaults", adminAccess=True), make_pod("p", claim="defaults"))
    one_node.unscheduled("p", "cannot allocate all claims")
    zero = {"requests": {"memory": "0", "cores": "0", "slots": "0"}}
    user(one_node, make_pod, make_claim("zeros", adminAccess=True, capacity=zero))
    (result,) = results(one_node, "zeros")
    assert (result["adminAccess"], result["consumedCapacity"]["memory"]) == (True, "0")
    one_node.kill("c0")
    one_node.bound("p")
    # It holds nothing: all of that GPU can be given again.
    assert user(one_node, make_pod, make_claim("again", "40Gi")) == "n1"


def test_several_gpus(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    user(one_node, make_pod, make_claim("pair", "5Gi", count=2))
    user(one_node, make_pod, make_claim("all", "5Gi", allocationMode="All"))
    for name in ("pair", "all"):
        assert [one["device"] for one in results(one_node, name)] == ["gpu-b", "gpu-a"]
    one_node.apply(make_claim("three", "1Gi", count=3), make_pod("p", claim="three"))
    assert one_node.unscheduled("p", "0/1") == FULL


@pytest.mark.parametrize(("kind", "devices"), [("match", ["gpu-a"] * 2), ("distinct", ["gpu-b", "gpu-a"])])
def test_constraints_make_it_look_further(
    one_node: Any, make_claim: Any, make_pod: Any, kind: str, devices: list[str]
) -> None:
    """Of gpu-b, which comes first, there is room for one request only."""
    user(one_node, make_pod, make_claim("c", "25Gi"))
    both = make_claim("both", "10Gi")
    requests = both["spec"]["devices"]["requests"]
    requests.append({**requests[0], "name": "other"})
    both["spec"]["devices"]["constraints"] = [{f"{kind}Attribute": "gpu.fracgpu.dev/uuid"}]
    user(one_node, make_pod, both)
    assert [one["device"] for one in results(one_node, "both")] == devices


def test_prioritized_list_takes_the_first_that_fits(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    body = make_claim("c")
    parts = [
        {"name": name, "deviceClassName": "gpu.fracgpu.dev", "capacity": {"requests": {"memory": memory}}}
        for name, memory in (("large", "39Gi"), ("small", "20Gi"))
    ]
    body["spec"]["devices"]["requests"] = [{"name": "gpu", "firstAvailable": parts}]
    for at in range(2):
        user(one_node, make_pod, make_claim(f"c{at}", "21Gi"))
    one_node.apply(body, make_pod("p", claim="c"))
    one_node.unscheduled("p", "cannot allocate all claims")
    one_node.kill("c0")
    one_node.bound("p")
    (result,) = results(one_node, "c")
    assert (result["request"], result["consumedCapacity"]["memory"]) == ("gpu/large", "39Gi")


def test_configuration_is_not_read(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    """That it says something else is found out by Prepare, too late: that is why the controller says it before."""
    user(one_node, make_pod, make_claim("c", config={"memory": "2Gi"}))
    assert results(one_node, "c")[0]["consumedCapacity"]["memory"] == "40Gi"


def allocated_on(world: Any, claim: Any, node: str, device: str) -> None:
    """Create a claim as somebody has allocated it, for nobody yet."""
    created = world.client.create(r.RESOURCE_CLAIMS, "default", claim)
    created["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    created = world.client.update(r.RESOURCE_CLAIMS, created)
    consumed = {"memory": "1Gi", "cores": "0", "slots": "1"}
    result = {
        "request": "gpu",
        "driver": "gpu.fracgpu.dev",
        "pool": node,
        "device": device,
        "shareID": "7a1bdb8a-9a1f-4a9e-9a5e-0d6bb4b2a9aa",
        "consumedCapacity": consumed,
    }
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    created["status"]["allocation"] = {
        "allocationTimestamp": "2026-01-01T00:00:00Z",
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [term]},
    }
    world.client.update(r.RESOURCE_CLAIMS, created, subresource="status")


@pytest.mark.parametrize("owner", ["scheduler", "controller"])
def test_an_allocation_elsewhere_is_taken_back_only_if_that_helps(
    start: Any, make_shared: Any, make_claim: Any, make_pod: Any, owner: str
) -> None:
    """While the controller has allocated only one of a pod's claims, kube-scheduler has nothing to say about it."""
    world = start(control_plane=False)
    for node, memory in (("n1", 10), ("n2", 40)):
        world.slice(world.node(node), make_shared(f"gpu-{node}", memory, owner))
    allocated_on(world, make_claim("first", "1Gi"), "n1", "gpu-n1")
    claims = [{"name": "a", "resourceClaimName": "first"}, {"name": "b", "resourceClaimName": "second"}]
    world.apply(make_claim("second", "30Gi"), make_pod("p", resourceClaims=claims))
    with world.controlled(allocator=None):
        if owner == "scheduler":
            assert world.bound("p") == "n2"
            assert {results(world, name)[0]["pool"] for name in ("first", "second")} == {"n2"}
        else:
            world.unscheduled("p", "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable")
            world.quiet()
            assert results(world, "first")[0]["pool"] == "n1"


def test_a_capacity_without_a_policy_is_charged_as_a_whole(
    world: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    """The trap in publishing: the slots of this GPU have no default, so its first user has all of them."""
    world.slice(world.node("n1"), make_gpu("gpu-a", allocator="scheduler"))
    user(world, make_pod, make_claim("c", "1Gi"))
    assert results(world, "c")[0]["consumedCapacity"] == {"memory": "1Gi", "cores": "100", "slots": "10"}
    world.apply(make_claim("other", "1Gi"), make_pod("p", claim="other"))
    assert world.unscheduled("p", "0/1") == FULL


def test_a_gpu_that_is_not_shared_has_one_user(start: Any, make_gpu: Any, make_claim: Any, make_pod: Any) -> None:
    """What an API server without DRAConsumableCapacity leaves of a slice."""
    world = start(consumable_capacity=False, allocator=None)
    world.slice(world.node("n1"), make_gpu("gpu-a", allocator="scheduler"))
    user(world, make_pod, make_claim("c", "1Gi"))
    assert set(results(world, "c")[0]) == {"request", "driver", "pool", "device"}
    world.apply(make_claim("other", "1Gi"), make_pod("p", claim="other"))
    assert world.unscheduled("p", "0/1") == FULL
