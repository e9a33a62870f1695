"""What the plugin needs of the Kubernetes API, and no more.

A Protocol, so that all of the plugin runs in tests against an object in memory. Objects are the API server's JSON as
dictionaries: typed models drop fields that they do not know, and here such a field decides about a limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SliceList:
    """The slices of this driver on one node, and the version from which a watch continues."""

    items: tuple[Json, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class SliceEvent:
    """One watch event; `kind` is ADDED, MODIFIED or DELETED."""

    kind: str
    item: Json


class ClusterApi(Protocol):
    """The API server. Every method raises NotFound, Conflict, Refused or Unavailable (fracgpu.driver.kube.errors)."""

    def get_claim(self, namespace: str, name: str, *, timeout_seconds: float | None = None) -> Json:
        """Return a ResourceClaim, or raise Unavailable when the server is silent for `timeout_seconds`."""

    def get_node(self, name: str) -> Json:
        """Return a Node."""

    def list_slices(self, node_name: str) -> SliceList:
        """Return our ResourceSlices of one node."""

    def watch_slices(self, node_name: str, resource_version: str) -> Iterator[SliceEvent]:
        """Yield changes of our ResourceSlices of one node after `resource_version`.

        Ends when the API server ends it (after minutes) or no longer knows the version: list again then.
        """

    def create_slice(self, body: Json, *, dry_run: bool = False) -> Json:
        """Create a ResourceSlice and return it as stored; with `dry_run`, as it would be."""

    def replace_slice(self, body: Json, *, dry_run: bool = False) -> Json:
        """Replace a ResourceSlice whose metadata.resourceVersion still holds, and return it as stored."""

    def delete_slice(self, name: str) -> None:
        """Delete a ResourceSlice."""


class ClaimStatusApi(Protocol):
    """What reporting on a claim needs of the API server. Every method raises ClusterError, like those of ClusterApi."""

    def get_claim(self, namespace: str, name: str) -> Json:
        """Return a ResourceClaim."""

    def patch_claim_status(self, namespace: str, name: str, patch: Json) -> Json:
        """Merge `patch` into a ResourceClaim's status and return the claim as stored.

        Refused as a Conflict if its resourceVersion is not current.
        """

    def get_claim_message(self, namespace: str, name: str) -> ResourceClaim:
        """Return a ResourceClaim as the API server's protobuf, opaque parameters to the byte."""

    def replace_claim_status_message(self, claim: ResourceClaim) -> ResourceClaim:
        """Replace the status of a ResourceClaim whose metadata.resourceVersion still holds, over protobuf.

        Returns the claim as stored.
        """

    def create_event(self, namespace: str, body: Json) -> None:
        """Create an Event of core/v1."""
