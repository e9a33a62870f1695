"""A second DRA driver on the node, of the test's own: it prepares nothing, when and as often as the test says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Final

import grpc

from fracgpu.proto.dra.v1 import api_pb2, api_pb2_grpc
from fracgpu.proto.pluginregistration.v1 import api_pb2 as registration_pb2
from fracgpu.proto.pluginregistration.v1 import api_pb2_grpc as registration_grpc
from tests.cluster.cluster import Cluster
from tests.cluster.machine.layout import KUBELET_ROOT

OTHER_DRIVER: Final = "other.example.com"
_CLASSES: Final = "/apis/resource.k8s.io/v1/deviceclasses"
_SLICES: Final = "/apis/resource.k8s.io/v1/resourceslices"


class OtherDriver(registration_grpc.RegistrationServicer, api_pb2_grpc.DRAPluginServicer):
    """Answers a Prepare with what `refusal` returns: a text, or nothing for success."""

    def __init__(self, refusal: Callable[[], str]) -> None:
        """Keep what decides about each Prepare."""
        self._refusal = refusal
        self._endpoint = KUBELET_ROOT / "plugins" / OTHER_DRIVER / "dra.sock"

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Be registered with the kubelet."""
        registrar = KUBELET_ROOT / "plugins_registry" / f"{OTHER_DRIVER}-reg.sock"
        self._endpoint.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            for path in (self._endpoint, registrar):
                server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
                api_pb2_grpc.add_DRAPluginServicer_to_server(self, server)
                registration_grpc.add_RegistrationServicer_to_server(self, server)
                server.add_insecure_port(f"unix://{path}")
                server.start()
                stack.callback(path.unlink, missing_ok=True)
                stack.callback(_stop, server)
            yield

    def GetInfo(self, _request: Any, _context: Any) -> registration_pb2.PluginInfo:  # noqa: N802
        """Tell the kubelet where the driver is."""
        return registration_pb2.PluginInfo(
            type="DRAPlugin", name=OTHER_DRIVER, endpoint=str(self._endpoint), supported_versions=["v1.DRAPlugin"]
        )

    def NotifyRegistrationStatus(self, _request: Any, _context: Any) -> registration_pb2.RegistrationStatusResponse:  # noqa: N802
        """Take note."""
        return registration_pb2.RegistrationStatusResponse()

    def NodePrepareResources(self, request: Any, _context: Any) -> api_pb2.NodePrepareResourcesResponse:  # noqa: N802
        """Answer as the test says; a success has no devices, which is allowed."""
        response = api_pb2.NodePrepareResourcesResponse()
        for claim in request.claims:
            response.claims[claim.uid].error = self._refusal()
        return response

    def NodeUnprepareResources(self, request: Any, _context: Any) -> api_pb2.NodeUnprepareResourcesResponse:  # noqa: N802
        """Have nothing to take back."""
        response = api_pb2.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            response.claims[claim.uid].error = ""
        return response


def _stop(server: grpc.Server) -> None:
    server.stop(None).wait()


@contextlib.contextmanager
def published(cluster: Cluster) -> Iterator[None]:
    """Give the node one device of the other driver, and the cluster a class for it."""
    device_class = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": OTHER_DRIVER},
        "spec": {"selectors": [{"cel": {"expression": f"device.driver == '{OTHER_DRIVER}'"}}]},
    }
    node = cluster.node_name
    inventory = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "other-driver"},
        "spec": {
            "driver": OTHER_DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "thing"}],
        },
    }
    with contextlib.ExitStack() as stack:
        for path, body in ((_CLASSES, device_class), (_SLICES, inventory)):
            name = body["metadata"]["name"]  # type: ignore[index]
            cluster.api.create(path, body)
            stack.callback(cluster.api.delete, f"{path}/{name}")
        yield
