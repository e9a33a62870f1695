"""Which GPUs a claim gets: how many, which ones together, which ones first, and that one can have a whole one."""

from __future__ import annotations

import pytest

from fracgpu.driver.names import ATTR_PRODUCT_NAME, CLASS_WHOLE, DRIVER_NAME
from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.node.api import Json
from tests.scenarios.tenant import Tenant, claim, exactly, request

L40S_MIB, T4_MIB = 49140, 15360
CONTEXT_MIB = 512


def products(cluster: ClusterUnderTest) -> dict[str, str]:
    """Return the product of each device."""
    devices = [device for item in cluster.slices(DRIVER_NAME) for device in item["spec"]["devices"]]
    return {device["name"]: device["attributes"][ATTR_PRODUCT_NAME]["string"] for device in devices}


def test_two_gpus_in_one_request(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    apart = [{"distinctAttribute": f"{DRIVER_NAME}/uuid"}]
    tenant.run(claim("c", request(memory="1Gi", count=2), constraints=apart), tenant.user("p", "c"))

    assert len({result["device"] for result in tenant.results("c")}) == 2
    assert sorted(tenant.view("p").values()) == [1024, 1024]
    assert tenant.climb("p") == 1024


def test_gpus_of_one_product(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    alike = [
        {"matchAttribute": f"{DRIVER_NAME}/{ATTR_PRODUCT_NAME}"},
        {"distinctAttribute": f"{DRIVER_NAME}/uuid"},
    ]
    tenant.run(claim("c", request("a", "1Gi"), request("b", "2Gi"), constraints=alike), tenant.user("p", "c"))

    kinds = products(cluster)
    assert {kinds[result["device"]] for result in tenant.results("c")} == {"NVIDIA L40S (model)"}
    assert sorted(tenant.view("p").values()) == [1024, 2048]


def test_a_prioritized_list_falls_back(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    options = [{"name": "large", **exactly("40Gi")}, {"name": "small", **exactly("12Gi")}]
    names = ("a", "b", "c")
    for name in names:
        tenant.run(claim(name, {"name": "gpu", "firstAvailable": options}), tenant.user(name, name))

    (first,), (second,), (third,) = (tenant.results(name) for name in names)
    assert [one["request"] for one in (first, second, third)] == ["gpu/large", "gpu/large", "gpu/small"]
    assert products(cluster)[third["device"]] == "NVIDIA T4 (model)"
    assert [list(tenant.view(name).values()) for name in names] == [[40960], [40960], [12288]]
    assert tenant.climb("c") == 12288


@pytest.mark.parametrize(
    "expression",
    [
        f"device.attributes['{DRIVER_NAME}'].{ATTR_PRODUCT_NAME}.startsWith('NVIDIA T4')",
        f"device.attributes['{DRIVER_NAME}'].{ATTR_PRODUCT_NAME} == 'NVIDIA T4 (model)'",
        f"device.capacity['{DRIVER_NAME}'].memory.compareTo(quantity('20Gi')) < 0",
    ],
    ids=["beginning of the name", "name", "memory"],
)
def test_a_selector(cluster: ClusterUnderTest, namespace: str, expression: str) -> None:
    tenant = Tenant(cluster, namespace)
    selectors = [{"cel": {"expression": expression}}]
    tenant.run(claim("c", request(memory="1Gi", selectors=selectors)), tenant.user("p", "c"))

    (result,) = tenant.results("c")
    assert products(cluster)[result["device"]] == "NVIDIA T4 (model)"
    assert list(tenant.view("p").values()) == [1024]


def test_whole_gpus_leave_nothing_beside_them(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    names = ("a", "b", "c")
    for name in names:
        whole = claim(name, request(deviceClassName=CLASS_WHOLE))
        tenant.run(whole, tenant.user(name, name))

    assert len({tenant.results(name)[0]["device"] for name in names}) == 3
    seen = {name: list(tenant.view(name).values()) for name in names}
    assert sorted(seen.values()) == [[T4_MIB], [L40S_MIB], [L40S_MIB]]
    tenant.apply(claim("little", request(memory="100Mi")), tenant.user("late", "little"))
    assert tenant.wait_unschedulable("late")
    t4 = next(name for name in names if seen[name] == [T4_MIB])
    assert T4_MIB - CONTEXT_MIB <= tenant.climb(t4) <= T4_MIB
    cluster.delete_pod(t4, namespace)
    cluster.wait_pod("late", namespace=namespace)
    assert list(tenant.view("late").values()) == [100]


def test_a_pod_that_does_not_fit_waits_until_another_goes(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    for name in ("a", "b"):
        tenant.run(claim(name, request(memory="40Gi")), tenant.user(name, name))
    tenant.apply(claim("late", request(memory="20Gi")), tenant.user("late", "late"))

    assert tenant.wait_unschedulable("late")
    assert [tenant.cluster.pod(name, namespace)["status"]["phase"] for name in ("a", "b")] == ["Running", "Running"]
    cluster.delete_pod("a", namespace)
    cluster.wait_pod("late", namespace=namespace)
    assert list(tenant.view("late").values()) == [20480]


def _admin(name: str) -> Json:
    nothing = {"memory": "0", "cores": "0", "slots": "0"}
    return claim(name, {"name": "gpu", "exactly": exactly(adminAccess=True, capacity={"requests": nothing})})


def test_admin_access_sees_the_card_and_takes_nothing(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    # All cards full, so that the administrator's look can only be one that is not counted.
    full = {"a": "49140Mi", "b": "49140Mi", "c": "15360Mi"}
    for name, memory in full.items():
        tenant.run(claim(name, request(memory=memory)), tenant.user(name, name))
    label = {"resource.kubernetes.io/admin-access": "true"}
    with cluster.namespace(f"{namespace[:40]}-admin", label) as place:
        admin = Tenant(cluster, place)
        admin.run(_admin("watch"), admin.user("admin", "watch"))

        (result,) = admin.results("watch")
        assert result["adminAccess"]
        watched = next(name for name in full if tenant.results(name)[0]["device"] == result["device"])
        assert admin.view("admin") == tenant.view(watched)
        assert list(admin.view("admin").values()) in ([L40S_MIB], [T4_MIB])
        # It is not counted: the card has all of its memory for the next tenant while the administrator still looks.
        cluster.delete_pod(watched, namespace)
        tenant.run(claim("again", request(memory=full[watched])), tenant.user("next", "again"))
        assert list(tenant.view("next").values()) == [int(full[watched].removesuffix("Mi"))]


def test_admin_access_does_not_limit(cluster: ClusterUnderTest, namespace: str) -> None:
    label = {"resource.kubernetes.io/admin-access": "true"}
    with cluster.namespace(f"{namespace[:40]}-admin", label) as place:
        admin = Tenant(cluster, place)
        admin.run(_admin("watch"), admin.user("admin", "watch"))
        (total,) = admin.view("admin").values()
        assert total - CONTEXT_MIB <= admin.climb("admin") <= total
