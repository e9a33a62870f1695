"""The kubelet's calls to a DRA plugin, over the service version that registration chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import grpc

from fracgpu.proto.dra.v1 import api_pb2 as v1_pb2
from fracgpu.proto.dra.v1 import api_pb2_grpc as v1_grpc
from fracgpu.proto.dra.v1beta1 import api_pb2 as v1beta1_pb2
from fracgpu.proto.dra.v1beta1 import api_pb2_grpc as v1beta1_grpc
from fracgpu.sim.node.errors import PrepareFailed, UnprepareFailed
from fracgpu.sim.node.registration import CHANNEL_OPTIONS, RegisteredPlugin, rpc_text

# The kubelet's deadline for one call (pkg/kubelet/cm/dra/plugin).
CALL_DEADLINE_S = 45.0

_SERVICES: dict[str, tuple[ModuleType, ModuleType]] = {
    "v1.DRAPlugin": (v1_pb2, v1_grpc),
    "v1beta1.DRAPlugin": (v1beta1_pb2, v1beta1_grpc),
}


@dataclass(frozen=True, slots=True)
class ClaimRef:
    """What the kubelet tells a plugin of a claim."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """One prepared device, as the plugin of ``driver`` answered."""

    driver: str
    request_names: tuple[str, ...]
    pool_name: str
    device_name: str
    cdi_device_ids: tuple[str, ...]
    share_id: str


def node_prepare(plugin: RegisteredPlugin, claims: Sequence[ClaimRef]) -> dict[str, tuple[PreparedDevice, ...]]:
    """Call NodePrepareResources; return the devices by claim uid.

    Raises:
        PrepareFailed: the call failed, a claim has no answer, or its answer is an error.

    """
    messages, services = _SERVICES[plugin.service]
    request = messages.NodePrepareResourcesRequest(claims=[_claim(messages, claim) for claim in claims])
    try:
        with grpc.insecure_channel(f"unix://{plugin.endpoint}", options=CHANNEL_OPTIONS) as channel:
            stub = services.DRAPluginStub(channel)
            response = stub.NodePrepareResources(request, timeout=CALL_DEADLINE_S)
    except grpc.RpcError as error:
        raise PrepareFailed(
            f"driver {plugin.driver}", f"NodePrepareResources: {rpc_text(error)}", remedy="preparation is tried again"
        ) from error
    return {claim.uid: _devices(plugin, claim, response) for claim in claims}


def node_unprepare(plugin: RegisteredPlugin, claims: Sequence[ClaimRef]) -> None:
    """Call NodeUnprepareResources.

    Raises:
        UnprepareFailed: the call failed, a claim has no answer, or its answer is an error.

    """
    messages, services = _SERVICES[plugin.service]
    request = messages.NodeUnprepareResourcesRequest(claims=[_claim(messages, claim) for claim in claims])
    try:
        with grpc.insecure_channel(f"unix://{plugin.endpoint}", options=CHANNEL_OPTIONS) as channel:
            response = services.DRAPluginStub(channel).NodeUnprepareResources(request, timeout=CALL_DEADLINE_S)
    except grpc.RpcError as error:
        raise UnprepareFailed(
            f"driver {plugin.driver}", f"NodeUnprepareResources: {rpc_text(error)}", remedy="it is tried again"
        ) from error
    for claim in claims:
        problem = response.claims[claim.uid].error if claim.uid in response.claims else "the driver did not answer"
        if problem:
            raise UnprepareFailed(f"claim {claim.namespace}/{claim.name}", problem, remedy="it is tried again")


def _claim(messages: ModuleType, claim: ClaimRef) -> object:
    return messages.Claim(namespace=claim.namespace, uid=claim.uid, name=claim.name)


def _devices(
    plugin: RegisteredPlugin, claim: ClaimRef, response: v1_pb2.NodePrepareResourcesResponse
) -> tuple[PreparedDevice, ...]:
    subject = f"claim {claim.namespace}/{claim.name}"
    if claim.uid not in response.claims:
        what = f"driver {plugin.driver} did not answer for it"
        raise PrepareFailed(subject, what, remedy="preparation is tried again")
    answer = response.claims[claim.uid]
    if answer.error:
        raise PrepareFailed(subject, answer.error, remedy="preparation is tried again")
    return tuple(
        PreparedDevice(
            driver=plugin.driver,
            request_names=tuple(device.request_names),
            pool_name=device.pool_name,
            device_name=device.device_name,
            cdi_device_ids=tuple(device.cdi_device_ids),
            # Nobody tells a kubelet of the share over v1beta1.
            share_id=getattr(device, "share_id", ""),
        )
        for device in answer.devices
    )
