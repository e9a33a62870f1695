"""The kubelet's plugin watcher: every socket in the registry directory may be a DRA plugin that wants to be used.

The protocol is that of kubelet's pluginregistration v1: GetInfo says what the plugin is and where it listens,
NotifyRegistrationStatus tells it whether it was accepted. Of the service versions that a plugin lists, the first one
that the kubelet knows is used, so the plugin's order is its preference.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from fracgpu.proto.pluginregistration.v1 import api_pb2, api_pb2_grpc
from fracgpu.sim.node.errors import RegistrationFailed

_LOG = logging.getLogger(__name__)

KNOWN_SERVICES = ("v1.DRAPlugin", "v1beta1.DRAPlugin")
_PLUGIN_TYPE = "DRAPlugin"
# The kubelet's own limits for GetInfo and NotifyRegistrationStatus.
_GET_INFO_S, _NOTIFY_S = 1.0, 5.0
_SCAN_S = 0.1
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class RegisteredPlugin:
    """A plugin in use: driver name, path of its service socket, the chosen service version."""

    driver: str
    endpoint: str
    service: str


def choose_service(supported: list[str]) -> str | None:
    """Return the first of the plugin's services that this kubelet knows."""
    return next((service for service in supported if service in KNOWN_SERVICES), None)


def register(socket_path: Path) -> RegisteredPlugin:
    """Do the registration dialogue with the plugin behind ``socket_path``.

    Raises:
        RegistrationFailed: it does not answer, or it is not a plugin that can be used; it has been told so.

    """
    with grpc.insecure_channel(f"unix://{socket_path}") as channel:
        stub = api_pb2_grpc.RegistrationStub(channel)
        try:
            info = stub.GetInfo(api_pb2.InfoRequest(), timeout=_GET_INFO_S)
            service = choose_service(list(info.supported_versions))
            problem = _refusal(info, service)
            status = api_pb2.RegistrationStatus(plugin_registered=not problem, error=problem)
            stub.NotifyRegistrationStatus(status, timeout=_NOTIFY_S)
        except grpc.RpcError as error:
            raise _failed(socket_path, f"no answer: {rpc_text(error)}") from error
    if problem or service is None:
        raise _failed(socket_path, problem)
    return RegisteredPlugin(driver=info.name, endpoint=info.endpoint, service=service)


def rpc_text(error: grpc.RpcError) -> str:
    """Return status code and details of a failed call on one line."""
    # What a stub raises is also a grpc.Call, which the stubs' own types do not say.
    call: Any = error
    return f"{call.code().name}: {call.details()}"


def _refusal(info: api_pb2.PluginInfo, service: str | None) -> str:
    if info.type != _PLUGIN_TYPE:
        return f"type {info.type!r} is not {_PLUGIN_TYPE}"
    if not info.name:
        return "the driver name is empty"
    if not info.endpoint.startswith("/"):
        return f"endpoint {info.endpoint!r} is not an absolute path"
    if service is None:
        return f"none of the services {list(info.supported_versions)} is known"
    return ""


def _failed(socket_path: Path, what: str) -> RegistrationFailed:
    return RegistrationFailed(f"plugin socket {socket_path}", what, remedy="see the plugin's log")


class PluginRegistry:
    """Watches the registry directory from a thread of its own and knows the plugins by driver name.

    Sockets are identified by inode: a plugin that was restarted registers again. The newest registration of a driver
    wins. ``on_gone`` is called with the driver name when its last socket disappears, ``on_registered`` when it comes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        on_registered: Callable[[str], None] = lambda _: None,
        on_gone: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._on_registered = on_registered
        self._on_gone = on_gone
        self._known: dict[tuple[str, int], RegisteredPlugin] = {}
        self._retry_at: dict[tuple[str, int], float] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plugin-watcher", daemon=True)

    def start(self) -> None:
        """Create the directory if need be and start to watch it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and wait for the thread."""
        self._stop.set()
        self._thread.join()

    def get(self, driver: str) -> RegisteredPlugin | None:
        """Return the newest registered plugin of ``driver``."""
        with self._changed:
            return self._newest(driver)

    def wait_for(self, driver: str, timeout_s: float) -> bool:
        """Wait until ``driver`` is registered; tell whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._newest(driver) is not None, timeout_s)

    def _newest(self, driver: str) -> RegisteredPlugin | None:
        found = [plugin for plugin in self._known.values() if plugin.driver == driver]
        return found[-1] if found else None

    def _run(self) -> None:
        while not self._stop.is_set():
            self._scan()
            self._stop.wait(_SCAN_S)

    def _scan(self) -> None:
        present = self._sockets()
        for identity, path in present.items():
            if identity not in self._known and self._retry_at.get(identity, 0.0) <= time.monotonic():
                self._add(identity, path)
        for identity in [identity for identity in self._known if identity not in present]:
            with self._changed:
                plugin = self._known.pop(identity)
                gone = self._newest(plugin.driver) is None
            if gone:
                _LOG.info("plugin gone driver=%s", plugin.driver)
                self._on_gone(plugin.driver)

    def _sockets(self) -> dict[tuple[str, int], Path]:
        found: dict[tuple[str, int], Path] = {}
        for path in sorted(self._directory.glob("[!.]*.sock")):
            try:
                if path.is_socket():
                    found[(path.name, path.stat().st_ino)] = path
            except FileNotFoundError:
                continue
        return found

    def _add(self, identity: tuple[str, int], path: Path) -> None:
        try:
            plugin = register(path)
        except RegistrationFailed as error:
            _LOG.warning("plugin not registered: %s", error)
            self._retry_at[identity] = time.monotonic() + _RETRY_S
            return
        with self._changed:
            self._known[identity] = plugin
            self._changed.notify_all()
        _LOG.info("plugin registered driver=%s service=%s", plugin.driver, plugin.service)
        self._on_registered(plugin.driver)
