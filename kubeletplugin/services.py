"""The kubelet's DRA service, in both versions that kubelets speak.

A gRPC error fails every claim of the call, so there is none: whatever goes wrong with a claim is that claim's answer,
and its text goes into the pod's event. The two versions have the same messages on the wire, so there is one
implementation, and the older version is a translation of bytes.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeVar

import grpc

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.log import claim_logger
from fracgpu.driver.names import ClaimUid
from fracgpu.kubeletplugin.claim import ClaimRef
from fracgpu.kubeletplugin.outcome import PreparedClaim, ReleasedClaim
from fracgpu.kubeletplugin.plan import PreparedDevice
from fracgpu.proto.dra.v1 import api_pb2, api_pb2_grpc
from fracgpu.proto.dra.v1beta1 import api_pb2 as v1beta1_pb2
from fracgpu.proto.dra.v1beta1 import api_pb2_grpc as v1beta1_pb2_grpc

_Result = TypeVar("_Result")
_LOG: Final = logging.getLogger(__name__)
# In the order of our preference: the kubelet takes the first that it knows.
SUPPORTED_VERSIONS: Final = ("v1.DRAPlugin", "v1beta1.DRAPlugin")


class Preparer(Protocol):
    """What the service calls; implemented by fracgpu.kubeletplugin.preparer."""

    def prepare(self, ref: ClaimRef) -> PreparedClaim:
        """Prepare a claim."""

    def unprepare(self, ref: ClaimRef) -> ReleasedClaim:
        """Take a claim back."""


class DraService(api_pb2_grpc.DRAPluginServicer):
    """v1.DRAPlugin."""

    def __init__(self, preparer: Preparer) -> None:
        self._preparer = preparer

    def NodePrepareResources(  # noqa: N802
        self, request: api_pb2.NodePrepareResourcesRequest, context: grpc.ServicerContext
    ) -> api_pb2.NodePrepareResourcesResponse:
        """Prepare each claim of the request; each gets devices or an error of its own."""
        del context
        return api_pb2.NodePrepareResourcesResponse(
            claims={ref.uid: self._prepare(ref) for ref in _refs(request.claims)}
        )

    def NodeUnprepareResources(  # noqa: N802
        self, request: api_pb2.NodeUnprepareResourcesRequest, context: grpc.ServicerContext
    ) -> api_pb2.NodeUnprepareResourcesResponse:
        """Take back each claim of the request; one that is not known is done already."""
        del context
        return api_pb2.NodeUnprepareResourcesResponse(
            claims={ref.uid: self._unprepare(ref) for ref in _refs(request.claims)}
        )

    def _prepare(self, ref: ClaimRef) -> api_pb2.NodePrepareResourceResponse:
        prepared, error = _guarded("prepare", ref, self._preparer.prepare)
        devices = () if prepared is None else prepared.devices
        return api_pb2.NodePrepareResourceResponse(devices=[_device(device) for device in devices], error=error)

    def _unprepare(self, ref: ClaimRef) -> api_pb2.NodeUnprepareResourceResponse:
        _, error = _guarded("unprepare", ref, self._preparer.unprepare)
        return api_pb2.NodeUnprepareResourceResponse(error=error)


class DraServiceV1Beta1(v1beta1_pb2_grpc.DRAPluginServicer):
    """v1beta1.DRAPlugin: the same messages under another name."""

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


def add_services(preparer: Preparer, server: grpc.Server) -> None:
    """Serve both versions on `server`."""
    service = DraService(preparer)
    api_pb2_grpc.add_DRAPluginServicer_to_server(service, server)
    v1beta1_pb2_grpc.add_DRAPluginServicer_to_server(DraServiceV1Beta1(service), server)


def _refs(claims: Iterable[api_pb2.Claim]) -> list[ClaimRef]:
    return [ClaimRef(namespace=claim.namespace, name=claim.name, uid=ClaimUid(claim.uid)) for claim in claims]


def _guarded(op: str, ref: ClaimRef, call: Callable[[ClaimRef], _Result]) -> tuple[_Result | None, str]:
    """Return what `call` returns and no error, or nothing and the error's text; log either."""
    log = claim_logger(_LOG, op=op, claim=f"{ref.namespace}/{ref.name}")
    try:
        result = call(ref)
    except FracgpuError as error:
        log.warning("claim refused", extra={"uid": ref.uid, "error": str(error)})
        return None, str(error)
    except OSError as error:
        log.exception("claim failed", extra={"uid": ref.uid})
        return None, f"{ref}: {error}; check the file systems of this node, it is tried again"
    except Exception as error:
        log.exception("claim failed", extra={"uid": ref.uid})
        return (
            None,
            f"{ref}: {type(error).__name__}: {error}; report this as a defect of fracgpu, with the plugin's log",
        )
    log.info("claim done", extra={"uid": ref.uid})
    return result, ""


def _device(device: PreparedDevice) -> api_pb2.Device:
    return api_pb2.Device(
        request_names=device.request_names,
        pool_name=device.pool,
        device_name=device.device,
        cdi_device_ids=device.cdi_device_ids,
        share_id=device.share_id,
    )
