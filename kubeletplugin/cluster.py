"""What the plugin needs of the Kubernetes API, and no more.

A Protocol, so that all of the plugin runs in tests against an object in memory. Objects are the API server's JSON as
dictionaries: typed models drop fields that they do not know, and here such a field decides about a limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

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
    """The API server. Every method raises NotFound, Conflict, Refused or Unavailable (fracgpu.kubeletplugin.errors)."""

    def get_claim(self, namespace: str, name: str) -> Json:
        """Return a ResourceClaim."""

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
