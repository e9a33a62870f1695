"""Objects that the tests of sharp edges create: claims and pods that say nothing but what a test is about."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, Final

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.sim.node.api import Json
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import WORKLOAD, document

SELECT_T4: Final = "device.attributes['gpu.fracgpu.dev'].productName == 'NVIDIA T4 (model)'"
T4_MIB: Final = 15360


def request(
    name: str = "gpu", *, device_class: str = DRIVER_NAME, selector: str = "", capacity: Json | None = None, **more: Any
) -> Json:
    """Return a request for devices of one class; `more` are further members of `exactly`."""
    exactly: Json = {"deviceClassName": device_class, **more}
    if capacity is not None:
        exactly["capacity"] = {"requests": capacity}
    if selector:
        exactly["selectors"] = [{"cel": {"expression": selector}}]
    return {"name": name, "exactly": exactly}


def claim(name: str, *requests: Json) -> Json:
    """Return a ResourceClaim."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": list(requests)}},
    }


def pod(name: str, *claims: str, command: tuple[str, ...] = ("sleep", "infinity"), **more: Any) -> Json:
    """Return a pod with one container that uses existing claims; `more` are further members of its spec."""
    resources = {"claims": [{"name": one} for one in claims]}
    container = {"name": "main", "image": WORKLOAD, "command": list(command), "resources": resources}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "resourceClaims": [{"name": one, "resourceClaimName": one} for one in claims],
        "containers": [container],
        **more,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def apply(cluster: Cluster, namespace: str, *objects: Json) -> None:
    """Create objects as a user does."""
    cluster.apply(document(*objects), namespace)


@contextlib.contextmanager
def existing(cluster: Cluster, path: str, body: Json) -> Iterator[None]:
    """Create an object that belongs to no namespace, and remove it."""
    cluster.api.create(path, body)
    try:
        yield
    finally:
        cluster.api.delete(f"{path}/{body['metadata']['name']}")


@contextlib.contextmanager
def copied_class(cluster: Cluster, name: str, **more: Any) -> Iterator[None]:
    """Make a class of an administrator's own for our devices; `more` are further members of its spec."""
    path = "/apis/resource.k8s.io/v1/deviceclasses"
    shipped = cluster.api.get(f"{path}/{DRIVER_NAME}")["spec"]
    body = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name},
        "spec": {**shipped, **more},
    }
    with existing(cluster, path, body):
        yield


def view(cluster: Cluster, name: str, namespace: str) -> dict[str, Any]:
    """Return what a program in the pod sees of its GPUs."""
    seen: dict[str, Any] = json.loads(cluster.output_of(name, ["fracgpu-view"], namespace=namespace))
    return seen


def totals(seen: dict[str, Any]) -> list[int]:
    """Return the memory of each GPU in bytes, after checking that all interfaces agree on it."""
    cuda = [(device["total_bytes"], device["device_total_bytes"]) for device in seen["cuda"]["devices"]]
    nvml = [(device["v1"]["total_bytes"], device["v2"]["total_bytes"]) for device in seen["nvml"]["devices"]]
    numbers = [number for pair in cuda for number in pair]
    assert sorted(numbers) == sorted(number for pair in nvml for number in pair)
    assert all(first == second for first, second in (*cuda, *nvml))
    return [first for first, _ in cuda]


def wait_event(cluster: Cluster, namespace: str, name: str, text: str) -> None:
    """Wait until an event of the object `name` has `text` in its message."""
    cluster.wait_for(
        f"/api/v1/namespaces/{namespace}/events",
        lambda events: (
            True
            if any(one["involvedObject"]["name"] == name and text in one["message"] for one in events.values())
            else None
        ),
        what=f"event of {name} with {text!r}",
    )
