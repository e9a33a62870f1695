"""HTTP to an API server: one connection per request, and watches that any thread can end.

The control plane stand-ins and the node talk to the same server and differ only in how they treat JSON: the former
have to keep the bytes of opaque parameters, as protobuf would, the latter are ordinary JSON clients. So the JSON is a
parameter, and everything about connections is here, once. The embedded server speaks plain HTTP; the tests that run
the same scenarios on a real cluster bring their credentials in a TLS context.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from fracgpu.driver.errors import FracgpuError

JsonObject = dict[str, Any]

_TIMEOUT_SECONDS: Final = 30.0
_JSON: Final = "application/json"


class ApiRefusedError(FracgpuError):
    """The API server answered with a Status; `code` is the HTTP code, `reason` the machine-readable reason."""

    def __init__(self, subject: str, what: str, *, code: int, reason: str, remedy: str = "see the message") -> None:
        super().__init__(subject, what, remedy=remedy)
        self.code = code
        self.reason = reason


class ApiUnreachableError(FracgpuError):
    """No answer from the API server."""


@dataclass(frozen=True, slots=True)
class JsonCodec:
    """How bodies are written and read; `accept` asks the server for what `decode` understands.

    `decode` raises ValueError for anything that is not JSON.
    """

    encode: Callable[[JsonObject], bytes]
    decode: Callable[[bytes], Any]
    accept: str = _JSON


def _encode_plain(body: JsonObject) -> bytes:
    return json.dumps(body).encode()


PLAIN_JSON: Final = JsonCodec(encode=_encode_plain, decode=json.loads)


class WatchStream:
    """One watch. `open` it, iterate for (type, object); `close` from any thread ends whatever is going on."""

    def __init__(self, connection: http.client.HTTPConnection, path: str, codec: JsonCodec) -> None:
        self._path = path
        self._codec = codec
        self._connection = connection
        self._response: http.client.HTTPResponse | None = None
        self._lock = threading.Lock()
        self._closed = False

    def open(self) -> None:
        """Send the request and wait for the head of the answer. Raises ApiRefusedError or ApiUnreachableError."""
        try:
            with self._lock:
                if not self._closed:
                    self._connection.connect()
            # After a close this fails like on any other connection that is gone.
            self._connection.auto_open = 0
            self._connection.request("GET", self._path, headers={"Accept": self._codec.accept})
            self._response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _unreachable(self._path, error) from error
        if self._response.status >= 300:
            body = self._response.read()
            self.close()
            raise _refused_bytes(self._path, body, self._response.status)

    def __iter__(self) -> Iterator[tuple[str, JsonObject]]:
        """Yield events until the stream ends. Raises ApiRefusedError for an ERROR event, e.g. code 410."""
        while self._response is not None:
            try:
                line = self._response.readline()
                event = self._codec.decode(line) if line else None
            except (OSError, ValueError, AttributeError, http.client.HTTPException):
                # A socket that another thread shut down looks different in each state of the reader.
                return
            if event is None:
                return
            if event["type"] == "ERROR":
                raise _refused(self._path, event["object"], 500)
            yield event["type"], event["object"]

    def close(self) -> None:
        """End the stream, also one that is being opened."""
        with self._lock:
            self._closed = True
            sock = self._connection.sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            self._connection.close()


class ApiTransport:
    """Requests to one API server. Safe to use from several threads.

    With `tls`, which carries the client's certificate, over HTTPS; plain HTTP without.
    """

    def __init__(self, url: str, codec: JsonCodec = PLAIN_JSON, *, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        scheme = "https" if tls else "http"
        if parts.scheme != scheme or not parts.hostname:
            remedy = f"give a URL that begins with {scheme}:"
            raise ApiUnreachableError(f"API server {url!r}", f"is not an address for {scheme}", remedy=remedy)
        self._address = (parts.hostname, parts.port)
        self._codec = codec
        self._tls = tls

    def request(
        self, method: str, path: str, body: JsonObject | None = None, *, content_type: str = _JSON
    ) -> JsonObject:
        """Return the answer's object, {} if it is none. Raises ApiRefusedError or ApiUnreachableError."""
        headers = {"Accept": self._codec.accept}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = self._codec.encode(body)
        connection = self._connection(timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(path, error) from error
        finally:
            connection.close()
        if response.status >= 300:
            raise _refused_bytes(path, answer, response.status)
        value = self._codec.decode(answer)
        return value if isinstance(value, dict) else {}

    def watch(self, path: str) -> WatchStream:
        """Return a watch on `path`, which brings its own query; not opened yet."""
        return WatchStream(self._connection(), path, self._codec)

    def _connection(self, timeout: float | None = None) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection(*self._address, timeout=timeout, context=self._tls)
        return http.client.HTTPConnection(*self._address, timeout=timeout)


def _unreachable(path: str, error: Exception) -> ApiUnreachableError:
    return ApiUnreachableError(f"API request {path}", str(error) or type(error).__name__, remedy="is the server up?")


def _refused_bytes(path: str, body: bytes, code: int) -> ApiRefusedError:
    try:
        status = json.loads(body)
    except ValueError:
        status = {"message": body.decode("utf-8", "replace")}
    return _refused(path, status if isinstance(status, dict) else {}, code)


def _refused(path: str, status: Mapping[str, Any], code: int) -> ApiRefusedError:
    return ApiRefusedError(
        f"API request {path}",
        str(status.get("message", "")),
        code=int(status.get("code", code)),
        reason=str(status.get("reason", "")),
    )
