"""The Kubernetes objects in YAML documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fracgpu.cli.migrate.documents import Document
from fracgpu.cli.migrate.sources import ManifestUnreadable
from fracgpu.controller.convert.edits import Json, Path


def objects_of(document: Document) -> Iterator[tuple[Path, Json]]:
    """Yield the objects of a document and where they are in it: one, or those of a list. Raises ManifestUnreadable."""
    value = document.value()
    if value is None:
        return
    items = value.get("items") if isinstance(value, dict) else None
    if isinstance(items, list) and str(value.get("kind", "")).endswith("List"):
        found: list[tuple[Path, Any]] = [(("items", position), item) for position, item in enumerate(items)]
    else:
        found = [((), value)]
    for path, item in found:
        if not isinstance(item, dict) or not isinstance(item.get("kind"), str) or "apiVersion" not in item:
            where = f"{document.source}:{document.line}"
            raise ManifestUnreadable(where, "is no Kubernetes object", remedy="give apiVersion, kind and metadata")
        yield path, item
