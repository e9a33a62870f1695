"""One watch: which changes a client sees, given its selectors and where it starts.

Pure over the hub: the HTTP part only asks for the next batch and writes it out.
"""

from __future__ import annotations

from dataclasses import dataclass

from fracgpu.sim.api.objects import JsonObject, namespace_of
from fracgpu.sim.api.resources import Resource
from fracgpu.sim.api.selectors import Predicate
from fracgpu.sim.api.store import Store
from fracgpu.sim.api.watchhub import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a list or a watch is about. An empty namespace means all."""

    resource: Resource
    namespace: str
    labels: Predicate
    fields: Predicate

    def accepts(self, obj: JsonObject) -> bool:
        """Tell whether the object belongs to the result."""
        inside = not self.namespace or namespace_of(obj) == self.namespace
        return inside and self.labels(obj) and self.fields(obj)


class Watch:
    """Cursor of one watcher."""

    def __init__(self, store: Store, which: Filter, revision: int | None) -> None:
        """Start after `revision`; None means: begin with the present state as ADDED events."""
        self._store = store
        self._filter = which
        self._initial: list[JsonObject] = []
        with store.lock:
            if revision is None:
                self._initial = [obj for obj in store.scan(which.resource, which.namespace) if which.accepts(obj)]
                revision = store.revision
        self.revision = revision

    def next(self) -> list[JsonObject]:
        """Return the events since the last call. Raises HistoryExpiredError."""
        events: list[JsonObject] = [{"type": "ADDED", "object": obj} for obj in self._initial]
        self._initial = []
        for change in self._store.hub.since(self.revision):
            self.revision = change.revision
            event = self._event(change)
            if event:
                events.append(event)
        return events

    def bookmark(self) -> JsonObject:
        """Return a BOOKMARK event: all changes up to this revision were sent."""
        resource = self._filter.resource
        meta = {"resourceVersion": str(self.revision), "creationTimestamp": None}
        return {
            "type": "BOOKMARK",
            "object": {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta},
        }

    def _event(self, change: Change) -> JsonObject | None:
        if change.resource is not self._filter.resource:
            return None
        before = change.previous is not None and self._filter.accepts(change.previous)
        after = change.type != "DELETED" and self._filter.accepts(change.obj)
        if not before and not after:
            return None
        if before and after:
            return {"type": "MODIFIED", "object": change.obj}
        if after:
            return {"type": "ADDED", "object": change.obj}
        last = change.previous or {}
        gone = last | {"metadata": last["metadata"] | {"resourceVersion": str(change.revision)}}
        return {"type": "DELETED", "object": gone}
