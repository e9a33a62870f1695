"""The kubelet's health stream: complete lists, at once and after every look at the GPUs.

The kubelet reads an entry that it has not heard again within its timeout as unknown, counted from when it arrived, so a
list is sent when there was a look and only then: one that was sent by a timer would keep GPUs healthy at which nobody
looks any more. And when a stream of the driver ends, it forgets what all of its instances said: in a rolling update the
list of the instance that stays has to come again soon.

Kubelets of 1.36 ask for v1alpha1, later ones for v1; the messages are the same on the wire, so there is one
implementation, and the older version is a translation of bytes. A watcher holds a thread of the server for as long as
it watches: their number is limited, so that Prepare always finds a thread.

Source: KEP-4680 (resource health in pod status), k8s.io/kubelet/pkg/apis/dra-health; pkg/kubelet/cm/dra/healthinfo.go
of Kubernetes 1.36.3.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Final

import grpc

from fracgpu.driver.names import GpuUuid
from fracgpu.kubeletplugin.gpus.health import HealthMonitor
from fracgpu.kubeletplugin.gpus.health_state import Health, NodeHealth
from fracgpu.proto.drahealth.v1 import api_pb2, api_pb2_grpc
from fracgpu.proto.drahealth.v1alpha1 import api_pb2 as v1alpha1_pb2
from fracgpu.proto.drahealth.v1alpha1 import api_pb2_grpc as v1alpha1_grpc

HEALTH_VERSIONS: Final = ("v1alpha1.DRAResourceHealth", "v1.DRAResourceHealth")
# A kubelet opens one stream per plugin instance; beside it there may be people with grpcurl.
MOST_WATCHERS: Final = 8
TIMEOUT_SECONDS: Final = 30
# The kubelet cuts at as many bytes, be it in the middle of a character.
_MAX_MESSAGE_BYTES: Final = 1024


class HealthService(api_pb2_grpc.DRAResourceHealthServicer):
    """v1.DRAResourceHealth. `stop` ends all streams."""

    def __init__(self, monitor: HealthMonitor, *, pool: str, timeout_seconds: int = TIMEOUT_SECONDS) -> None:
        self._monitor = monitor
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._places = threading.Semaphore(MOST_WATCHERS)
        self._stopping = threading.Event()

    def NodeWatchResources(  # noqa: N802
        self, request: api_pb2.NodeWatchResourcesRequest, context: grpc.ServicerContext
    ) -> Iterator[api_pb2.NodeWatchResourcesResponse]:
        """Stream the health of all GPUs until the kubelet or the plugin goes away."""
        del request
        if not self._places.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MOST_WATCHERS} watchers; end one of them")
        ended = threading.Event()

        def end() -> None:
            ended.set()
            self._monitor.interrupt()

        try:
            # False when the call has ended already.
            if context.add_callback(end):
                yield from self._lists(lambda: ended.is_set() or self._stopping.is_set())
        finally:
            self._places.release()

    def stop(self) -> None:
        """End all streams, those of the future included."""
        self._stopping.set()
        self._monitor.interrupt()

    def _lists(self, ended: Callable[[], bool]) -> Iterator[api_pb2.NodeWatchResourcesResponse]:
        while not ended():
            health, looks = self._monitor.latest()
            # Before the first look an empty list would say that there are no GPUs.
            if health.looked_at:
                yield self._response(health)
            self._monitor.wait_for_look(looks, unless=ended)

    def _response(self, health: NodeHealth) -> api_pb2.NodeWatchResourcesResponse:
        return api_pb2.NodeWatchResourcesResponse(
            devices=[
                api_pb2.DeviceHealth(
                    device=api_pb2.DeviceIdentifier(pool_name=self._pool, device_name=gpu.device_name),
                    health=api_pb2.HealthStatus.ValueType(health.health(gpu.uuid)),
                    last_updated_time=int(health.looked_at),
                    health_check_timeout_seconds=self._timeout_seconds,
                    message=_cut(_message(health, gpu.uuid)),
                )
                for gpu in health.gpus
            ]
        )


class HealthServiceV1Alpha1(v1alpha1_grpc.DRAResourceHealthServicer):
    """v1alpha1.DRAResourceHealth: the same messages under another name."""

    def __init__(self, service: HealthService) -> None:
        self._service = service

    def NodeWatchResources(  # noqa: N802
        self, request: v1alpha1_pb2.NodeWatchResourcesRequest, context: grpc.ServicerContext
    ) -> Iterator[v1alpha1_pb2.NodeWatchResourcesResponse]:
        """Stream the health of all GPUs."""
        del request
        for response in self._service.NodeWatchResources(api_pb2.NodeWatchResourcesRequest(), context):
            yield v1alpha1_pb2.NodeWatchResourcesResponse.FromString(response.SerializeToString())


def add_health_services(service: HealthService, server: grpc.Server) -> None:
    """Serve both versions on `server`."""
    api_pb2_grpc.add_DRAResourceHealthServicer_to_server(service, server)
    v1alpha1_grpc.add_DRAResourceHealthServicer_to_server(HealthServiceV1Alpha1(service), server)


def _message(health: NodeHealth, uuid: GpuUuid) -> str:
    match health.health(uuid):
        case Health.HEALTHY:
            return ""
        case Health.UNHEALTHY:
            return f"GPU {uuid} does not answer; look for Xid errors in the kernel log, it needs a reset or a reboot"
        case Health.UNKNOWN:
            return f"GPU {uuid}: nothing is known: {health.silence}"


def _cut(text: str) -> str:
    return text.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore")
