"""Containers that start in order, restart, or may do less than others: all of them have the limit of their claim."""

from __future__ import annotations

import json

import pytest

from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.node.api import Json
from tests.scenarios.tenant import Tenant, claim, given, request

CLIMB = ("fracgpu-climb", "driver", "64")
# Takes most of the slice and stays, as a sidecar with a model of its own would.
HOLD = ("fracgpu-hold", "driver", "576")


def test_an_init_container_uses_the_claim_first(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    first = tenant.container("first", "c", command=CLIMB)
    pod = tenant.pod("p", tenant.container("main", "c"), initContainers=[first])
    tenant.run(claim("c", request(memory="1Gi")), pod)

    # It had all of the slice, gave it back when it ended, and the main container has all of it now.
    assert given(cluster.logs("p", "first", namespace)) == 1024
    assert tenant.climb("p") == 1024
    status = cluster.pod("p", namespace)["status"]
    (ended,) = status["initContainerStatuses"]
    assert (ended["state"]["terminated"]["exitCode"], ended["ready"]) == (0, True)
    (condition,) = [one for one in status["conditions"] if one["type"] == "Initialized"]
    assert condition["status"] == "True"


def test_an_init_container_that_fails_ends_the_pod(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    first = tenant.container("first", "c", command=("sh", "-c", "exit 3"))
    tenant.apply(
        claim("c", request(memory="1Gi")), tenant.pod("p", tenant.container("main", "c"), initContainers=[first])
    )

    pod = cluster.wait_pod("p", "Failed", namespace)
    (main,) = pod["status"]["containerStatuses"]
    assert main["state"] == {"waiting": {"reason": "PodInitializing"}}
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 3


def test_a_sidecar_shares_the_claim_for_as_long_as_the_pod_lives(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    sidecar = tenant.container("side", "c", command=HOLD, restartPolicy="Always")
    pod = tenant.pod("p", tenant.container("main", "c"), initContainers=[sidecar])
    tenant.run(claim("c", request(memory="1Gi")), pod)

    cluster.wait_log("p", '"ready": true', "side", namespace)
    assert tenant.climb("p", "main") == 384
    assert list(tenant.view("p", "side").values()) == [1024]


def test_a_sidecar_does_not_keep_a_pod_alive(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    sidecar = tenant.container("side", "c", command=HOLD, restartPolicy="Always")
    # Waits for the sidecar's memory, so that what it is given afterwards is what the sidecar left.
    wait = "while [ $(fracgpu-climb driver 64 | tail -n 1 | grep -c 335544320) = 0 ]; do sleep 0.1; done"
    main = tenant.container("main", "c", command=("sh", "-c", f"{wait}; exec fracgpu-climb driver 64"))
    tenant.apply(claim("c", request(memory="1Gi")), tenant.pod("p", main, initContainers=[sidecar]))

    pod = cluster.wait_pod("p", "Succeeded", namespace)
    assert given(cluster.logs("p", "main", namespace)) == 384
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_a_container_that_is_restarted_keeps_its_limit(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    pod = tenant.pod("p", tenant.container("main", "c", command=CLIMB), restartPolicy="Always")
    tenant.apply(claim("c", request(memory="1Gi")), pod)

    def restarted(pods: dict[str, Json]) -> Json | None:
        statuses = pods["p"].get("status", {}).get("containerStatuses") or [{}]
        again = statuses[0].get("restartCount", 0) >= 1 and "terminated" in statuses[0].get("state", {})
        back_off = statuses[0].get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
        ended: Json | None = statuses[0] if again or (back_off and statuses[0].get("restartCount", 0) >= 1) else None
        return ended

    status = cluster.wait_for(tenant.pods_path, restarted, what="second end of the container")
    # The program ends well only when it was refused for want of memory.
    last = status["state"].get("terminated") or status["lastState"]["terminated"]
    assert last["exitCode"] == 0
    assert given(cluster.wait_log("p", '"refused"', namespace=namespace)) == 1024


def _whoami(tenant: Tenant, pod: str) -> tuple[int, str]:
    text = tenant.cluster.output_of(
        pod, ["sh", "-c", "id -u; grep CapEff /proc/self/status"], namespace=tenant.namespace
    )
    uid, capabilities = text.splitlines()
    return int(uid), capabilities.split()[1]


@pytest.mark.needs("security contexts")
def test_a_container_that_may_do_nothing_else(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    modest = {
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    tenant.run(
        claim("c", request(memory="1Gi")), tenant.pod("p", tenant.container("main", "c", securityContext=modest))
    )

    assert _whoami(tenant, "p") == (1000, "0000000000000000")
    assert cluster.execute("p", ["touch", "/file"], namespace=namespace).exit_code != 0
    assert list(tenant.view("p").values()) == [1024]
    with tenant.climbing(("p", None)) as (mib,):
        assert mib == 1024
    assert tenant.climb("p") == 1024


def _has_user_namespaces(cluster: ClusterUnderTest) -> bool:
    """Tell what the nodes say of their container runtimes: containerd asks runc, which has them from 1.2 on."""
    nodes: list[Json] = cluster.api.get("/api/v1/nodes")["items"]
    handlers = [handler for node in nodes for handler in node["status"].get("runtimeHandlers") or []]
    return any(handler.get("features", {}).get("userNamespaces") for handler in handlers)


@pytest.mark.needs("user namespaces for pods")
def test_a_pod_with_users_of_its_own(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    objects = (claim("c", request(memory="1Gi")), tenant.user("p", "c", hostUsers=False))
    if not _has_user_namespaces(cluster):
        # The pod must not run any other way, and be told why.
        tenant.apply(*objects)
        said = cluster.wait_for(
            f"/api/v1/namespaces/{namespace}/events",
            lambda events: next((one["message"] for one in events.values() if "hostUsers" in one["message"]), None),
            what="word that there are no user namespaces",
        )
        assert "runtime does not support user namespaces" in said
        return
    tenant.run(*objects)

    mapping = cluster.output_of("p", ["cat", "/proc/self/uid_map"], namespace=namespace).split()
    assert mapping[0] == "0"
    assert mapping[1] != "0"
    assert list(tenant.view("p").values()) == [1024]
    assert tenant.climb("p") == 1024


def test_the_output_of_a_climb_is_what_the_pod_logs(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    tenant.apply(claim("c", request(memory="512Mi")), tenant.pod("p", tenant.container("main", "c", command=CLIMB)))

    cluster.wait_pod("p", "Succeeded", namespace)
    lines = [json.loads(line) for line in cluster.logs("p", namespace=namespace).splitlines()]
    assert [line["allocated_bytes"] >> 20 for line in lines] == [64, 128, 192, 256, 320, 384, 448, 448]
