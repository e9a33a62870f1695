"""The node's way to the Kubernetes API: raw JSON over HTTP, nothing typed that could drop a field.

The kubelet's identity needs no credentials here: the embedded cluster listens on the loopback only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

Json = dict[str, Any]

_MERGE_PATCH = "application/merge-patch+json"
_REQUEST_TIMEOUT_S = 30.0


class ApiError(Exception):
    """The API server answered with a Status object: HTTP code, reason and message as it gave them."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason


class Watch:
    """An open watch. Iterate for ``(type, object)``; `close` from any thread ends the iteration."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._closed = False

    def __iter__(self) -> Iterator[tuple[str, Json]]:
        """Yield events until the server or `close` ends the stream."""
        try:
            for line in self._response:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                yield event["type"], event["object"]
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            # A closed socket looks different depending on where the reader stood; an open one is a broken stream.
            if not self._closed:
                return
        finally:
            self.close()

    def close(self) -> None:
        """End the stream; a reader in another thread returns at once."""
        self._closed = True
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class KubeApi:
    """Requests to one API server, one connection each: safe to use from several threads."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"API server {url!r}: the embedded cluster is served over plain http on the loopback")
        self._address = (parts.hostname, parts.port or 80)

    def get(self, path: str) -> Json:
        """Return the object (or list) at ``path``; raises ApiError."""
        return self._request("GET", path)

    def create(self, path: str, body: Json) -> Json:
        """POST ``body`` to the collection ``path``; raises ApiError."""
        return self._request("POST", path, body)

    def replace(self, path: str, body: Json) -> Json:
        """PUT ``body``, with optimistic locking when it carries a resourceVersion; raises ApiError."""
        return self._request("PUT", path, body)

    def merge_patch(self, path: str, body: Json) -> Json:
        """Apply a JSON merge patch (RFC 7386); raises ApiError."""
        return self._request("PATCH", path, body, content_type=_MERGE_PATCH)

    def delete(self, path: str, options: Json | None = None) -> Json:
        """DELETE with optional DeleteOptions; raises ApiError."""
        return self._request("DELETE", path, options)

    def watch(self, path: str, query: Mapping[str, str]) -> Watch:
        """Open a watch on the collection ``path``; raises ApiError."""
        connection = http.client.HTTPConnection(*self._address)
        connection.request("GET", f"{path}?{urlencode({**query, 'watch': 'true', 'allowWatchBookmarks': 'true'})}")
        response = connection.getresponse()
        if response.status >= 300:
            body = response.read()
            connection.close()
            raise _error(response.status, body)
        return Watch(connection, response)

    def _request(
        self, method: str, path: str, body: Json | None = None, *, content_type: str = "application/json"
    ) -> Json:
        connection = http.client.HTTPConnection(*self._address, timeout=_REQUEST_TIMEOUT_S)
        try:
            encoded = None if body is None else json.dumps(body).encode()
            connection.request(method, path, encoded, {} if encoded is None else {"Content-Type": content_type})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise _error(response.status, answer)
        parsed: Json = json.loads(answer)
        return parsed


def _error(code: int, body: bytes) -> ApiError:
    try:
        status = json.loads(body)
        return ApiError(code, status.get("reason", ""), status.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(code, "", body.decode(errors="replace"))
