"""Who shares a claim shares its limit: containers, pods, requests and claims in every combination."""

from __future__ import annotations

import json

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.node.api import Json
from tests.scenarios.tenant import STEP_MIB, Tenant, claim, request

SAME_GPU = {"matchAttribute": f"{DRIVER_NAME}/uuid"}
OTHER_GPU = {"distinctAttribute": f"{DRIVER_NAME}/uuid"}


def binpack() -> Json:
    """Return the configuration that puts shares on one GPU where they fit; kube-scheduler does that anyway."""
    parameters = {
        "apiVersion": "gpu.fracgpu.dev/v1alpha1",
        "kind": "FractionConfig",
        "placement": {"gpu": "Binpack"},
    }
    return {"opaque": {"driver": DRIVER_NAME, "parameters": parameters}}


def test_one_claim_in_two_containers_is_one_limit(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    pod = tenant.pod("p", tenant.container("first", "c"), tenant.container("second", "c"))
    tenant.run(claim("c", request(memory="1Gi")), pod)

    assert tenant.view("p", "first") == tenant.view("p", "second")
    assert list(tenant.view("p", "first").values()) == [1024]
    with tenant.climbing(("p", "first"), ("p", "second")) as (first, second):
        assert first + second == 1024
        assert tenant.climb("p", "first") == 0
    assert tenant.climb("p", "second") == 1024


def test_one_claim_in_two_pods_is_one_limit_and_outlives_the_first(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    tenant.run(claim("c", request(memory="1Gi")), tenant.user("first", "c"), tenant.user("second", "c"))

    with tenant.climbing(("first", None), ("second", None)) as (first, second):
        assert first + second == 1024
    tenant.hold("first", 700)
    assert tenant.climb("second") == 1024 - 700 - (1024 - 700) % STEP_MIB
    cluster.delete_pod("first", namespace)
    assert tenant.climb("second") == 1024


def test_a_process_that_is_killed_gives_back_what_it_held(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    tenant.run(claim("c", request(memory="1Gi")), tenant.user("p", "c"))

    holder = tenant.hold("p", 960)
    assert tenant.climb("p") == STEP_MIB
    holder.kill()
    holder.wait()
    assert tenant.climb("p") == 1024


def test_each_container_has_only_the_request_that_it_names(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    apart = claim("c", request("one", "1Gi"), request("two", "2Gi"), constraints=[OTHER_GPU])
    containers = [tenant.container(name, use) for name, use in (("a", "c/one"), ("b", "c/two"), ("both", "c"))]
    tenant.run(apart, tenant.pod("p", *containers))

    a, b = tenant.view("p", "a"), tenant.view("p", "b")
    assert (list(a.values()), list(b.values())) == ([1024], [2048])
    assert a.keys() != b.keys()
    assert tenant.view("p", "both") == a | b
    assert (tenant.climb("p", "a"), tenant.climb("p", "b")) == (1024, 2048)


def test_requests_of_one_gpu_stay_apart_in_their_containers(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    together = claim("c", request("one", "1Gi"), request("two", "2Gi"), constraints=[SAME_GPU])
    containers = [tenant.container(name, use) for name, use in (("a", "c/one"), ("b", "c/two"), ("both", "c"))]
    tenant.run(together, tenant.pod("p", *containers))

    a, b = tenant.view("p", "a"), tenant.view("p", "b")
    assert a.keys() == b.keys()
    assert (list(a.values()), list(b.values())) == ([1024], [2048])
    assert list(tenant.view("p", "both").values()) == [3072]
    assert (tenant.climb("p", "a"), tenant.climb("p", "b"), tenant.climb("p", "both")) == (1024, 2048, 3072)


def test_two_claims_of_one_gpu_add_up(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    small = claim("small", request(memory="1Gi"), config=[binpack()])
    large = claim("large", request(memory="2Gi"), config=[binpack()])
    tenant.run(small, large, tenant.user("p", "small", "large"))

    (one,), (two,) = tenant.results("small"), tenant.results("large")
    assert one["device"] == two["device"]
    assert list(tenant.view("p").values()) == [3072]
    assert tenant.climb("p") == 3072


def test_a_container_without_the_claim_sees_no_gpu(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    tenant.run(
        claim("c", request(memory="1Gi")), tenant.pod("p", tenant.container("with", "c"), tenant.container("bare"))
    )

    assert list(tenant.view("p", "with").values()) == [1024]
    # No library, or one that finds no device: the program says which, and lists nothing.
    seen = json.loads(cluster.execute("p", ["fracgpu-view"], container="bare", namespace=namespace).stdout)
    assert [seen[library].get("devices", []) for library in ("cuda", "nvml")] == [[], []]
