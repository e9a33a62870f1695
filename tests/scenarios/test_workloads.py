"""Claim templates in the workloads that people use: every pod has a claim of its own, which goes when the pod goes."""

from __future__ import annotations

from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.node.api import Json
from tests.scenarios.tenant import Tenant, claim, given, request, template

_LABELS = {"app": "worker"}


def _workload(tenant: Tenant, kind: str, replicas: int, **members: object) -> Json:
    pod = tenant.pod_spec(tenant.container("main", "gpu", env=[]), templates=["gpu"], restartPolicy="Always")
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": _LABELS},
        "template": {"metadata": {"labels": _LABELS}, "spec": pod},
    }
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "worker"}, "spec": spec | members}


def _wait_running(tenant: Tenant, count: int, version: str = "") -> dict[str, Json]:
    """Wait until exactly so many pods exist, all of this version and ready; return them by name."""

    def settled(pods: dict[str, Json]) -> dict[str, Json] | None:
        for pod in pods.values():
            conditions = pod.get("status", {}).get("conditions") or []
            ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
            if not ready or "deletionTimestamp" in pod["metadata"] or _version(pod) != version:
                return None
        return dict(pods) if len(pods) == count else None

    return tenant.cluster.wait_for(tenant.pods_path, settled, what=f"{count} ready pods of version {version!r}")


def _version(pod: Json) -> str:
    env = pod["spec"]["containers"][0].get("env") or []
    return next((str(entry["value"]) for entry in env if entry["name"] == "VERSION"), "")


def _new_version(workload: Json, version: str) -> Json:
    workload["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "VERSION", "value": version}]
    return workload


def _wait_claims(tenant: Tenant, pods: dict[str, Json]) -> None:
    """Wait until there is one claim for each of the pods and no other."""
    names = {tenant.cluster.claims_of(pod)[0]["metadata"]["name"] for pod in pods.values()}
    assert len(names) == len(pods)
    tenant.cluster.wait_for(
        tenant.claims_path, lambda found: True if found.keys() == names else None, what=f"claims {sorted(names)} alone"
    )


def test_a_deployment_rolls_and_leaves_no_claim_behind(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    deployment = _workload(tenant, "Deployment", 2)
    tenant.apply(template("gpu", request(memory="2Gi")), deployment)
    old = _wait_running(tenant, 2)
    _wait_claims(tenant, old)
    assert [list(tenant.view(name).values()) for name in old] == [[2048], [2048]]

    tenant.apply(_new_version(deployment, "2"))
    new = _wait_running(tenant, 2, "2")
    assert not old.keys() & new.keys()
    _wait_claims(tenant, new)
    assert [tenant.climb(name) for name in new] == [2048, 2048]


def test_a_stateful_set_keeps_names_and_renews_claims(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    sets = _workload(tenant, "StatefulSet", 2, serviceName="worker")
    tenant.apply(template("gpu", request(memory="2Gi")), sets)
    before = _wait_running(tenant, 2)
    assert before.keys() == {"worker-0", "worker-1"}
    _wait_claims(tenant, before)

    cluster.api.delete(f"{tenant.pods_path}/worker-0", {"gracePeriodSeconds": 1})

    def replaced(pods: dict[str, Json]) -> bool | None:
        pod = pods.get("worker-0")
        return True if pod and pod["metadata"]["uid"] != before["worker-0"]["metadata"]["uid"] else None

    cluster.wait_for(tenant.pods_path, replaced, what="another worker-0")
    after = _wait_running(tenant, 2)
    _wait_claims(tenant, after)
    assert after["worker-1"]["metadata"]["uid"] == before["worker-1"]["metadata"]["uid"]
    assert tenant.climb("worker-0") == 2048
    sets["spec"]["replicas"] = 1
    tenant.apply(sets)
    left = _wait_running(tenant, 1)
    assert left.keys() == {"worker-0"}
    _wait_claims(tenant, left)


def test_pods_of_a_job_are_limited_and_their_claims_go(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    climb = tenant.container("main", "gpu", command=("fracgpu-climb", "driver", "64"))
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "climb"},
        "spec": {
            "completions": 3,
            "parallelism": 2,
            "backoffLimit": 0,
            "template": {"spec": tenant.pod_spec(climb, templates=["gpu"])},
        },
    }
    tenant.apply(template("gpu", request(memory="1Gi")), job)

    def complete(jobs: dict[str, Json]) -> bool | None:
        conditions = jobs["climb"].get("status", {}).get("conditions") or []
        done = {one["type"] for one in conditions if one["status"] == "True"}
        assert "Failed" not in done, conditions
        return True if "Complete" in done else None

    cluster.wait_for(f"/apis/batch/v1/namespaces/{namespace}/jobs", complete, what="completion of the job")
    names = [pod["metadata"]["name"] for pod in tenant.pods()]
    assert [given(cluster.logs(name, namespace=namespace)) for name in names] == [1024] * 3
    cluster.wait_for(tenant.claims_path, lambda left: None if left else True, what="end of the job's claims")


def test_a_named_claim_stays_when_its_pods_go(cluster: ClusterUnderTest, namespace: str) -> None:
    tenant = Tenant(cluster, namespace)
    tenant.run(claim("c", request(memory="1Gi")), tenant.user("p", "c"))
    cluster.delete_pod("p", namespace)

    def free(claims: dict[str, Json]) -> bool | None:
        return True if "allocation" not in claims["c"].get("status", {}) else None

    cluster.wait_for(tenant.claims_path, free, what="deallocation of the claim")
    tenant.run(tenant.user("again", "c"))
    assert tenant.climb("again") == 1024
