"""Where the plugin's sockets lie, and which of those that lie there are nobody's any more.

With a pod UID every instance has sockets of its own, so that the new plugin of a rolling update is reachable before the
old one goes, and the kubelet tells them apart by their endpoint. A path that is too long for a socket is made shorter
with a hash of the UID, as k8s.io/dynamic-resource-allocation does.

Sources: unix(7), KEP-3189 (plugin registration), kubelet pluginwatcher README ("Seamless Upgrade").
"""

import errno
import hashlib
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.errors import SocketInvalid
from fracgpu.kubeletplugin.options import PluginOptions

# sun_path of unix(7) has 108 bytes, the last one a NUL.
_MAX_SOCKET_PATH: Final = 107
_HASH_DIGITS: Final = 8
_HIDDEN: Final = "." + "[0-9a-f]" * _HASH_DIGITS + "[0-9]*"
# Between bind and listen a socket refuses connections although it is somebody's. Only hidden names are seen so.
_BINDING_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class SocketPlace:
    """A socket's path, and the option that decides about it."""

    path: Path
    flag: str

    def hidden(self, number: int) -> Path:
        """Return where the socket is bound before it gets its name; `number` tells those of one instance apart.

        The kubelet passes over names that begin with a dot. Never longer than the name itself.
        """
        digest = hashlib.sha256(self.path.name.encode()).hexdigest()
        return self.path.with_name(f".{digest[:_HASH_DIGITS]}{number % 1000}")

    def check(self) -> None:
        """Raise SocketInvalid for a path that is too long, or where something else than a socket lies."""
        for path in (self.path, self.hidden(999)):
            length = len(str(path).encode())
            if length > _MAX_SOCKET_PATH:
                raise SocketInvalid(
                    self.flag,
                    f"socket path {path} has {length} bytes, the system allows {_MAX_SOCKET_PATH}",
                    remedy="give a shorter directory",
                )
        if self.path.exists() and not _is_socket(self.path):
            raise SocketInvalid(self.flag, f"{self.path} is there and is no socket", remedy="move it away")


def dra_socket(options: PluginOptions) -> SocketPlace:
    """Return where the DRA service listens."""
    return _place(options.plugin_dir, "--plugin-dir", prefix="dra", uid=options.pod_uid, suffix=".sock")


def registration_socket(options: PluginOptions) -> SocketPlace:
    """Return where the kubelet finds the plugin."""
    return _place(options.registry_dir, "--registry-dir", prefix=DRIVER_NAME, uid=options.pod_uid, suffix="-reg.sock")


def stale_sockets(options: PluginOptions) -> Iterator[Path]:
    """Yield the sockets of ours, of any instance, at which nobody listens any more.

    Only names that we give are looked at, and only a refused connection is proof: whatever else happens, the socket may
    be somebody's.
    """
    patterns = (
        (options.plugin_dir, "dra.sock"),
        (options.plugin_dir, "dra-*.sock"),
        (options.plugin_dir, _HIDDEN),
        (options.registry_dir, f"{DRIVER_NAME}-reg.sock"),
        (options.registry_dir, f"{DRIVER_NAME}-*-reg.sock"),
        (options.registry_dir, _HIDDEN),
    )
    for directory, pattern in patterns:
        for path in sorted(directory.glob(pattern)):
            if not (path.name.startswith(".") and _is_new(path)) and is_dead(path):
                yield path


def is_dead(path: Path) -> bool:
    """Whether `path` is a socket at which nobody listens."""
    if not _is_socket(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
    return False


def _place(directory: Path, flag: str, *, prefix: str, uid: str, suffix: str) -> SocketPlace:
    if not uid:
        return SocketPlace(directory / f"{prefix}{suffix}", flag)
    path = directory / f"{prefix}-{uid}{suffix}"
    if len(str(path).encode()) > _MAX_SOCKET_PATH:
        path = directory / f"{prefix}-{hashlib.sha256(uid.encode()).hexdigest()[:_HASH_DIGITS]}{suffix}"
    return SocketPlace(path, flag)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def _is_new(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime < _BINDING_SECONDS
    except OSError:
        return True
