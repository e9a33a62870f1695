"""An emulated API with a control plane on it, nodes and GPUs made by hand, and waiting without sleeping."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fracgpu.sim import manifests
from fracgpu.sim.api import resources as r
from fracgpu.sim.api.rawjson import plain
from fracgpu.sim.api.resources import Resource
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.control import ControlPlane
from fracgpu.sim.control.client import ApiClient
from fracgpu.sim.transport import ApiRefusedError, ApiTransport

Json = dict[str, Any]
READY = {"type": "Ready", "status": "True"}


class World:
    """The cluster under test. Answers are plain trees."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.client = ApiClient(server.url)
        self.kubelet = ApiTransport(server.url)
        self._changed = threading.Event()
        server.registry.store.hub.subscribe(self._changed.set)

    def until(self, holds: Callable[[], Any]) -> Any:
        """Return the first true value of `holds`, asked again after every change of the store."""
        while True:
            self._changed.clear()
            value = holds()
            if value:
                return value
            assert self._changed.wait(30), "nothing changes any more"

    def quiet(self) -> int:
        """Return the store's revision once nothing has changed for a while."""
        while True:
            self._changed.clear()
            if not self._changed.wait(0.7):
                return self.server.registry.store.revision

    def apply(self, *objects: Json | str) -> list[Json]:
        stored: list[Json] = []
        for item in objects:
            stored += manifests.apply(self.client, manifests.load(item) if isinstance(item, str) else [item])
        return [plain(item) for item in stored]

    def get(self, resource: Resource, name: str, namespace: str = "default") -> Json | None:
        found = self.server.registry.store.get(resource, namespace if resource.namespaced else "", name)
        return plain(found) if found else None

    def all(self, resource: Resource) -> list[Json]:
        return [plain(item) for item in self.server.registry.store.scan(resource)]

    def change(self, resource: Resource, name: str, edit: Callable[[Json], None], *, subresource: str = "") -> None:
        """Read, edit and write an object, again when somebody else wrote in between."""
        while True:
            obj = self.client.get(resource, "default" if resource.namespaced else "", name)
            edit(obj)
            try:
                self.client.update(resource, obj, subresource=subresource)
            except ApiRefusedError as error:
                if error.code != 409:
                    raise
            else:
                return

    def node(self, name: str, *, ready: bool = True, **spec: Any) -> Json:
        """Create a node as a kubelet would."""
        conditions = [READY | {"status": "True" if ready else "False"}]
        body = {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": spec}
        return self.client.create(r.NODES, "", body | {"status": {"conditions": conditions}})

    def set_ready(self, name: str, ready: bool) -> None:
        def change(node: Json) -> None:
            node["status"]["conditions"] = [READY | {"status": "True" if ready else "False"}]

        self.change(r.NODES, name, change, subresource="status")

    def slice(self, node: Json, *devices: Json) -> None:
        """Publish a node's GPUs as the plugin does."""
        name, uid = node["metadata"]["name"], node["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid, "controller": True}
        pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": "gpu.fracgpu.dev", "nodeName": name, "pool": pool, "devices": list(devices)}
        body = {"metadata": {"name": f"slice-{name}", "ownerReferences": [owner]}, "spec": spec}
        self.client.create(r.RESOURCE_SLICES, "", body)

    def phase(self, pod_name: str, phase: str) -> None:
        """Report a pod's phase as a kubelet does."""
        ready = {"type": "Ready", "status": "True" if phase == "Running" else "False"}

        def change(pod: Json) -> None:
            kept = [item for item in pod["status"].get("conditions", []) if item["type"] != "Ready"]
            pod["status"] |= {"phase": phase, "conditions": [*kept, ready]}

        self.change(r.PODS, pod_name, change, subresource="status")

    def kill(self, pod_name: str) -> None:
        """Delete a pod for good, as a kubelet does when its containers are gone."""
        path = f"/api/v1/namespaces/default/pods/{pod_name}?gracePeriodSeconds=0"
        self.kubelet.request("DELETE", path)

    def bound(self, pod_name: str) -> str:
        """Wait until a pod is bound; returns the node."""
        return str(self.until(lambda: (self.get(r.PODS, pod_name) or {}).get("spec", {}).get("nodeName")))

    def refusal(self, pod_name: str, part: str) -> str:
        """Wait until a pod says that it cannot be scheduled, and in words that contain `part`; returns the message."""

        def message() -> str:
            pod = self.get(r.PODS, pod_name) or {}
            texts = [
                item["message"]
                for item in pod.get("status", {}).get("conditions", [])
                if item["type"] == "PodScheduled" and item["status"] == "False"
            ]
            return next((text for text in texts if part in text), "")

        return str(self.until(message))

    def claim_of(self, pod_name: str) -> Json:
        """Wait for the generated claim of a pod that has one."""

        def find() -> Json | None:
            pod = self.get(r.PODS, pod_name) or {}
            names = [item["resourceClaimName"] for item in pod.get("status", {}).get("resourceClaimStatuses", [])]
            return self.get(r.RESOURCE_CLAIMS, names[0]) if names else None

        return dict(self.until(find))

    def events(self, name: str, reason: str) -> list[Json]:
        return [
            item for item in self.all(r.EVENTS) if item["involvedObject"]["name"] == name and item["reason"] == reason
        ]


@pytest.fixture
def make_gpu() -> Callable[..., Json]:
    """Build a device of a slice; memory in GiB."""

    def build(
        name: str, memory: int = 40, *, physical: int | None = None, allocator: str = "controller", **more: Any
    ) -> Json:
        physical = physical or memory
        policy = {"default": f"{physical}Gi", "validRange": {"min": "0", "max": f"{physical}Gi", "step": "1Mi"}}
        return {
            "name": name,
            "allowMultipleAllocations": True,
            "attributes": {
                "uuid": {"string": f"GPU-{name}"},
                "allocator": {"string": allocator},
                "physicalMemoryMiB": {"int": physical * 1024},
                "numaNode": {"int": 0},
                "oversubscribed": {"bool": memory > physical},
            },
            "capacity": {
                "memory": {"value": f"{memory}Gi", "requestPolicy": policy},
                "cores": {"value": "100"},
                "slots": {"value": "10"},
            },
            **more,
        }

    return build


@pytest.fixture
def make_pod() -> Callable[..., Json]:
    """Build a pod; `template` or `claim` names where its claim `g` comes from."""

    def build(name: str, *, template: str = "", claim: str = "", **spec: Any) -> Json:
        container: Json = {"name": "c", "image": "x"}
        body: Json = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"containers": [container]},
        }
        if template or claim:
            source = {"resourceClaimTemplateName": template} if template else {"resourceClaimName": claim}
            body["spec"]["resourceClaims"] = [{"name": "g", **source}]
            container["resources"] = {"claims": [{"name": "g"}]}
        body["spec"] |= spec
        return body

    return build


