"""The node's way to the Kubernetes API: plain JSON by path, nothing typed that could drop a field.

The kubelet's identity needs no credentials here: the embedded cluster listens on the loopback only.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fracgpu.sim.transport import ApiTransport, WatchStream

Json = dict[str, Any]

_MERGE_PATCH = "application/merge-patch+json"


class KubeApi:
    """Requests to one API server: safe to use from several threads.

    Every method raises ApiRefusedError with the server's code, reason and message, or ApiUnreachableError.
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._transport = ApiTransport(url, tls=tls)

    def get(self, path: str) -> Json:
        """Return the object (or list) at ``path``."""
        return self._transport.request("GET", path)

    def create(self, path: str, body: Json) -> Json:
        """POST ``body`` to the collection ``path``."""
        return self._transport.request("POST", path, body)

    def replace(self, path: str, body: Json) -> Json:
        """PUT ``body``, with optimistic locking when it carries a resourceVersion."""
        return self._transport.request("PUT", path, body)

    def merge_patch(self, path: str, body: Json) -> Json:
        """Apply a JSON merge patch (RFC 7386)."""
        return self._transport.request("PATCH", path, body, content_type=_MERGE_PATCH)

    def send(self, method: str, path: str, body: Any, *, content_type: str = "application/json") -> Json:
        """Make a request whose body is any JSON, of any content type: patches that are lists, subresources."""
        return self._transport.request(method, path, body, content_type=content_type)

    def delete(self, path: str, options: Json | None = None) -> Json:
        """DELETE with optional DeleteOptions."""
        return self._transport.request("DELETE", path, options)

    def watch(self, path: str, query: Mapping[str, str]) -> WatchStream:
        """Return an open watch on the collection ``path``."""
        options = {**query, "watch": "true", "allowWatchBookmarks": "true"}
        stream = self._transport.watch(f"{path}?{urlencode(options)}")
        stream.open()
        return stream
