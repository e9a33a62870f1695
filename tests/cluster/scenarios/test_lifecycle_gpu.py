"""A GPU falls off the bus under a pod, and comes back: the slice, the pod's status and the claim say so."""

from __future__ import annotations

from collections.abc import Callable

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.native.fake_gpu import set_lost
from fracgpu.sim.lab.lab import RESOURCE_API
from fracgpu.sim.node.api import Json
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import pods_of
from tests.cluster.worker import Worker


def _wait_device(cluster: Cluster, name: str, holds: Callable[[Json], bool]) -> Json:
    def seen(slices: dict[str, Json]) -> Json | None:
        ours = [item for item in slices.values() if item["spec"]["driver"] == DRIVER_NAME]
        devices = [device for item in ours for device in item["spec"]["devices"] if device["name"] == name]
        return next(filter(holds, devices), None)

    return cluster.wait_for(f"{RESOURCE_API}/resourceslices", seen, what=f"state of {name} in the slice")


def _wait_health(cluster: Cluster, worker: Worker, health: str) -> Json:
    """Wait for what 1.36 shows of a container's devices (ResourceHealthStatus)."""

    def shown(pods: dict[str, Json]) -> Json | None:
        (container,) = pods[worker.name]["status"]["containerStatuses"]
        entries: list[Json] = container.get("allocatedResourcesStatus") or []
        found = [one for entry in entries for one in entry["resources"]]
        return entries[0] if [one["health"] for one in found] == [health] else None

    return cluster.wait_for(pods_of(worker.namespace), shown, what=f"health {health} of {worker.name}")


def _wait_condition(cluster: Cluster, worker: Worker, kind: str, status: str) -> Json:
    def shown(claims: dict[str, Json]) -> Json | None:
        devices = claims[worker.name]["status"].get("devices") or []
        conditions = [one for device in devices for one in device["conditions"]]
        return next((one for one in conditions if (one["type"], one["status"]) == (kind, status)), None)

    path = f"{RESOURCE_API}/namespaces/{worker.namespace}/resourceclaims"
    return cluster.wait_for(path, shown, what=f"condition {kind} {status}")


def test_a_lost_gpu_is_tainted_shown_on_pod_and_claim_and_comes_back(cluster: Cluster, namespace: str) -> None:
    worker = Worker.start(cluster, namespace, "one")
    (result,) = worker.claim()["status"]["allocation"]["devices"]["results"]
    device = result["device"]
    (gpu,) = [one for one in cluster.options.gpus if one.uuid.lower().startswith(device)]
    entry = _wait_health(cluster, worker, "Healthy")
    assert entry["name"].startswith("claim:gpu")
    _wait_condition(cluster, worker, "Enforced", "True")

    set_lost(cluster.layout.gpus, gpu.uuid, lost=True)
    try:
        tainted = _wait_device(cluster, device, lambda one: bool(one.get("taints")))
        assert (tainted["taints"][0]["key"], tainted["taints"][0]["effect"]) == (
            f"{DRIVER_NAME}/unhealthy",
            "NoSchedule",
        )
        _wait_health(cluster, worker, "Unhealthy")
        condition = _wait_condition(cluster, worker, "Enforced", "Unknown")
        assert condition["reason"] == "DriverSilent"
        # Others keep their verdicts, and the pod keeps running: it is for its owner to judge.
        worker.more()
    finally:
        set_lost(cluster.layout.gpus, gpu.uuid, lost=False)
    _wait_device(cluster, device, lambda one: not one.get("taints"))
    _wait_health(cluster, worker, "Healthy")
    _wait_condition(cluster, worker, "Enforced", "True")
    worker.more()
