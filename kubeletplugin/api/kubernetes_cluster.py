"""ClusterApi and ClaimStatusApi over the official client's connection: which request each of their methods is.

Objects stay the API server's own JSON, or its own protobuf bytes where JSON would lose some (see claim_writer.py).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import urllib3

from fracgpu.driver.kube.transport import (
    MERGE_PATCH,
    READ_SECONDS,
    KubernetesTransport,
    decode,
    unavailable,
)
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.api.cluster import Json, SliceEvent, SliceList
from fracgpu.proto.kubernetes_envelope import PROTOBUF, unwrap_claim, wrap_claim
from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim

_USER_AGENT: Final = "fracgpu-kubeletplugin"
_RESOURCE_API: Final = "/apis/resource.k8s.io/v1"
_SLICES: Final = f"{_RESOURCE_API}/resourceslices"
# How long one watch runs before everything is looked at afresh, and how long we wait beyond that for its end.
_WATCH_SECONDS: Final = 240
_WATCH_GRACE_SECONDS: Final = 30.0


class KubernetesCluster:
    """The API server that a kubeconfig file, or the pod's service account, points to.

    Raises Unavailable when the connection's settings are missing or wrong.
    """

    def __init__(self, kubeconfig: Path | None) -> None:
        self._transport = KubernetesTransport(kubeconfig, user_agent=_USER_AGENT)

    def get_claim(self, namespace: str, name: str, *, timeout_seconds: float | None = None) -> Json:
        """Return a ResourceClaim; the server may be silent for `timeout_seconds`, or the usual time if that is less."""
        seconds = READ_SECONDS if timeout_seconds is None else min(READ_SECONDS, timeout_seconds)
        return self._transport.json("GET", _claim_path(namespace, name), read_seconds=seconds)

    def get_node(self, name: str) -> Json:
        """Return a Node."""
        return self._transport.json("GET", f"/api/v1/nodes/{quote(name)}")

    def list_slices(self, node_name: str) -> SliceList:
        """Return our ResourceSlices of one node."""
        answer = self._transport.json("GET", _SLICES, query=_ours(node_name))
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
        response = self._transport.send("GET", _SLICES, query=query, read_seconds=_WATCH_SECONDS + _WATCH_GRACE_SECONDS)
        try:
            for line in _lines(response):
                event = decode("watch", line)
                if event.get("type") == "ERROR":
                    # Mostly 410 Gone; whatever it is, the answer is to list again.
                    return
                yield SliceEvent(str(event.get("type")), event.get("object") or {})
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unavailable(_SLICES, str(error)) from error
        finally:
            response.close()

    def create_slice(self, body: Json, *, dry_run: bool = False) -> Json:
        """Create a ResourceSlice and return it as stored; with `dry_run`, as it would be."""
        return self._transport.json("POST", _SLICES, body=body, query=_dry_run(dry_run))

    def replace_slice(self, body: Json, *, dry_run: bool = False) -> Json:
        """Replace a ResourceSlice whose metadata.resourceVersion still holds, and return it as stored."""
        path = f"{_SLICES}/{quote(body['metadata']['name'])}"
        return self._transport.json("PUT", path, body=body, query=_dry_run(dry_run))

    def delete_slice(self, name: str) -> None:
        """Delete a ResourceSlice."""
        self._transport.json("DELETE", f"{_SLICES}/{quote(name)}")

    def patch_claim_status(self, namespace: str, name: str, patch: Json) -> Json:
        """Merge `patch` into a ResourceClaim's status and return the claim as stored."""
        path = f"{_claim_path(namespace, name)}/status"
        return self._transport.json("PATCH", path, body=patch, content_type=MERGE_PATCH)

    def get_claim_message(self, namespace: str, name: str) -> ResourceClaim:
        """Return a ResourceClaim as the API server's protobuf, opaque parameters to the byte."""
        path = _claim_path(namespace, name)
        return _claim(path, self._transport.exchange("GET", path, accept=PROTOBUF))

    def replace_claim_status_message(self, claim: ResourceClaim) -> ResourceClaim:
        """Replace the status of a ResourceClaim whose metadata.resourceVersion still holds, over protobuf."""
        path = f"{_claim_path(claim.metadata.namespace, claim.metadata.name)}/status"
        answer = self._transport.exchange("PUT", path, wrap_claim(claim), content_type=PROTOBUF, accept=PROTOBUF)
        return _claim(path, answer)

    def create_event(self, namespace: str, body: Json) -> None:
        """Create an Event of core/v1."""
        self._transport.json("POST", f"/api/v1/namespaces/{quote(namespace)}/events", body=body)

    def close(self) -> None:
        """Drop all connections."""
        self._transport.close()


def _claim_path(namespace: str, name: str) -> str:
    return f"{_RESOURCE_API}/namespaces/{quote(namespace)}/resourceclaims/{quote(name)}"


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


def _claim(path: str, content: bytes) -> ResourceClaim:
    try:
        return unwrap_claim(content)
    except ValueError as error:
        raise unavailable(path, str(error)) from error
