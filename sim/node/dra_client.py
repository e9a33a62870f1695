"""The kubelet's calls to a DRA plugin, over the service version that registration chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def node_prepare(
    plugin: RegisteredPlugin, claims: Sequence[ClaimRef]
) -> Iterator[tuple[ClaimRef, tuple[PreparedDevice, ...]]]:
    """Call NodePrepareResources; yield claims with their devices until one of them failed.

    Raises:
        PrepareFailed: the call failed, an answer is an error or for a claim not asked for, or one is missing.

    """
    messages, services = _SERVICES[plugin.service]
    request = messages.NodePrepareResourcesRequest(claims=[_claim(messages, claim) for claim in claims])
    try:
        with grpc.insecure_channel(f"unix://{plugin.endpoint}", options=CHANNEL_OPTIONS) as channel:
            stub = services.DRAPluginStub(channel)
            response = stub.NodePrepareResources(request, timeout=CALL_DEADLINE_S)
    except grpc.RpcError as error:
        raise _prepare_failed(plugin, f"NodePrepareResources: {rpc_text(error)}") from error
    problem, good = _judge("NodePrepareResources", claims, {uid: one.error for uid, one in response.claims.items()})
    for claim in good:
        yield claim, tuple(_device(plugin, device) for device in response.claims[claim.uid].devices)
    if problem:
        raise _prepare_failed(plugin, problem)


def node_unprepare(plugin: RegisteredPlugin, claims: Sequence[ClaimRef]) -> None:
    """Call NodeUnprepareResources.

    Raises:
        UnprepareFailed: the call failed, an answer is an error or for a claim not asked for, or one is missing.

    """
    messages, services = _SERVICES[plugin.service]
    request = messages.NodeUnprepareResourcesRequest(claims=[_claim(messages, claim) for claim in claims])
    try:
        with grpc.insecure_channel(f"unix://{plugin.endpoint}", options=CHANNEL_OPTIONS) as channel:
            response = services.DRAPluginStub(channel).NodeUnprepareResources(request, timeout=CALL_DEADLINE_S)
    except grpc.RpcError as error:
        raise _unprepare_failed(plugin, f"NodeUnprepareResources: {rpc_text(error)}") from error
    problem, _ = _judge("NodeUnprepareResources", claims, {uid: one.error for uid, one in response.claims.items()})
    if problem:
        raise _unprepare_failed(plugin, problem)


def _judge(call: str, claims: Sequence[ClaimRef], errors: Mapping[str, str]) -> tuple[str, list[ClaimRef]]:
    """Go through a plugin's answers by claim uid; return the first problem, and the claims answered before it."""
    by_uid = {claim.uid: claim for claim in claims}
    good: list[ClaimRef] = []
    for uid, error in errors.items():
        claim = by_uid.get(uid)
        if claim is None:
            return f"{call} returned result for unknown claim UID {uid}", good
        if error:
            return f"{call} failed for ResourceClaim {claim.name}: {error}", good
        good.append(claim)
    skipped = len(claims) - len(errors)
    return (f"{call} skipped {skipped} ResourceClaims" if skipped else ""), good


def _prepare_failed(plugin: RegisteredPlugin, what: str) -> PrepareFailed:
    return PrepareFailed(f"driver {plugin.driver}", what, remedy="preparation is tried again")


def _unprepare_failed(plugin: RegisteredPlugin, what: str) -> UnprepareFailed:
    return UnprepareFailed(f"driver {plugin.driver}", what, remedy="it is tried again")


def _claim(messages: ModuleType, claim: ClaimRef) -> object:
    return messages.Claim(namespace=claim.namespace, uid=claim.uid, name=claim.name)


def _device(plugin: RegisteredPlugin, device: v1_pb2.Device) -> PreparedDevice:
    return PreparedDevice(
        driver=plugin.driver,
        request_names=tuple(device.request_names),
        pool_name=device.pool_name,
        device_name=device.device_name,
        cdi_device_ids=tuple(device.cdi_device_ids),
        # Nobody tells a kubelet of the share over v1beta1.
        share_id=getattr(device, "share_id", ""),
    )
