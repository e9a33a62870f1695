"""Makes the plugin known to the kubelet, and listens where it says, for as long as the plugin runs.

The kubelet calls GetInfo on any socket that appears in its registry directory and connects to the socket named there at
once. So the DRA socket listens before the registration socket exists, and the registration socket goes first when the
plugin stops: a kubelet never learns of a plugin that does not answer.

Sockets are files that others remove: kubelets that clean up, people, a wiped disk. Nobody tells us, and a plugin
without its socket is one that pods wait for. So they are looked at every other second, which costs two system calls,
and made anew. A refusal by the kubelet is answered by a new registration socket too, with pauses that grow.

Source: k8s.io/kubelet/pkg/apis/pluginregistration/v1, KEP-3189 (kubelet plugin registration).
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.process.background import Wait
from fracgpu.kubeletplugin.errors import SocketInvalid
from fracgpu.kubeletplugin.kubelet.health_service import (
    HEALTH_VERSIONS,
    MOST_WATCHERS,
    HealthService,
    add_health_services,
)
from fracgpu.kubeletplugin.kubelet.served_socket import ServedSocket
from fracgpu.kubeletplugin.kubelet.services import SUPPORTED_VERSIONS
from fracgpu.kubeletplugin.kubelet.sockets import dra_socket, registration_socket, stale_sockets
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.proto.pluginregistration.v1 import api_pb2, api_pb2_grpc

_LOG: Final = logging.getLogger(__name__)
_PLUGIN_TYPE: Final = "DRAPlugin"
# Calls wait for the API server and for the node lock, never for each other's processors.
_WORKERS: Final = 16
_REGISTRAR_WORKERS: Final = 2
# The kubelet itself gives up after 45 s.
_DRAIN_SECONDS: Final = 40.0
_LOOK_SECONDS: Final = 2.0
_SWEEP_SECONDS: Final = 15.0
_FIRST_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 60.0


class RegistrationService(api_pb2_grpc.RegistrationServicer):
    """Answers the kubelet's two questions."""

    def __init__(self, endpoint: Path, on_registered: Callable[[], None] = lambda: None) -> None:
        self._endpoint = endpoint
        self._on_registered = on_registered
        self.registered = threading.Event()
        self.refused = threading.Event()

    def GetInfo(  # noqa: N802
        self, request: api_pb2.InfoRequest, context: grpc.ServicerContext
    ) -> api_pb2.PluginInfo:
        """Say who we are, where we listen and which services are there, the preferred one first."""
        del request, context
        return api_pb2.PluginInfo(
            type=_PLUGIN_TYPE,
            name=DRIVER_NAME,
            endpoint=str(self._endpoint),
            supported_versions=(*SUPPORTED_VERSIONS, *HEALTH_VERSIONS),
        )

    def NotifyRegistrationStatus(  # noqa: N802
        self, request: api_pb2.RegistrationStatus, context: grpc.ServicerContext
    ) -> api_pb2.RegistrationStatusResponse:
        """Take note of the kubelet's decision."""
        del context
        if request.plugin_registered:
            self.refused.clear()
            self.registered.set()
            _LOG.info("registered with the kubelet")
            self._on_registered()
        else:
            self.registered.clear()
            self.refused.set()
            _LOG.error("the kubelet refuses the plugin", extra={"error": request.error})
        return api_pb2.RegistrationStatusResponse()


class PluginServers:
    """Both sockets of the plugin: started and stopped in the right order, kept in between by one thread in `run`."""

    def __init__(
        self,
        options: PluginOptions,
        add_services: Callable[[grpc.Server], None],
        health: HealthService,
        *,
        files: Files | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_registered: Callable[[], None] = lambda: None,
    ) -> None:
        """`add_services` registers the DRA service on a server, each time that one is made.

        `on_registered` is called each time that the kubelet has taken the plugin, in a thread of the server's.
        """
        self._options = options
        self._health = health
        self._files = files or Files()
        self._clock = clock
        self.registration = RegistrationService(dra_socket(options).path, on_registered)

        def add_all(server: grpc.Server) -> None:
            add_services(server)
            add_health_services(health, server)

        def add_registration(server: grpc.Server) -> None:
            api_pb2_grpc.add_RegistrationServicer_to_server(self.registration, server)

        self._dra = ServedSocket(dra_socket(options), self._files, add_all, workers=_WORKERS + MOST_WATCHERS)
        self._registrar = ServedSocket(
            registration_socket(options), self._files, add_registration, workers=_REGISTRAR_WORKERS
        )
        # Held while sockets are made or taken away: one that is kept must not come back after the stop.
        self._lock = threading.Lock()
        self._stopped = False
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._retry_at = 0.0
        self._swept_at = 0.0

    def start(self) -> None:
        """Listen on the DRA socket, then on the registration socket, then remove what dead instances left.

        Raises SocketInvalid, naming the option, for a path that is too long, is something else than a socket, or can
        not be listened on; then neither socket is left.
        """
        for served in (self._dra, self._registrar):
            served.place.check()
        with self._lock:
            self._dra.open()
            try:
                self._registrar.open()
            except SocketInvalid:
                self._dra.close(grace_seconds=None)
                raise
            self._sweep()

    def run(self, wait: Wait) -> None:
        """Keep the sockets until `wait` says stop."""
        trouble = ""
        while not wait(_LOOK_SECONDS):
            try:
                self.look()
                trouble = ""
            except (SocketInvalid, OSError) as error:
                # Said once, not every other second.
                if trouble != str(error):
                    trouble = str(error)
                    _LOG.error("sockets can not be made", extra={"error": trouble})
            except Exception:
                _LOG.exception("sockets not kept")

    def look(self) -> None:
        """Make anew what is missing, or what the kubelet refused. Raises SocketInvalid or OSError."""
        with self._lock:
            if self._stopped:
                return
            for served in (self._dra, self._registrar):
                if served.lost:
                    _LOG.warning("socket is gone, made anew", extra={"path": served.place.path})
                    served.open()
            self._register_again()
            if self._clock() >= self._swept_at + _SWEEP_SECONDS:
                self._sweep()

    def stop(self) -> None:
        """Take the registration socket away, then the DRA socket, and let calls in progress finish.

        A socket that another instance has put in place of ours stays.
        """
        with self._lock:
            self._stopped = True
            self._registrar.close(grace_seconds=None)
            self._health.stop()
            self._dra.close(grace_seconds=_DRAIN_SECONDS)

    def _register_again(self) -> None:
        if self.registration.registered.is_set():
            self._retry_seconds = _FIRST_RETRY_SECONDS
            self._retry_at = 0.0
        if not self.registration.refused.is_set():
            return
        now = self._clock()
        if not self._retry_at:
            self._retry_at = now + self._retry_seconds
        elif now >= self._retry_at:
            self._retry_seconds = min(2 * self._retry_seconds, _LONGEST_RETRY_SECONDS)
            self._retry_at = 0.0
            self.registration.refused.clear()
            _LOG.info("registering again", extra={"next_retry_seconds": self._retry_seconds})
            self._registrar.open()

    def _sweep(self) -> None:
        self._swept_at = self._clock()
        for path in stale_sockets(self._options):
            _LOG.info("removing the socket of a plugin that is gone", extra={"path": path})
            self._files.unlink_socket(path)
