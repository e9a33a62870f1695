"""An emulated API with a control plane on it, nodes and GPUs made by hand, and waiting without sleeping.

The control plane is the stand-ins, which is what is tested here, and fracgpu's own controller in threads of this
process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fracgpu.controller.options import ControllerOptions
from fracgpu.controller.service import ControllerService
from fracgpu.driver.amounts import Allocator
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

    def __init__(self, server: ApiServer, kubeconfig: Path) -> None:
        self.server = server
        self._kubeconfig = server.write_kubeconfig(kubeconfig)
        self.client = ApiClient(server.url)
        self.kubelet = ApiTransport(server.url)
        self._changed = threading.Event()
        server.registry.store.hub.subscribe(self._changed.set)

    @contextmanager
    def controlled(self, allocator: Allocator | None = "controller") -> Iterator[None]:
        """Run the stand-ins, and fracgpu's controller unless `allocator` is None."""
        with ExitStack() as running:
            running.enter_context(ControlPlane(self.server.url))
            if allocator is not None:
                # Held for longer than any test: renewing it is a change, and tests wait for the end of all changes.
                options = ControllerOptions(
                    allocator=allocator,
                    kubeconfig=self._kubeconfig,
                    lease_seconds=3600,
                    renew_seconds=3000,
                    retry_seconds=2000,
                )
                failures: list[str] = []
                controller = ControllerService(options, on_failure=lambda: failures.append("a part has ended"))
                running.callback(controller.stop)
                controller.start()
                assert controller.leadership.wait(30), "the controller does not lead"
                yield
                assert failures == []
            else:
                yield

    def until(self, holds: Callable[[], Any]) -> Any:
        """Return the first true value of `holds`, asked again after every change of the store, for a minute at most."""
        # A controller that leads renews its Lease: something changes always.
        end = time.monotonic() + 60
        while True:
            self._changed.clear()
            value = holds()
            if value:
                return value
            assert self._changed.wait(30), "nothing changes any more"
            assert time.monotonic() < end, "it does not happen"

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
        room = {"cpu": "4", "memory": "8Gi", "pods": "110"}
        return self.client.create(r.NODES, "", body | {"status": {"conditions": conditions, "allocatable": room}})

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
        """Wait until fracgpu's controller says on a pod why it has no GPU, in words that contain `part`."""
        return self._said(lambda: self.events(pod_name, "ClaimUnschedulable"), pod_name, part)

    def unscheduled(self, pod_name: str, part: str) -> str:
        """Wait until kube-scheduler says on a pod why it has no node, in words that contain `part`."""

        def conditions() -> list[Json]:
            found = (self.get(r.PODS, pod_name) or {}).get("status", {}).get("conditions", [])
            return [item for item in found if (item["type"], item["status"]) == ("PodScheduled", "False")]

        return self._said(conditions, pod_name, part)

    def _said(self, sayings: Callable[[], list[Json]], pod_name: str, part: str) -> str:
        texts: list[str] = []

        def message() -> str:
            texts[:] = [item["message"] for item in sayings()]
            return next((text for text in texts if part in text), "")

        try:
            return str(self.until(message))
        except AssertionError as error:
            error.add_note(f"what pod {pod_name} says: {texts}")
            raise

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
def start(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Start an API server with the shipped classes and a control plane; stopped at the end."""
    with ExitStack() as running:

        def build(
            *,
            consumable_capacity: bool = True,
            control_plane: bool = True,
            allocator: Allocator | None = "controller",
        ) -> World:
            server = running.enter_context(ApiServer(consumable_capacity=consumable_capacity))
            world = World(server, tmp_path / "kubeconfig")
            world.apply(manifests.shipped(), manifests.shipped("namespace.yaml"))
            if control_plane:
                running.enter_context(world.controlled(allocator))
            return world

        yield build


@pytest.fixture
def world(start: Callable[..., World]) -> World:
    """A cluster with the gate on."""
    return start()


@pytest.fixture
def one_node(world: World, make_gpu: Callable[..., Json]) -> World:
    """The same with one node that has two GPUs of 40 GiB."""
    world.slice(world.node("n1"), make_gpu("gpu-a"), make_gpu("gpu-b"))
    return world
