"""Requests to the API server over the official client's connection, with bytes of our own.

Of the client we use what is tedious and proven: finding the server and the credentials, renewing tokens, TLS. Requests
and answers go past its models and its JSON encoder: models drop what they do not know, and the encoder's spacing makes
objects that the API server later refuses to update (fields that are compared byte by byte).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

from fracgpu.driver.kube.errors import (
    ClusterError,
    Conflict,
    Expired,
    Forbidden,
    Immutable,
    NotFound,
    Refused,
    Unavailable,
)

Json = dict[str, Any]

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"

# The kubelet gives a whole Prepare 45 s; one answer of a healthy API server takes milliseconds.
CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 15.0
DEFAULT_CONNECTIONS: Final = 8
_MAX_ERROR_TEXT: Final = 300
_NO_QUERY: Final[Mapping[str, str]] = MappingProxyType({})
# A deadline may pass between the look at it and the call; zero would be an error of its own.
_SHORTEST_SECONDS: Final = 0.001
_GONE: Final = 410
_UNAUTHORIZED: Final = 401
# What the API server's validation says of a changed immutable field, whatever the field.
_IMMUTABLE: Final = "field is immutable"
# A missing right to one driver's entries of status.devices is found by validation, not by the authorizer (1.36).
_MISSING_RIGHT: Final = 'requires resource="resourceclaims/'


class KubernetesTransport:
    """The connection to the API server that a kubeconfig file, or the pod's service account, points to.

    Many threads may use it; `connections` is how many are kept open for them.
    """

    def __init__(self, kubeconfig: Path | None, *, user_agent: str, connections: int = DEFAULT_CONNECTIONS) -> None:
        """Read the connection settings; nothing is sent yet. Raises Unavailable when they are missing or wrong."""
        self._user_agent = user_agent
        self._kubeconfig = kubeconfig
        self._connections = connections
        self._client: Any = _client(kubeconfig, connections)

    def close(self) -> None:
        """Drop all connections."""
        self._client.rest_client.pool_manager.clear()

    def json(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        query: Mapping[str, str] = _NO_QUERY,
        content_type: str = JSON,
        read_seconds: float = READ_SECONDS,
    ) -> Json:
        """Send `body`, canonically encoded, and return the object that comes back. Raises ClusterError."""
        content = None if body is None else encode(body)
        return decode(
            path,
            self.exchange(method, path, content, query=query, content_type=content_type, read_seconds=read_seconds),
        )

    def exchange(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        query: Mapping[str, str] = _NO_QUERY,
        content_type: str = JSON,
        accept: str = JSON,
        read_seconds: float = READ_SECONDS,
    ) -> bytes:
        """Send `content` and return the bytes of the answer. Raises ClusterError."""
        response = self.send(
            method,
            path,
            content=content,
            query=query,
            content_type=content_type,
            accept=accept,
            read_seconds=read_seconds,
        )
        try:
            return response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unavailable(path, str(error)) from error
        finally:
            response.release_conn()

    def send(
        self,
        method: str,
        path: str,
        *,
        read_seconds: float,
        content: bytes | None = None,
        query: Mapping[str, str] = _NO_QUERY,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and return the answer, its body not read yet; the caller closes it. Raises ClusterError."""
        headers: dict[str, Any] = {"Accept": accept, "User-Agent": self._user_agent}
        if content is not None:
            headers["Content-Type"] = content_type
        target = path + (f"?{urlencode(query)}" if query else "")
        # In all, not each: what is left of a call's deadline may be less than connecting and answering may take.
        limit = max(read_seconds, _SHORTEST_SECONDS)
        timeout = urllib3.Timeout(total=limit, connect=min(CONNECT_SECONDS, limit))
        used = self._client
        response = _request(used, method, target, content, headers, timeout)
        if response.status == _UNAUTHORIZED:
            # The client reads a kubeconfig's token, tokenFile or certificate once; they are renewed meanwhile.
            response.close()
            response = _request(self._renewed(used), method, target, content, headers, timeout)
        if not 200 <= response.status < 300:
            raise _failure(f"{method} {path}", response)
        return response

    def _renewed(self, used: Any) -> Any:
        """Return a client with the credentials as they are now; `used` are those that were not accepted."""
        if self._client is used:
            self._client = _client(self._kubeconfig, self._connections)
        return self._client


def _client(kubeconfig: Path | None, connections: int) -> Any:
    configuration: Any = client.Configuration(connection_pool_maxsize=connections)
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(
                config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
            )
    except Exception as error:
        # The loader lets the YAML parser's errors through, and those of its own indexing into what it parsed.
        place = f"kubeconfig {kubeconfig}" if kubeconfig else "service account of this pod"
        raise Unavailable(
            place, " ".join(str(error).split()), remedy="give --kubeconfig, or run in a pod with a token"
        ) from error
    return client.ApiClient(configuration)


def _request(
    used: Any, method: str, target: str, content: bytes | None, headers: dict[str, Any], timeout: urllib3.Timeout
) -> urllib3.BaseHTTPResponse:
    try:
        # Reads a projected token again from time to time, and fails while that is being replaced or gone.
        used.update_params_for_auth(headers, [], ["BearerToken"], target, method, None)
        response: urllib3.BaseHTTPResponse = used.rest_client.pool_manager.request(
            method,
            f"{used.configuration.host.rstrip('/')}{target}",
            body=content,
            headers=headers,
            preload_content=False,
            retries=False,
            timeout=timeout,
        )
    except (urllib3.exceptions.HTTPError, OSError, config.ConfigException) as error:
        raise unavailable(target.partition("?")[0], str(error)) from error
    return response


def encode(body: Json) -> bytes:
    """Return canonical JSON: the encoding in which the API server would write it too."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode(path: str, content: bytes) -> Json:
    """Return the JSON object in an answer. Raises Unavailable, naming the path, when it is none."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise unavailable(path, "the answer is no JSON") from error
    if not isinstance(document, dict):
        raise unavailable(path, "the answer is no JSON object")
    return document


def unavailable(path: str, what: str) -> Unavailable:
    """Return the error of an API server that does not answer as it should."""
    return Unavailable(f"API server {path}", what, remedy="it is tried again; check the connection if it lasts")


def _failure(subject: str, response: urllib3.BaseHTTPResponse) -> ClusterError:
    try:
        content = response.read()
    except (urllib3.exceptions.HTTPError, OSError):
        content = b""
    finally:
        response.release_conn()
    status = response.status
    full = _message(content)
    what = f"status {status}: {full[:_MAX_ERROR_TEXT]}"
    if status == 404:
        return NotFound(subject, what, remedy="create the object, or check its name")
    if status in (409, _GONE):
        return (Expired if status == _GONE else Conflict)(subject, what, remedy="read it again and retry")
    if status == _UNAUTHORIZED:
        # No refusal of what was asked: it is over as soon as there is a valid token.
        remedy = "it is tried again with the token as it is then; look at the kubeconfig file or the service account"
        return Unavailable(subject, what, remedy=remedy)
    if status == 429 or status >= 500:
        return Unavailable(subject, what, remedy="it is tried again; look at the API server if it lasts")
    kind: type[Refused] = Refused
    if status == 422 and _IMMUTABLE in full:
        # Said first: a changed allocation is also something that we have no right to, but did not mean to do.
        kind = Immutable
    elif status == 403 or (status == 422 and _MISSING_RIGHT in full):
        kind = Forbidden
    return kind(subject, what, remedy="check our RBAC rules and the cluster's admission policies")


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")
