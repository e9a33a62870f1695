"""The kubelet's registration dialogue with the plugin behind a socket of its registry directory.

The protocol is that of kubelet's pluginregistration v1: GetInfo says what the plugin is and where it listens,
NotifyRegistrationStatus tells it whether it was accepted. Of the service versions that a plugin lists, the first one
that the kubelet knows is used, so the plugin's order is its preference. A plugin without an endpoint is meant to listen
at the registration socket itself.

Stricter than the kubelet: a driver without a name and an endpoint that is no absolute path are refused.

Source: pkg/kubelet/pluginmanager/operationexecutor/operation_generator.go and pkg/kubelet/cm/dra/plugin of Kubernetes
1.36.3, whose texts these are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from fracgpu.proto.pluginregistration.v1 import api_pb2, api_pb2_grpc
from fracgpu.sim.node.errors import RegistrationFailed

KNOWN_SERVICES = ("v1.DRAPlugin", "v1beta1.DRAPlugin")
# The kubelet of 1.36 knows this one and asks for it whatever a plugin lists; a plugin that lists nothing but the later
# one is asked for that, as later kubelets do.
_HEALTH, _LATER_HEALTH = "v1alpha1.DRAResourceHealth", "v1.DRAResourceHealth"
# Channels of one process share their connections and how long they wait after a failed one. A plugin that was restarted
# at the same path must be found at once.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
_PLUGIN_TYPE = "DRAPlugin"
# The kubelet's own limits for GetInfo and NotifyRegistrationStatus.
_GET_INFO_S, _NOTIFY_S = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class RegisteredPlugin:
    """A plugin in use: driver name, path of its service socket, the chosen version of service and of health stream."""

    driver: str
    endpoint: str
    service: str
    health: str = _HEALTH


def choose_service(supported: Sequence[str]) -> str | None:
    """Return the first of the plugin's services that this kubelet knows."""
    return next((service for service in supported if service in KNOWN_SERVICES), None)


def register(socket_path: Path, *, in_use: Collection[tuple[str, str]] = ()) -> RegisteredPlugin:
    """Do the registration dialogue with the plugin behind ``socket_path``.

    No two instances of a driver may share an endpoint: ``in_use`` has drivers and endpoints that are taken.

    Raises:
        RegistrationFailed: it does not answer, or it is not a plugin that can be used; it has been told so.

    """
    with grpc.insecure_channel(f"unix://{socket_path}", options=CHANNEL_OPTIONS) as channel:
        stub = api_pb2_grpc.RegistrationStub(channel)
        try:
            info = stub.GetInfo(api_pb2.InfoRequest(), timeout=_GET_INFO_S)
            info.endpoint = info.endpoint or str(socket_path)
            service = choose_service(info.supported_versions)
            problem = _refusal(socket_path, info, service, in_use)
            status = api_pb2.RegistrationStatus(plugin_registered=not problem, error=problem)
            stub.NotifyRegistrationStatus(status, timeout=_NOTIFY_S)
        except grpc.RpcError as error:
            raise _failed(socket_path, f"no answer: {rpc_text(error)}") from error
    if problem or service is None:
        raise _failed(socket_path, problem)
    later = _HEALTH not in info.supported_versions and _LATER_HEALTH in info.supported_versions
    return RegisteredPlugin(
        driver=info.name,
        endpoint=info.endpoint,
        service=service,
        health=_LATER_HEALTH if later else _HEALTH,
    )


def rpc_text(error: grpc.RpcError) -> str:
    """Return status code and details of a failed call, as Go prints them."""
    # What a stub raises is also a grpc.Call, which the stubs' own types do not say.
    call: Any = error
    # Go's names of codes are those of the protocol without underscores, and one that is spelled otherwise.
    code = call.code().name.title().replace("_", "").replace("Cancelled", "Canceled")
    return f"rpc error: code = {code} desc = {call.details()}"


def _refusal(
    socket_path: Path, info: api_pb2.PluginInfo, service: str | None, in_use: Collection[tuple[str, str]]
) -> str:
    start = "RegisterPlugin error -- "
    if info.type != _PLUGIN_TYPE:
        return f"{start}no handler registered for plugin type: {info.type} at socket {socket_path}"
    invalid = f"{start}plugin validation failed with err: "
    if not info.name:
        return f"{invalid}the driver name is empty"
    if not info.endpoint.startswith("/"):
        return f"{invalid}endpoint {info.endpoint} is not an absolute path"
    if service is None:
        who = f"DRA driver plugin {info.name} at endpoint {info.endpoint}"
        return f"{invalid}invalid supported gRPC versions of {who}: {_no_service(info.supported_versions)}"
    if (info.name, info.endpoint) in in_use:
        taken = f"endpoint {info.endpoint} already registered for DRA driver plugin {info.name}"
        return f"{start}plugin registration failed with err: {taken}"
    return ""


def _no_service(supported: Sequence[str]) -> str:
    if not supported:
        return "empty list of supported gRPC services (aka supported versions)"
    theirs, ours = (" ".join(f'"{one}"' for one in services) for services in (supported, KNOWN_SERVICES))
    return f"none of services supported by the plugin ([{theirs}]) are supported by the kubelet ([{ours}])"


def _failed(socket_path: Path, what: str) -> RegistrationFailed:
    return RegistrationFailed(f"plugin socket {socket_path}", what, remedy="see the plugin's log")
