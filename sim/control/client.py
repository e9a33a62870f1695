"""API client of the control plane: JSON over HTTP that keeps the bytes of opaque parameters.

The components that it stands for speak protobuf, which keeps those bytes; a client that decodes and encodes JSON would
run into `field is immutable` on claims that were written with spaces.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.rawjson import RawJsonError, dumps, loads
from fracgpu.sim.api.requests import VERBATIM_JSON
from fracgpu.sim.api.resources import Resource

_TIMEOUT_SECONDS = 30.0


class ApiRefusedError(FracgpuError):
    """The API server answered with a Status; `code` is the HTTP code, `reason` the machine-readable reason."""

    def __init__(self, subject: str, what: str, *, code: int, reason: str, remedy: str = "see the message") -> None:
        super().__init__(subject, what, remedy=remedy)
        self.code = code
        self.reason = reason


class ApiUnreachableError(FracgpuError):
    """No answer from the API server."""


class WatchStream:
    """One watch. `open` it, iterate for (type, object); `close` from any thread ends whatever is going on."""

    def __init__(self, address: tuple[str, int], path: str) -> None:
        self._path = path
        self._connection = http.client.HTTPConnection(*address)
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
            self._connection.request("GET", self._path, headers={"Accept": VERBATIM_JSON})
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
                event = loads(line) if line else None
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


class ApiClient:
    """Requests to one API server over plain HTTP. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            remedy = "give the URL of the emulator"
            raise ApiUnreachableError(f"API server {url!r}", "is not a plain HTTP address", remedy=remedy)
        self._address = (parts.hostname, parts.port or 80)

    def get(self, resource: Resource, namespace: str, name: str) -> JsonObject:
        """Return one object."""
        return self._request("GET", path_of(resource, namespace, name))

    def list(self, resource: Resource) -> tuple[list[JsonObject], str]:
        """Return all objects of a resource and the resourceVersion of the list."""
        answer = self._request("GET", path_of(resource))
        for item in answer["items"]:
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return answer["items"], str(answer["metadata"]["resourceVersion"])

    def watch(self, resource: Resource, revision: str) -> WatchStream:
        """Return a watch, not opened yet, on all objects of a resource after a resourceVersion."""
        query = {"watch": "true", "resourceVersion": revision, "allowWatchBookmarks": "true"}
        return WatchStream(self._address, f"{path_of(resource)}?{urlencode(query)}")

    def create(self, resource: Resource, namespace: str, body: JsonObject, *, dry_run: bool = False) -> JsonObject:
        """Create an object."""
        return self._request("POST", path_of(resource, namespace) + ("?dryRun=All" if dry_run else ""), body)

    def update(self, resource: Resource, body: JsonObject, *, subresource: str = "") -> JsonObject:
        """Replace an object, or one subresource of it, guarded by the resourceVersion in the body."""
        meta = body["metadata"]
        path = path_of(resource, str(meta.get("namespace", "")), str(meta["name"]))
        return self._request("PUT", path + (f"/{subresource}" if subresource else ""), body)

    def delete(self, resource: Resource, obj: JsonObject) -> None:
        """Delete exactly this object (by UID)."""
        meta = obj["metadata"]
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": meta["uid"]}}
        self._request("DELETE", path_of(resource, str(meta.get("namespace", "")), str(meta["name"])), options)

    def post(self, path: str, body: JsonObject) -> None:
        """POST to a subresource whose answer does not matter."""
        self._request("POST", path, body)

    def _request(self, method: str, path: str, body: JsonObject | None = None) -> JsonObject:
        headers = {"Accept": VERBATIM_JSON}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = dumps(body, verbatim=True)
        connection = http.client.HTTPConnection(*self._address, timeout=_TIMEOUT_SECONDS)
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
        value = loads(answer)
        return value if isinstance(value, dict) else {}


def path_of(resource: Resource, namespace: str = "", name: str = "") -> str:
    """Return the URL path of a collection or an object."""
    inside = f"/namespaces/{namespace}" if resource.namespaced and namespace else ""
    return f"{resource.root}{inside}/{resource.plural}" + (f"/{name}" if name else "")


def _unreachable(path: str, error: Exception) -> ApiUnreachableError:
    return ApiUnreachableError(f"API request {path}", str(error) or type(error).__name__, remedy="is the server up?")


def _refused_bytes(path: str, body: bytes, code: int) -> ApiRefusedError:
    try:
        status: Any = loads(body)
    except RawJsonError:
        status = {"message": body.decode("utf-8", "replace")}
    return _refused(path, status if isinstance(status, dict) else {}, code)


def _refused(path: str, status: Mapping[str, Any], code: int) -> ApiRefusedError:
    return ApiRefusedError(
        f"API request {path}",
        str(status.get("message", "")),
        code=int(status.get("code", code)),
        reason=str(status.get("reason", "")),
    )
