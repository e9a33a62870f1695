"""The answer to a watch, as the official client's Watch wants to read it, and as we want to end it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import urllib3


class WatchStream:
    """A watch's answer whose connection may break: that is an end like any other, told to `broken`.

    `heard` is called with every piece that arrives. `end` may be called from any thread.
    """

    def __init__(
        self, response: urllib3.BaseHTTPResponse, *, heard: Callable[[], None], broken: Callable[[Exception], None]
    ) -> None:
        self.status = response.status
        self._response: Any = response
        self._heard = heard
        self._broken = broken

    @property
    def connection(self) -> Any:
        """The connection, which Watch.stop shuts down."""
        return self._response.connection

    def stream(self, **how: Any) -> Iterator[bytes]:
        """Yield pieces of the answer as they come, until the API server ends it or the connection breaks."""
        pieces = self._response.stream(**how)
        while True:
            try:
                piece = next(pieces, None)
            except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
                # The last two: what http.client makes of a connection that `end` has closed under it.
                self._broken(error)
                return
            if piece is None:
                return
            self._heard()
            yield piece

    def end(self) -> None:
        """Make a reader that waits see the end."""
        sock = getattr(self._response.connection, "sock", None)
        if sock is not None:
            # Closing instead would wait for the lock that the reader holds.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection: what is left of the answer is not wanted."""
        self._response.close()

    def release_conn(self) -> None:
        """Give the connection back, if it is still of use."""
        self._response.release_conn()
