"""Makes the plugin known to the kubelet, and listens where it says.

The kubelet calls GetInfo on any socket that appears in its registry directory and connects to the socket named there at
once. So the DRA socket listens before the registration socket exists, and the registration socket goes first when the
plugin stops: a kubelet never learns of a plugin that does not answer.

Two plugins may overlap (a rolling update, a pod deleted by force). So each socket is bound under a hidden name and
renamed over what is there, and a plugin that stops takes away its own sockets only. gRPC by itself would remove
whatever lies at the path that it was bound to, which may be the newer plugin's socket by then.

Source: k8s.io/kubelet/pkg/apis/pluginregistration/v1, KEP-3189 (kubelet plugin registration).
"""

import logging
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.errors import SocketInvalid
from fracgpu.kubeletplugin.files import Files
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.services import SUPPORTED_VERSIONS, Preparer, add_services
from fracgpu.proto.pluginregistration.v1 import api_pb2, api_pb2_grpc

_LOG: Final = logging.getLogger(__name__)
_PLUGIN_TYPE: Final = "DRAPlugin"
# sun_path of unix(7) has 108 bytes, the last one a NUL.
_MAX_SOCKET_PATH: Final = 107
# Calls wait for the API server and for the node lock, never for each other's processors.
_WORKERS: Final = 16
# The kubelet itself gives up after 45 s.
_DRAIN_SECONDS: Final = 40.0
# The kubelet passes over names that begin with a dot. Shorter than the final names, so it fits where they do.
_UNPUBLISHED_NAME: Final = ".new"


def dra_socket(options: PluginOptions) -> Path:
    """Return where the DRA service listens."""
    return options.plugin_dir / "dra.sock"


def registration_socket(options: PluginOptions) -> Path:
    """Return where the kubelet finds the plugin."""
    return options.registry_dir / f"{DRIVER_NAME}-reg.sock"


class RegistrationService(api_pb2_grpc.RegistrationServicer):
    """Answers the kubelet's two questions."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint
        self.registered = threading.Event()

    def GetInfo(  # noqa: N802
        self, request: api_pb2.InfoRequest, context: grpc.ServicerContext
    ) -> api_pb2.PluginInfo:
        """Say who we are, where we listen and which services are there, the preferred one first."""
        del request, context
        return api_pb2.PluginInfo(
            type=_PLUGIN_TYPE,
            name=DRIVER_NAME,
            endpoint=str(self._endpoint),
            supported_versions=SUPPORTED_VERSIONS,
        )

    def NotifyRegistrationStatus(  # noqa: N802
        self, request: api_pb2.RegistrationStatus, context: grpc.ServicerContext
    ) -> api_pb2.RegistrationStatusResponse:
        """Take note of the kubelet's decision. It tries again by itself, so a refusal is only logged."""
        del context
        if request.plugin_registered:
            self.registered.set()
            _LOG.info("registered with the kubelet")
        else:
            self.registered.clear()
            _LOG.error("the kubelet refuses the plugin", extra={"error": request.error})
        return api_pb2.RegistrationStatusResponse()


@dataclass(frozen=True, slots=True)
class _Listening:
    """A server and its socket; the inode tells that socket from one that another plugin has put in its place."""

    server: grpc.Server
    path: Path
    inode: int


class PluginServers:
    """Both sockets of the plugin, started and stopped in the right order."""

    def __init__(self, options: PluginOptions, preparer: Preparer, files: Files | None = None) -> None:
        self._options = options
        self._files = files or Files()
        self._preparer = preparer
        self._dra: _Listening | None = None
        self._registrar: _Listening | None = None
        self.registration = RegistrationService(dra_socket(options))

    def start(self) -> None:
        """Listen on the DRA socket, then on the registration socket.

        Sockets that an earlier instance left are replaced. Raises SocketInvalid, naming the option, for a path that is
        too long, is something else than a socket, or can not be listened on; then neither socket is left.
        """
        dra, registrar = dra_socket(self._options), registration_socket(self._options)
        for path, flag in ((dra, "--plugin-dir"), (registrar, "--registry-dir")):
            _check_socket(path, flag)
        self._files.make_directory(self._options.plugin_dir)
        self._files.make_directory(self._options.registry_dir)
        self._dra = self._listen(dra, "--plugin-dir", lambda server: add_services(self._preparer, server))
        try:
            self._registrar = self._listen(
                registrar,
                "--registry-dir",
                lambda server: api_pb2_grpc.add_RegistrationServicer_to_server(self.registration, server),
            )
        except SocketInvalid:
            self.stop()
            raise

    def stop(self) -> None:
        """Take the registration socket away, then the DRA socket, and let calls in progress finish.

        A socket that another plugin has put in place of ours stays.
        """
        if self._registrar is not None:
            self._take_away(self._registrar, grace=None)
            self._registrar = None
        if self._dra is not None:
            self._take_away(self._dra, grace=_DRAIN_SECONDS)
            self._dra = None

    def _listen(self, path: Path, flag: str, add: Callable[[grpc.Server], None]) -> _Listening:
        unpublished = path.with_name(_UNPUBLISHED_NAME)
        self._files.unlink_socket(unpublished)
        server = grpc.server(ThreadPoolExecutor(_WORKERS, thread_name_prefix=path.stem))
        add(server)
        try:
            server.add_insecure_port(f"unix:{unpublished}")
            server.start()
            inode = unpublished.lstat().st_ino
            self._files.publish_socket(unpublished, path)
        except (RuntimeError, OSError) as error:
            server.stop(grace=None)
            raise SocketInvalid(flag, f"can not listen on {path}: {error}", remedy="check the directory") from error
        return _Listening(server, path, inode)

    def _take_away(self, listening: _Listening, *, grace: float | None) -> None:
        if _inode(listening.path) == listening.inode:
            self._files.unlink_socket(listening.path)
        listening.server.stop(grace).wait()


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None


def _check_socket(path: Path, flag: str) -> None:
    length = len(str(path).encode())
    if length > _MAX_SOCKET_PATH:
        raise SocketInvalid(
            flag,
            f"socket path {path} has {length} bytes, the system allows {_MAX_SOCKET_PATH}",
            remedy="give a shorter directory",
        )
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        raise SocketInvalid(flag, f"{path} is there and is no socket", remedy="move it away")
