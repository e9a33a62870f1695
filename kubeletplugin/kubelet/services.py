"""The kubelet's DRA service, in both versions that kubelets speak.

A gRPC error fails every claim of the call, so there is none: whatever goes wrong with a claim is that claim's answer,
and its text goes into the pod's event. The two versions have the same messages on the wire but for a device's share,
which the older one skips as a field that it does not know. So there is one implementation, and the older version is a
translation of bytes.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeVar

import grpc
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracer, Tracer

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.log import FieldLogger, claim_logger
from fracgpu.driver.names import ClaimUid
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.deadline import Deadline
from fracgpu.kubeletplugin.prepare.outcome import PreparedClaim, ReleasedClaim
from fracgpu.kubeletplugin.prepare.plan import PreparedDevice
from fracgpu.kubeletplugin.telemetry.metrics import PluginMetrics, outcome_of
from fracgpu.kubeletplugin.tracing import Operation, claim_operation
from fracgpu.proto.dra.v1 import api_pb2, api_pb2_grpc
from fracgpu.proto.dra.v1beta1 import api_pb2 as v1beta1_pb2
from fracgpu.proto.dra.v1beta1 import api_pb2_grpc as v1beta1_pb2_grpc

_Result = TypeVar("_Result", PreparedClaim, ReleasedClaim)
_LOG: Final = logging.getLogger(__name__)
# By what ReleasedClaim says: known, deferred.
_RELEASE_MESSAGES: Final = {
    (False, False): "claim was not prepared here",
    (True, False): "claim released",
    (True, True): "claim release deferred: processes still use its files",
}
# In the order of our preference: the kubelet takes the first that it knows.
SUPPORTED_VERSIONS: Final = ("v1.DRAPlugin", "v1beta1.DRAPlugin")


class Preparer(Protocol):
    """What the service calls; implemented by fracgpu.kubeletplugin.prepare.preparer."""

    def prepare(self, ref: ClaimRef, deadline: Deadline | None = None) -> PreparedClaim:
        """Prepare a claim before `deadline`."""

    def unprepare(self, ref: ClaimRef, deadline: Deadline | None = None) -> ReleasedClaim:
        """Take a claim back before `deadline`."""


class DraService(api_pb2_grpc.DRAPluginServicer):
    """v1.DRAPlugin."""

    def __init__(
        self,
        preparer: Preparer,
        *,
        metrics: PluginMetrics | None = None,
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._preparer = preparer
        self._metrics = metrics or PluginMetrics(NoOpMeterProvider().get_meter(__name__))
        self._tracer = tracer or NoOpTracer()
        self._clock = clock

    def NodePrepareResources(  # noqa: N802
        self, request: api_pb2.NodePrepareResourcesRequest, context: grpc.ServicerContext
    ) -> api_pb2.NodePrepareResourcesResponse:
        """Prepare each claim of the request; each gets devices or an error of its own, all of them one deadline."""
        deadline = Deadline.of_call(context.time_remaining())
        return api_pb2.NodePrepareResourcesResponse(
            claims={ref.uid: self._prepare(ref, deadline) for ref in _refs(request.claims)}
        )

    def NodeUnprepareResources(  # noqa: N802
        self, request: api_pb2.NodeUnprepareResourcesRequest, context: grpc.ServicerContext
    ) -> api_pb2.NodeUnprepareResourcesResponse:
        """Take back each claim of the request; one that is not known is done already."""
        deadline = Deadline.of_call(context.time_remaining())
        return api_pb2.NodeUnprepareResourcesResponse(
            claims={ref.uid: self._unprepare(ref, deadline) for ref in _refs(request.claims)}
        )

    def _prepare(self, ref: ClaimRef, deadline: Deadline) -> api_pb2.NodePrepareResourceResponse:
        prepared, error = self._told("prepare", ref, lambda: self._preparer.prepare(ref, deadline))
        devices = () if prepared is None else prepared.devices
        return api_pb2.NodePrepareResourceResponse(devices=[_device(device) for device in devices], error=error)

    def _unprepare(self, ref: ClaimRef, deadline: Deadline) -> api_pb2.NodeUnprepareResourceResponse:
        _, error = self._told("unprepare", ref, lambda: self._preparer.unprepare(ref, deadline))
        return api_pb2.NodeUnprepareResourceResponse(error=error)

    def _told(self, op: str, ref: ClaimRef, call: Callable[[], _Result]) -> tuple[_Result | None, str]:
        """Return what `call` returns and no error, or nothing and the error's text; span, metric and log tell of it."""
        started = self._clock()
        result: _Result | None = None
        failure: Exception | None = None
        with claim_operation(self._tracer, op, ref) as operation:
            try:
                result = call()
            except Exception as error:
                failure = error
            else:
                pods = result.pods if isinstance(result, PreparedClaim) else ()
                operation.learned(pods=pods, gpu_uuids=result.gpu_uuids)
            outcome = outcome_of(failure)
            operation.ended(outcome, failure)
            seconds = self._clock() - started
            self._metrics.claim_done(op, outcome, seconds)
            # Within the span, which is where the line finds its trace's id.
            _log(_claim_log(op, ref, operation).bind(outcome=outcome, seconds=f"{seconds:.4f}"), result, failure)
        return result, "" if failure is None else _text_for_kubelet(ref, failure)


