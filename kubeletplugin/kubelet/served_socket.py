"""One gRPC server at one unix socket that others may take away.

The socket is bound under a hidden name and renamed over what is there, so there is no moment without one. gRPC alone
removes, when a server stops, whatever lies at the path that the server was bound to; behind a hidden name that is never
used twice it can not hit the socket of another instance, or our own next one.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

from fracgpu.driver.kill_points import kill_point
from fracgpu.kubeletplugin.errors import SocketInvalid
from fracgpu.kubeletplugin.kubelet.sockets import SocketPlace, is_dead
from fracgpu.kubeletplugin.prepare.files import Files

_LOG: Final = logging.getLogger(__name__)
# A kubelet that is connected to the old server goes on to the new one as soon as the old one stops taking calls.
_HANDOVER_SECONDS: Final = 40.0


class ServedSocket:
    """Serves what `add` registers at `place`, with `workers` threads."""

    def __init__(self, place: SocketPlace, files: Files, add: Callable[[grpc.Server], None], *, workers: int) -> None:
        self.place = place
        self._files = files
        self._add = add
        self._workers = workers
        self._server: grpc.Server | None = None
        self._inode: int | None = None
        self._bound = 0

    def open(self) -> None:
        """Listen, in place of whatever socket is there. A server that listens already is told to end when it is idle.

        Raises SocketInvalid, naming the option, for a path at which that is not possible; then nothing has changed.
        """
        self.place.check()
        former = self._server
        try:
            self._files.make_directory(self.place.path.parent)
            self._server, self._inode = self._listen()
        except (RuntimeError, OSError) as error:
            what = f"can not listen on {self.place.path}: {error}"
            raise SocketInvalid(self.place.flag, what, remedy="check the directory") from error
        if former is not None:
            former.stop(_HANDOVER_SECONDS)

    @property
    def lost(self) -> bool:
        """Whether the socket is gone, or dead. One of another instance that listens there is not a loss."""
        inode = self._present_inode()
        return inode is None or (inode != self._inode and is_dead(self.place.path))

    def close(self, *, grace_seconds: float | None) -> None:
        """Take the socket away, unless another instance has put its own there, and let calls in progress finish.

        A socket that can not be taken away is logged: the next instance finds it dead, and calls finish all the same.
        """
        if self._server is None:
            return
        try:
            if self._present_inode() == self._inode:
                self._files.unlink_socket(self.place.path)
        except OSError as error:
            _LOG.warning("socket not removed", extra={"path": self.place.path, "error": str(error)})
        self._server.stop(grace_seconds).wait()
        self._server = None

    def _listen(self) -> tuple[grpc.Server, int]:
        hidden = self.place.hidden(self._bound)
        self._bound += 1
        self._files.unlink_socket(hidden)
        server = grpc.server(ThreadPoolExecutor(self._workers, thread_name_prefix=self.place.path.stem))
        self._add(server)
        try:
            kill_point("bind of a socket")
            server.add_insecure_port(f"unix:{hidden}")
            server.start()
            inode = hidden.lstat().st_ino
            self._files.publish_socket(hidden, self.place.path)
        except BaseException:
            server.stop(grace=None)
            raise
        return server, inode

    def _present_inode(self) -> int | None:
        try:
            return self.place.path.lstat().st_ino
        except OSError:
            return None
