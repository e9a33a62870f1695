"""A node under test: the API emulator, a plugin of the test's own that writes CDI files, and no GPU at all."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from fracgpu.native.libraries import NativeLibraries
from fracgpu.proto.dra.v1 import api_pb2, api_pb2_grpc
from fracgpu.proto.pluginregistration.v1 import api_pb2 as registration_pb2
from fracgpu.proto.pluginregistration.v1 import api_pb2_grpc as registration_grpc
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.lab.waiting import wait_for_collection
from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.cdi_registry import CdiRegistry
from fracgpu.sim.node.isolation import Isolation, standalone
from fracgpu.sim.node.node import Node, NodeOptions
from fracgpu.sim.node.runtime import ContainerRuntime
from fracgpu.sim.node.timings import Timings

DRIVER = "test.example.com"
NODE = "node-1"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
PODS = "/api/v1/namespaces/default/pods"
TIMINGS = Timings(
    sync=0.05,
    sync_retry=0.05,
    create_retry=(0.05, 0.1),
    restart_backoff=(0.05, 0.1),
    registration_retry=(0.05, 0.1),
    wipe_retry=(0.05, 0.1),
    reconcile=0.1,
    slice_wipe_grace=0.1,
)


class TestPlugin(registration_grpc.RegistrationServicer, api_pb2_grpc.DRAPluginServicer):
    """Registers like a real plugin; its CDI devices set ``CLAIM_<request>=<claim name>``. Records every call."""

    __test__ = False

    def __init__(self, base: Path, cdi_dir: Path, **info: Any) -> None:
        self.base = base
        self.cdi_dir = cdi_dir
        self.info = {"type": "DRAPlugin", "name": DRIVER, "supported_versions": ["v1.DRAPlugin"]} | info
        self.calls: list[tuple[str, str]] = []
        self.error = ""
        self.requests: tuple[str, ...] = ("gpu",)
        self.status: registration_pb2.RegistrationStatus | None = None
        self.notified = threading.Event()
        self.changed = threading.Condition()
        self._servers: list[grpc.Server] = []

    def start(self) -> "TestPlugin":
        endpoint = self.base / "plugin" / "dra.sock"
        registration = self.base / "registry" / f"{DRIVER}-reg.sock"
        for path in (endpoint, registration):
            path.parent.mkdir(exist_ok=True)
            server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
            if path is endpoint:
                api_pb2_grpc.add_DRAPluginServicer_to_server(self, server)
            else:
                registration_grpc.add_RegistrationServicer_to_server(self, server)
            server.add_insecure_port(f"unix://{path}")
            server.start()
            self._servers.append(server)
        self.info.setdefault("endpoint", str(endpoint))
        return self

    def stop(self) -> None:
        (self.base / "registry" / f"{DRIVER}-reg.sock").unlink(missing_ok=True)
        for server in self._servers:
            server.stop(None).wait()
        self._servers.clear()

    def _record(self, call: str, name: str) -> None:
        with self.changed:
            self.calls.append((call, name))
            self.changed.notify_all()

    def GetInfo(self, _request: Any, _context: Any) -> registration_pb2.PluginInfo:  # noqa: N802
        return registration_pb2.PluginInfo(**self.info)

    def NotifyRegistrationStatus(self, request: Any, _context: Any) -> registration_pb2.RegistrationStatusResponse:  # noqa: N802
        self.status = request
        self.notified.set()
        return registration_pb2.RegistrationStatusResponse()

    def NodePrepareResources(self, request: Any, _context: Any) -> api_pb2.NodePrepareResourcesResponse:  # noqa: N802
        response = api_pb2.NodePrepareResourcesResponse()
        for claim in request.claims:
            self._record("prepare", claim.name)
            if self.error:
                response.claims[claim.uid].error = self.error
                continue
            devices = [
                {"name": f"{claim.uid}-{name}", "containerEdits": {"env": [f"CLAIM_{name}={claim.name}"]}}
                for name in self.requests
            ]
            document = {"cdiVersion": "0.5.0", "kind": "test.example.com/claim", "devices": devices}
            self.cdi_dir.mkdir(exist_ok=True)
            (self.cdi_dir / f"{claim.uid}.json").write_text(json.dumps(document))
            for name in self.requests:
                response.claims[claim.uid].devices.add(
                    request_names=[name],
                    pool_name=NODE,
                    device_name="gpu-0",
                    cdi_device_ids=[f"test.example.com/claim={claim.uid}-{name}"],
                )
        return response

    def NodeUnprepareResources(self, request: Any, _context: Any) -> api_pb2.NodeUnprepareResourcesResponse:  # noqa: N802
        response = api_pb2.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            response.claims[claim.uid].error = self.error
            if not self.error:
                (self.cdi_dir / f"{claim.uid}.json").unlink(missing_ok=True)
            self._record("unprepare", claim.name)
        return response


@dataclass
class Bench:
    """What a test of the node works with."""

    base: Path
    api: KubeApi
    plugin: TestPlugin
    isolation: Isolation
    url: str
    nodes: list[Node] = field(default_factory=list)

    @property
    def cdi_dir(self) -> Path:
        return self.base / "cdi"

    def make_node(self, **changes: Any) -> Node:
        runtime = ContainerRuntime(
            cdi=CdiRegistry([self.cdi_dir]),
            isolation=self.isolation,
            libraries=NativeLibraries(self.base),
            machine=self.base / "machine",
            work_dir=self.base / "pods",
            image_env={"PATH": "/usr/bin:/bin"},
        )
        options: dict[str, Any] = {
            "name": NODE,
            "api_url": self.url,
            "registry_dir": self.base / "registry",
            "state_dir": self.base / "kubelet",
            "runtime": runtime,
            "timings": TIMINGS,
        }
        return Node(NodeOptions(**options | changes))

    def claim(self, name: str, *, requests: tuple[str, ...] = ("gpu",), allocated: bool = True) -> Json:
        """Create a claim, allocated to this node as a controller would."""
        asked = [{"name": one, "exactly": {"deviceClassName": "any"}} for one in requests]
        body = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"devices": {"requests": asked}},
        }
        claim = self.api.create(CLAIMS, body)
        if allocated:
            results = [{"request": one, "driver": DRIVER, "pool": NODE, "device": "gpu-0"} for one in requests]
            claim["status"] = {"allocation": {"devices": {"results": results}}}
            claim = self.api.replace(f"{CLAIMS}/{name}/status", claim)
        return claim

    def pod(
        self,
        name: str,
        script: str = "sleep 1000",
        *,
        claims: tuple[str, ...] = (),
        reserve: bool = True,
        containers: list[Json] | None = None,
        **spec: Any,
    ) -> Json:
        """Create a pod, reserve its claims, then bind it to this node, in that order, as the scheduler does."""
        entries = [{"name": claim} for claim in claims]
        default = [{"name": "main", "image": "none", "command": ["sh", "-c", script], "resources": {"claims": entries}}]
        pod_spec = {
            "restartPolicy": "Never",
            "containers": containers or default,
            "resourceClaims": [{"name": claim, "resourceClaimName": claim} for claim in claims],
            "terminationGracePeriodSeconds": 5,
            **spec,
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": pod_spec}
        pod = self.api.create(PODS, body)
        if reserve:
            for claim in claims:
                self.reserve(claim, pod)
        self.api.create(f"{PODS}/{name}/binding", {"apiVersion": "v1", "kind": "Binding", "target": {"name": NODE}})
        bound: Json = self.api.get(f"{PODS}/{name}")
        return bound

    def reserve(self, claim_name: str, pod: Json) -> None:
        claim = self.api.get(f"{CLAIMS}/{claim_name}")
        consumer = {"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        claim["status"].setdefault("reservedFor", []).append(consumer)
        self.api.replace(f"{CLAIMS}/{claim_name}/status", claim)

    def wait_pod(self, name: str, until: Callable[[Json], Any], what: str = "pod") -> Json:
        def seen(pods: dict[str, Json]) -> Json | None:
            return pods[name] if name in pods and until(pods[name]) else None

        return wait_for_collection(self.api, PODS, seen, deadline_s=20, what=f"{what} {name}")

    def wait_phase(self, name: str, phase: str) -> Json:
        return self.wait_pod(name, lambda pod: pod["status"].get("phase") == phase, phase)

    def wait_gone(self, name: str) -> None:
        wait_for_collection(self.api, PODS, lambda pods: name not in pods or None, deadline_s=20, what=f"end of {name}")

    def wait_event(self, reason: str, pod: str = "p") -> Json:
        def seen(events: dict[str, Json]) -> Json | None:
            own = [event for event in events.values() if event["involvedObject"]["name"] == pod]
            return next((event for event in own if event["reason"] == reason), None)

        return wait_for_collection(
            self.api, "/api/v1/namespaces/default/events", seen, deadline_s=20, what=f"event {reason}"
        )

    def delete(self, name: str, **options: Any) -> None:
        self.api.delete(f"{PODS}/{name}", {"apiVersion": "v1", "kind": "DeleteOptions", **options})


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """API server and a stopped plugin; no node yet."""
    base = tmp_path_factory.mktemp("n")
    with ApiServer() as server:
        plugin = TestPlugin(base, base / "cdi")
        yield Bench(base, KubeApi(server.url), plugin, standalone("test"), server.url)
        plugin.stop()


@pytest.fixture
def running(bench: Bench) -> Iterator[Bench]:
    """API server, registered plugin and a node."""
    bench.plugin.start()
    with bench.make_node() as node:
        bench.nodes.append(node)
        assert node.wait_for_driver(DRIVER, 30)
        yield bench