class DraServiceV1Beta1(v1beta1_pb2_grpc.DRAPluginServicer):
    """v1beta1.DRAPlugin: the same service under another name."""

    def __init__(self, service: DraService) -> None:
        self._service = service

    def NodePrepareResources(  # noqa: N802
        self, request: v1beta1_pb2.NodePrepareResourcesRequest, context: grpc.ServicerContext
    ) -> v1beta1_pb2.NodePrepareResourcesResponse:
        """Prepare each claim of the request."""
        translated = api_pb2.NodePrepareResourcesRequest.FromString(request.SerializeToString())
        answer = self._service.NodePrepareResources(translated, context)
        return v1beta1_pb2.NodePrepareResourcesResponse.FromString(answer.SerializeToString())

    def NodeUnprepareResources(  # noqa: N802
        self, request: v1beta1_pb2.NodeUnprepareResourcesRequest, context: grpc.ServicerContext
    ) -> v1beta1_pb2.NodeUnprepareResourcesResponse:
        """Take back each claim of the request."""
        translated = api_pb2.NodeUnprepareResourcesRequest.FromString(request.SerializeToString())
        answer = self._service.NodeUnprepareResources(translated, context)
        return v1beta1_pb2.NodeUnprepareResourcesResponse.FromString(answer.SerializeToString())


def add_services(
    preparer: Preparer, server: grpc.Server, *, metrics: PluginMetrics | None = None, tracer: Tracer | None = None
) -> None:
    """Serve both versions on `server`; calls are counted by `metrics` and traced by `tracer`."""
    service = DraService(preparer, metrics=metrics, tracer=tracer)
    api_pb2_grpc.add_DRAPluginServicer_to_server(service, server)
    v1beta1_pb2_grpc.add_DRAPluginServicer_to_server(DraServiceV1Beta1(service), server)


def _refs(claims: Iterable[api_pb2.Claim]) -> list[ClaimRef]:
    return [ClaimRef(namespace=claim.namespace, name=claim.name, uid=ClaimUid(claim.uid)) for claim in claims]


def _text_for_kubelet(ref: ClaimRef, error: Exception) -> str:
    if isinstance(error, FracgpuError):
        return str(error)
    if isinstance(error, OSError):
        return f"{ref}: {error}; check the file systems of this node, it is tried again"
    return f"{ref}: {type(error).__name__}: {error}; report this as a defect of fracgpu, with the plugin's log"


def _claim_log(op: str, ref: ClaimRef, operation: Operation) -> FieldLogger:
    return claim_logger(
        _LOG,
        op=op,
        claim=f"{ref.namespace}/{ref.name}",
        pod=",".join(operation.pods) or None,
        gpu=",".join(operation.gpu_uuids) or None,
    ).bind(uid=ref.uid, trace_id=operation.trace_id)


def _log(log: FieldLogger, result: PreparedClaim | ReleasedClaim | None, failure: Exception | None) -> None:
    if isinstance(failure, FracgpuError):
        log.warning("claim refused", extra={"error": str(failure)})
    elif failure is not None:
        log.error("claim failed", exc_info=failure)
    elif isinstance(result, ReleasedClaim):
        log.info(_RELEASE_MESSAGES[result.known, result.deferred])
    else:
        log.info("claim prepared")


def _device(device: PreparedDevice) -> api_pb2.Device:
    return api_pb2.Device(
        request_names=device.request_names,
        pool_name=device.pool,
        device_name=device.device,
        cdi_device_ids=device.cdi_device_ids,
        share_id=device.share_id,
    )
