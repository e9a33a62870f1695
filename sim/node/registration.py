"""The kubelet's registration dialogue with the plugin behind a socket of its registry directory.

The protocol is that of kubelet's pluginregistration v1: GetInfo says what the plugin is and where it listens,
NotifyRegistrationStatus tells it whether it was accepted. Of the service versions that a plugin lists, the first one
that the kubelet knows is used, so the plugin's order is its preference.
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
HEALTH_SERVICES = ("v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth")
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
    health: str | None = None


def choose_service(supported: list[str], known: Sequence[str] = KNOWN_SERVICES) -> str | None:
    """Return the first of the plugin's services that this kubelet knows."""
    return next((service for service in supported if service in known), None)


def register(socket_path: Path, *, endpoints_in_use: Collection[str] = ()) -> RegisteredPlugin:
    """Do the registration dialogue with the plugin behind ``socket_path``.

    No two instances of a driver may share an endpoint.

    Raises:
        RegistrationFailed: it does not answer, or it is not a plugin that can be used; it has been told so.

    """
    with grpc.insecure_channel(f"unix://{socket_path}", options=CHANNEL_OPTIONS) as channel:
        stub = api_pb2_grpc.RegistrationStub(channel)
        try:
            info = stub.GetInfo(api_pb2.InfoRequest(), timeout=_GET_INFO_S)
            service = choose_service(list(info.supported_versions))
            problem = _refusal(info, service, endpoints_in_use)
            status = api_pb2.RegistrationStatus(plugin_registered=not problem, error=problem)
            stub.NotifyRegistrationStatus(status, timeout=_NOTIFY_S)
        except grpc.RpcError as error:
            raise _failed(socket_path, f"no answer: {rpc_text(error)}") from error
    if problem or service is None:
        raise _failed(socket_path, problem)
    return RegisteredPlugin(
        driver=info.name,
        endpoint=info.endpoint,
        service=service,
        health=choose_service(list(info.supported_versions), HEALTH_SERVICES),
    )


def rpc_text(error: grpc.RpcError) -> str:
    """Return status code and details of a failed call on one line."""
    # What a stub raises is also a grpc.Call, which the stubs' own types do not say.
    call: Any = error
    return f"{call.code().name}: {call.details()}"


def _refusal(info: api_pb2.PluginInfo, service: str | None, endpoints_in_use: Collection[str]) -> str:
    if info.type != _PLUGIN_TYPE:
        return f"type {info.type!r} is not {_PLUGIN_TYPE}"
    if not info.name:
        return "the driver name is empty"
    if not info.endpoint.startswith("/"):
        return f"endpoint {info.endpoint!r} is not an absolute path"
    if service is None:
        return f"none of the services {list(info.supported_versions)} is known"
    if info.endpoint in endpoints_in_use:
        return f"endpoint {info.endpoint} already registered for DRA driver plugin {info.name}"
    return ""


def _failed(socket_path: Path, what: str) -> RegistrationFailed:
    return RegistrationFailed(f"plugin socket {socket_path}", what, remedy="see the plugin's log")