@pytest.fixture
def make_claim() -> Callable[..., Json]:
    """Build a claim, or with `template=True` a template: one request, optional config and constraints."""

    def build(
        name: str,
        memory: str | None = None,
        cores: str | None = None,
        *,
        config: Json | None = None,
        template: bool = False,
        device_class: str = "gpu.fracgpu.dev",
        **exactly: Any,
    ) -> Json:
        requests = {key: value for key, value in (("memory", memory), ("cores", cores)) if value is not None}
        part: Json = {"deviceClassName": device_class, **exactly}
        if requests:
            part["capacity"] = {"requests": requests}
        devices: Json = {"requests": [{"name": "gpu", "exactly": part}]}
        if config is not None:
            parameters = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig", **config}
            devices["config"] = [{"opaque": {"driver": "gpu.fracgpu.dev", "parameters": parameters}}]
        kind = "ResourceClaimTemplate" if template else "ResourceClaim"
        spec: Json = {"spec": {"devices": devices}} if template else {"devices": devices}
        return {"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}

    return build


@pytest.fixture
def start() -> Iterator[Callable[..., World]]:
    """Start an API server with the shipped classes and a control plane; stopped at the end."""
    stops: list[Callable[[], None]] = []

    def build(*, consumable_capacity: bool = True, control_plane: bool = True) -> World:
        server = ApiServer(consumable_capacity=consumable_capacity)
        server.start()
        stops.append(server.stop)
        world = World(server)
        world.apply(manifests.shipped())
        if control_plane:
            plane = ControlPlane(server.url)
            plane.start()
            stops.append(plane.stop)
        return world

    yield build
    for stop in reversed(stops):
        stop()


@pytest.fixture
def world(start: Callable[..., World]) -> World:
    """A cluster with the gate on."""
    return start()


@pytest.fixture
def one_node(world: World, make_gpu: Callable[..., Json]) -> World:
    """The same with one node that has two GPUs of 40 GiB."""
    world.slice(world.node("n1"), make_gpu("gpu-a"), make_gpu("gpu-b"))
    return world
