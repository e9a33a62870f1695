"""One request, sent to an API server as it is: the emulated one or a real one, by an administrator or with a token.

What is claimed of both is written once, as requests and answers, and the two must answer alike, to the letter.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import urlsplit

from fracgpu.sim.api.access import Access
from fracgpu.sim.api.identity import service_account
from fracgpu.sim.api.server import ApiServer

Json = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
_TIMEOUT_S = 30.0
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Answer:
    """Status code and body of one answer, the body as it came."""

    code: int
    raw: bytes

    @property
    def body(self) -> Json:
        """The decoded body; raises ValueError when it is no JSON."""
        decoded: Json = json.loads(self.raw)
        return decoded

    @property
    def verdict(self) -> tuple[int, str, str]:
        """Code, reason and message of a refusal; of a success only that it is one."""
        if 200 <= self.code < 300:
            return (200, "", "")
        return (self.code, str(self.body.get("reason", "")), str(self.body.get("message", "")))

    @property
    def findings(self) -> set[tuple[str, str]]:
        """Field and text of everything that validation found, in no order: Go's maps have none."""
        return {(cause["field"], cause["message"]) for cause in self.body["details"]["causes"]}


class Requests:
    """HTTP to one server without a Kubernetes library; `headers` go with every request."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None, headers: Mapping[str, str] = _NONE) -> None:
        """Remember where; nothing is sent."""
        parts = urlsplit(url)
        assert parts.hostname
        self._address, self._tls, self._headers = (parts.hostname, parts.port), tls, dict(headers)

    def send(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json", accept: str = ""
    ) -> Answer:
        """Send a request; a body that is bytes goes as it is, any other as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {**self._headers, **({"Accept": accept} if accept else {})}
        if data is not None:
            headers["Content-Type"] = content_type
        connection = self._connection()
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection(*self._address, timeout=_TIMEOUT_S, context=self._tls)
        return http.client.HTTPConnection(*self._address, timeout=_TIMEOUT_S)


class Server(Protocol):
    """An API server with the manifests of deploy/."""

    @property
    def admin(self) -> Requests:
        """Requests of an administrator."""

    def user(self, namespace: str, account: str, *, node: str = "") -> Requests:
        """Requests with a token of a service account; of a pod on `node`, which is made if need be."""


class EmulatedServer:
    """The emulator of fracgpu.sim."""

    def __init__(self, server: ApiServer, access: Access) -> None:
        """Use a running server."""
        self._server, self._access = server, access
        self.admin = Requests(server.url)

    def user(self, namespace: str, account: str, *, node: str = "") -> Requests:
        """Return requests with a token that is issued now."""
        token = self._access.tokens.issue(service_account(namespace, account, node=node))
        return Requests(self._server.url, headers={"Authorization": f"Bearer {token}"})
