"""ControllerApi over the official client's connection: which request each of its methods is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

from fracgpu.controller.api.claim_message import NoMessage, update_metadata, update_status
from fracgpu.controller.api.listing import list_all, trimmed
from fracgpu.driver.kube.errors import ClusterError, Conflict, Immutable, NotFound
from fracgpu.driver.kube.transport import MERGE_PATCH, KubernetesTransport, unavailable
from fracgpu.driver.names import API_VERSION, CAPACITY_MEMORY, CLASS_FRACTION
from fracgpu.proto.kubernetes_envelope import PROTOBUF, unwrap_claim, wrap_claim
from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim

Json = dict[str, Any]
_DRA_VERSION: Final = "resource.k8s.io/v1"
_DRA: Final = f"/apis/{_DRA_VERSION}"
_QUOTAS: Final = f"/apis/{API_VERSION}/namespaces"
_PROBE: Final = "fracgpu-capacity-probe-"
Change = Callable[[ResourceClaim, Json], None]


class KubernetesApi:
    """The API server, for the allocators whose Lease is `lease_name` in `namespace`. Many threads may use it.

    Every method raises ClusterError; reads are linearizable.
    """

    def __init__(self, transport: KubernetesTransport, *, namespace: str, lease_name: str) -> None:
        self._transport = transport
        self._namespace = namespace
        self._lease = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace)}/leases/{quote(lease_name)}"

    def list_claims(self) -> Sequence[Json]:
        """Return all ResourceClaims, as of a moment after the call began."""
        return list_all(self._transport, f"{_DRA}/resourceclaims").items

    def get_claim(self, namespace: str, name: str) -> Json:
        """Return a ResourceClaim, as of a moment after the call began."""
        return trimmed(self._transport.json("GET", _claim_path(namespace, name)))

    def replace_claim(self, claim: Json) -> Json:
        """Replace a ResourceClaim's finalizers and annotations and return it as stored."""
        return self._replace(_path_of(claim), claim, update_metadata)

    def replace_claim_status(self, claim: Json) -> Json:
        """Replace a ResourceClaim's status and return it as stored."""
        return self._replace(f"{_path_of(claim)}/status", claim, update_status)

    def lease_holder(self) -> str:
        """Return who holds the allocators' Lease, as of a moment after the call began; empty when nobody does."""
        try:
            lease = self._transport.json("GET", self._lease)
        except NotFound:
            return ""
        return str((lease.get("spec") or {}).get("holderIdentity") or "")

    def keeps_capacity(self) -> bool:
        """Tell, by a dry run, whether the server keeps capacity requests, share ids and consumed capacity.

        One feature gate is over all three; a server with the gate off drops them in silence.
        """
        capacity = {"requests": {CAPACITY_MEMORY: "1Mi"}}
        request = {"name": "probe", "exactly": {"deviceClassName": CLASS_FRACTION, "capacity": capacity}}
        body = {
            "apiVersion": _DRA_VERSION,
            "kind": "ResourceClaim",
            "metadata": {"generateName": _PROBE},
            "spec": {"devices": {"requests": [request]}},
        }
        path = f"{_DRA}/namespaces/{quote(self._namespace)}/resourceclaims"
        answer = self._transport.json("POST", path, body=body, query={"dryRun": "All"})
        requests = ((answer.get("spec") or {}).get("devices") or {}).get("requests") or [{}]
        kept = ((requests[0].get("exactly") or {}).get("capacity") or {}).get("requests") or {}
        return CAPACITY_MEMORY in kept

    def replace_quota_status(self, quota: Json) -> Json:
        """Replace a FractionQuota's status, guarded by its resourceVersion, and return it as stored."""
        metadata = quota["metadata"]
        path = f"{_QUOTAS}/{quote(metadata['namespace'])}/fractionquotas/{quote(metadata['name'])}/status"
        return trimmed(self._transport.json("PUT", path, body=quota))

    def create_event(self, event: Json) -> Json:
        """Create an Event of core/v1 in its namespace and return it as stored."""
        return self._transport.json("POST", _events(event["metadata"]["namespace"]), body=event)

    def patch_event(self, namespace: str, name: str, patch: Json) -> Json:
        """Merge `patch` into an Event of core/v1 and return it as stored."""
        path = f"{_events(namespace)}/{quote(name)}"
        return self._transport.json("PATCH", path, body=patch, content_type=MERGE_PATCH)

    def _replace(self, path: str, claim: Json, change: Change) -> Json:
        try:
            return trimmed(self._transport.json("PUT", path, body=claim))
        except Immutable as refusal:
            return self._replace_message(path, claim, change, refusal)

    def _replace_message(self, path: str, claim: Json, change: Change, refusal: Immutable) -> Json:
        """Make the same change over protobuf, and return the claim as stored."""
        metadata = claim["metadata"]
        message = _message(path, self._transport.exchange("GET", _path_of(claim), accept=PROTOBUF))
        if (message.metadata.uid, message.metadata.resourceVersion) != (metadata["uid"], metadata["resourceVersion"]):
            remedy = "read it again and retry"
            raise Conflict(path, f"is no longer at version {metadata['resourceVersion']}", remedy=remedy)
        try:
            change(message, claim)
        except NoMessage as error:
            raise refusal from error
        sent = wrap_claim(message)
        stored = _message(path, self._transport.exchange("PUT", path, sent, content_type=PROTOBUF, accept=PROTOBUF))
        return self._as_stored(stored, claim)

    def _as_stored(self, stored: ResourceClaim, claim: Json) -> Json:
        """Return `claim` as JSON at the version that a write over protobuf made."""
        with suppress(ClusterError):
            found = self.get_claim(stored.metadata.namespace, stored.metadata.name)
            if found["metadata"].get("resourceVersion") == stored.metadata.resourceVersion:
                return found
        # Somebody was faster than our reading, or it failed. What was sent is what was stored, at the version that the
        # answer names; what others have made of it since will be news.
        return {**claim, "metadata": {**claim["metadata"], "resourceVersion": stored.metadata.resourceVersion}}


def _message(path: str, content: bytes) -> ResourceClaim:
    try:
        return unwrap_claim(content)
    except ValueError as error:
        raise unavailable(path, str(error)) from error


def _path_of(claim: Json) -> str:
    return _claim_path(claim["metadata"]["namespace"], claim["metadata"]["name"])


def _claim_path(namespace: str, name: str) -> str:
    return f"{_DRA}/namespaces/{quote(namespace)}/resourceclaims/{quote(name)}"


def _events(namespace: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace)}/events"
