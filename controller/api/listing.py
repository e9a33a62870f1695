"""Whole lists, read in pages: one answer with all pods of a large cluster would be hundreds of megabytes at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.driver.kube.errors import Expired
from fracgpu.driver.kube.transport import KubernetesTransport

Json = dict[str, Any]

_PAGE: Final = 500
# Whoever is too slow for the pages of one snapshot this often gets everything at once, which can not expire.
_ATTEMPTS: Final = 3
_LIST_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a resource, and the version from which a watch continues."""

    items: list[Json]
    resource_version: str


def list_all(transport: KubernetesTransport, path: str) -> Listing:
    """Return all objects at `path` as of a moment after the call began. Raises ClusterError.

    No resourceVersion is sent, which makes the read linearizable. Items get their apiVersion and kind, which lists
    leave out, and lose metadata.managedFields, which are large and nobody's business here: a write without them leaves
    them as they are.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _joined(_pages(transport, path, _PAGE))
        except Expired:
            continue
    return _joined(_pages(transport, path, 0))


def trimmed(obj: Json) -> Json:
    """Take metadata.managedFields away, in place, and return the object."""
    metadata = obj.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("managedFields", None)
    return obj


def _pages(transport: KubernetesTransport, path: str, size: int) -> Iterator[Json]:
    token = ""
    while True:
        query = {name: value for name, value in (("limit", str(size or "")), ("continue", token)) if value}
        page = transport.json("GET", path, query=query, read_seconds=_LIST_SECONDS)
        yield page
        token = (page.get("metadata") or {}).get("continue") or ""
        if not token:
            return


def _joined(pages: Iterator[Json]) -> Listing:
    items: list[Json] = []
    version = ""
    for page in pages:
        # All pages are of one snapshot. Should they not be, the first version is the one after which nothing is missed.
        version = version or str((page.get("metadata") or {}).get("resourceVersion") or "")
        header = {"apiVersion": page.get("apiVersion"), "kind": str(page.get("kind", "")).removesuffix("List")}
        items += [trimmed({**header, **item}) for item in page.get("items") or ()]
    return Listing(items, version)
