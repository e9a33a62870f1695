"""ClusterApi over the official client's connection, with bytes of our own.

Of the client we use what is tedious and proven: finding the server and the credentials, renewing tokens, TLS. Requests
and answers go past its models and its JSON encoder: models drop what they do not know, and the encoder's spacing makes
objects that the API server later refuses to update (fields that are compared byte by byte).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3
from kubernetes import client, config

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.cluster import Json, SliceEvent, SliceList
from fracgpu.kubeletplugin.errors import ClusterError, Conflict, NotFound, Refused, Unavailable

_RESOURCE_API: Final = "/apis/resource.k8s.io/v1"
_SLICES: Final = f"{_RESOURCE_API}/resourceslices"
# The kubelet gives a whole Prepare 45 s; one answer of a healthy API server takes milliseconds.
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 15.0
# How long one watch runs before everything is looked at afresh, and how long we wait beyond that for its end.
_WATCH_SECONDS: Final = 240
_WATCH_GRACE_SECONDS: Final = 30.0
_MAX_ERROR_TEXT: Final = 300
_NO_QUERY: Final[Mapping[str, str]] = MappingProxyType({})
_GONE: Final = 410


class KubernetesCluster:
    """The API server that a kubeconfig file, or the pod's service account, points to."""

    def __init__(self, kubeconfig: Path | None) -> None:
        """Read the connection settings; nothing is sent yet. Raises Unavailable when they are missing or wrong."""
        configuration: Any = client.Configuration()
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
        self._client: Any = client.ApiClient(configuration)
        self._host: str = configuration.host.rstrip("/")

    def get_claim(self, namespace: str, name: str) -> Json:
        """Return a ResourceClaim."""
        return self._request("GET", f"{_RESOURCE_API}/namespaces/{quote(namespace)}/resourceclaims/{quote(name)}")

    def get_node(self, name: str) -> Json:
        """Return a Node."""
        return self._request("GET", f"/api/v1/nodes/{quote(name)}")

    def list_slices(self, node_name: str) -> SliceList:
        """Return our ResourceSlices of one node."""
        answer = self._request("GET", _SLICES, query=_ours(node_name))
        version = answer.get("metadata", {}).get("resourceVersion", "")
        return SliceList(tuple(answer.get("items") or ()), version)

    def watch_slices(self, node_name: str, resource_version: str) -> Iterator[SliceEvent]:
        """Yield changes of our ResourceSlices of one node after `resource_version`."""
        query = {
            **_ours(node_name),
            "watch": "1",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        response = self._send("GET", _SLICES, query=query, read_seconds=_WATCH_SECONDS + _WATCH_GRACE_SECONDS)
        try:
            for line in _lines(response):
                event = _decode("watch", line)
                if event.get("type") == "ERROR":
                    # Mostly 410 Gone; whatever it is, the answer is to list again.
                    return
                yield SliceEvent(str(event.get("type")), event.get("object") or {})
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unavailable(_SLICES, str(error)) from error
        finally:
            response.close()

    def create_slice(self, body: Json, *, dry_run: bool = False) -> Json:
        """Create a ResourceSlice and return it as stored; with `dry_run`, as it would be."""
        return self._request("POST", _SLICES, body=body, query=_dry_run(dry_run))

    def replace_slice(self, body: Json, *, dry_run: bool = False) -> Json:
        """Replace a ResourceSlice whose metadata.resourceVersion still holds, and return it as stored."""
        return self._request("PUT", f"{_SLICES}/{quote(body['metadata']['name'])}", body=body, query=_dry_run(dry_run))

    def delete_slice(self, name: str) -> None:
        """Delete a ResourceSlice."""
        self._request("DELETE", f"{_SLICES}/{quote(name)}")

    def close(self) -> None:
        """Drop all connections."""
        self._client.rest_client.pool_manager.clear()

    def _request(
        self, method: str, path: str, *, body: Json | None = None, query: Mapping[str, str] = _NO_QUERY
    ) -> Json:
        response = self._send(method, path, body=body, query=query, read_seconds=_READ_SECONDS)
        try:
            return _decode(path, response.read())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unavailable(path, str(error)) from error
        finally:
            response.release_conn()

    def _send(
        self,
        method: str,
        path: str,
        *,
        read_seconds: float,
        body: Json | None = None,
        query: Mapping[str, str] = _NO_QUERY,
    ) -> urllib3.BaseHTTPResponse:
        headers: dict[str, Any] = {"Accept": "application/json", "User-Agent": "fracgpu-kubeletplugin"}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        url = f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            # Reads a projected token again from time to time, and fails while that is being replaced or gone.
            self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
            response: urllib3.BaseHTTPResponse = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=content,
                headers=headers,
                preload_content=False,
                retries=False,
                timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=read_seconds),
            )
        except (urllib3.exceptions.HTTPError, OSError, config.ConfigException) as error:
            raise _unavailable(path, str(error)) from error
        if not 200 <= response.status < 300:
            raise _failure(f"{method} {path}", response)
        return response


def _ours(node_name: str) -> dict[str, str]:
    return {"fieldSelector": f"spec.driver={DRIVER_NAME},spec.nodeName={node_name}"}


def _dry_run(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a watch as they arrive: events end with a line break, chunks end anywhere."""
    pending = b""
    for chunk in response.stream(amt=65536):
        *complete, pending = (pending + chunk).split(b"\n")
        yield from (line for line in complete if line)


def _decode(path: str, content: bytes) -> Json:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise _unavailable(path, "the answer is no JSON") from error
    if not isinstance(document, dict):
        raise _unavailable(path, "the answer is no JSON object")
    return document


def _failure(subject: str, response: urllib3.BaseHTTPResponse) -> ClusterError:
    try:
        content = response.read()
    except (urllib3.exceptions.HTTPError, OSError):
        content = b""
    finally:
        response.release_conn()
    status = response.status
    what = f"status {status}: {_message(content)}"
    if status == 404:
        return NotFound(subject, what, remedy="create the object, or check its name")
    if status in (409, _GONE):
        return Conflict(subject, what, remedy="read it again and retry")
    if status == 429 or status >= 500:
        return Unavailable(subject, what, remedy="it is tried again; look at the API server if it lasts")
    return Refused(subject, what, remedy="check the plugin's RBAC rules and the cluster's admission policies")


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])[:_MAX_ERROR_TEXT]
    except (ValueError, KeyError, TypeError):
        return content[:_MAX_ERROR_TEXT].decode(errors="replace")


def _unavailable(path: str, what: str) -> Unavailable:
    return Unavailable(f"API server {path}", what, remedy="it is tried again; check the connection if it lasts")
