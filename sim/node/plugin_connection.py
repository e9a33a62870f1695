"""The kubelet's lasting connection to one plugin: is it there, and what does it say of its devices.

A registration socket says that a plugin wants to be used, its connection whether it can be: a plugin that was killed
leaves the socket file behind. The health stream runs over the same connection and is opened again whenever it ends.
It is asked for whether or not the plugin says that it has one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import grpc

from fracgpu.proto.drahealth.v1 import api_pb2 as v1_pb2
from fracgpu.proto.drahealth.v1 import api_pb2_grpc as v1_grpc
from fracgpu.proto.drahealth.v1alpha1 import api_pb2 as v1alpha1_pb2
from fracgpu.proto.drahealth.v1alpha1 import api_pb2_grpc as v1alpha1_grpc
from fracgpu.sim.node.device_health import DeviceHealthCache, Report
from fracgpu.sim.node.registration import CHANNEL_OPTIONS, RegisteredPlugin, rpc_text

_LOG = logging.getLogger(__name__)
_SERVICES: dict[str, tuple[ModuleType, ModuleType]] = {
    "v1.DRAResourceHealth": (v1_pb2, v1_grpc),
    "v1alpha1.DRAResourceHealth": (v1alpha1_pb2, v1alpha1_grpc),
}
# gRPC waits longer and longer before it tries a dead socket again; a node with one plugin need not.
_CHANNEL_OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


def _ignore(_: grpc.ChannelConnectivity) -> None:
    """Stand for a listener where only the request to connect matters."""


class PluginConnection:
    """A connection to ``plugin``; ``on_change`` is called when it is made or lost. `close` ends everything."""

    def __init__(
        self,
        plugin: RegisteredPlugin,
        *,
        health: DeviceHealthCache,
        health_retry_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self.plugin = plugin
        self.connected = False
        self._health = health
        self._health_retry_s = health_retry_s
        self._on_change = on_change
        self._closed = threading.Event()
        self._channel = grpc.insecure_channel(f"unix://{plugin.endpoint}", options=_CHANNEL_OPTIONS)
        self._stream: Any = None
        self._channel.subscribe(self._seen, try_to_connect=True)
        threading.Thread(target=self._watch_health, name="health-stream", daemon=True).start()

    def close(self) -> None:
        """Drop the connection.

        The channel itself is left to go with its last user: gRPC's thread that follows its state fails on a closed one.
        """
        self._closed.set()
        self._channel.unsubscribe(self._seen)
        self._channel.unsubscribe(_ignore)
        if self._stream is not None:
            self._stream.cancel()

    def _seen(self, state: grpc.ChannelConnectivity) -> None:
        if self._closed.is_set():
            return
        connected = state is grpc.ChannelConnectivity.READY
        if state is grpc.ChannelConnectivity.IDLE:
            # A lost connection is not made again by itself, and then nobody would learn of the plugin's return.
            self._channel.unsubscribe(_ignore)
            self._channel.subscribe(_ignore, try_to_connect=True)
        if connected != self.connected:
            self.connected = connected
            _LOG.info("plugin connection driver=%s connected=%s", self.plugin.driver, connected)
            self._on_change()

    def _watch_health(self) -> None:
        while not self._closed.is_set():
            if self._follow_stream():
                # As the kubelet does it: also what another instance of the driver said.
                self._health.clear(self.plugin.driver)
            self._closed.wait(self._health_retry_s)

    def _follow_stream(self) -> bool:
        """Follow one stream to its end; tell whether there was one: there is none where nobody listens."""
        messages, services = _SERVICES[self.plugin.health]
        heard = False
        try:
            stub = services.DRAResourceHealthStub(self._channel)
            self._stream = stub.NodeWatchResources(messages.NodeWatchResourcesRequest())
            if self._closed.is_set():
                self._stream.cancel()
            for response in self._stream:
                heard = True
                self._health.update(self.plugin.driver, [_report(entry) for entry in response.devices])
        except grpc.RpcError as error:
            call: Any = error
            _LOG.debug("health stream ended driver=%s error=%s", self.plugin.driver, rpc_text(error))
            return heard or call.code() is not grpc.StatusCode.UNAVAILABLE
        return True


def _report(entry: v1_pb2.DeviceHealth) -> Report:
    return Report(
        pool=entry.device.pool_name,
        device=entry.device.device_name,
        health=int(entry.health),
        timeout_s=float(entry.health_check_timeout_seconds),
        message=entry.message,
    )
