"""Storage of objects with one monotone revision counter: the emulator's etcd.

It knows keys and revisions and nothing else: no HTTP, no validation, no defaults. Objects handed out are shared and
must not be changed by readers; writers put new objects.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from fracgpu.sim.api.objects import JsonObject, metadata, name_of, namespace_of, uid_of
from fracgpu.sim.api.resources import Resource
from fracgpu.sim.api.watchhub import Change, EventType, WatchHub

Key = tuple[str, str]


class Store:
    """Objects by resource, namespace and name. Hold `lock` over a read and the write that depends on it."""

    def __init__(self, *, history: int = 10_000) -> None:
        self.lock = threading.RLock()
        self.hub = WatchHub(history=history)
        self._revision = 0
        self._tables: dict[Resource, dict[Key, JsonObject]] = {}
        self._by_uid: dict[str, tuple[Resource, Key]] = {}

    @property
    def revision(self) -> int:
        """Return the revision of the newest write."""
        with self.lock:
            return self._revision

    def get(self, resource: Resource, namespace: str, name: str) -> JsonObject | None:
        """Return the object or None. `namespace` is empty for cluster-scoped resources."""
        with self.lock:
            return self._tables.get(resource, {}).get((namespace, name))

    def find_uid(self, uid: str) -> tuple[Resource, JsonObject] | None:
        """Return resource and object of a UID, or None."""
        with self.lock:
            found = self._by_uid.get(uid)
            return (found[0], self._tables[found[0]][found[1]]) if found else None

    def scan(self, resource: Resource, namespace: str = "") -> list[JsonObject]:
        """Return all objects of a resource ordered by namespace and name; an empty namespace means all."""
        with self.lock:
            table = self._tables.get(resource, {})
            return [table[key] for key in sorted(table) if not namespace or key[0] == namespace]

    def everything(self) -> Iterator[tuple[Resource, JsonObject]]:
        """Yield every object with its resource, from a snapshot."""
        with self.lock:
            snapshot = [(resource, obj) for resource, table in self._tables.items() for obj in table.values()]
        yield from snapshot

    def put(self, resource: Resource, obj: JsonObject) -> JsonObject:
        """Store an object under its metadata and give it a new resourceVersion. Returns the object."""
        with self.lock:
            key = (namespace_of(obj), name_of(obj))
            table = self._tables.setdefault(resource, {})
            previous = table.get(key)
            self._revision += 1
            metadata(obj)["resourceVersion"] = str(self._revision)
            table[key] = obj
            self._by_uid[uid_of(obj)] = (resource, key)
            self._publish("MODIFIED" if previous else "ADDED", resource, obj=obj, previous=previous)
            return obj

    def remove(self, resource: Resource, namespace: str, name: str) -> JsonObject:
        """Remove an object. Returns its last state with the revision of the removal. Raises KeyError."""
        with self.lock:
            previous = self._tables.get(resource, {}).pop((namespace, name))
            self._by_uid.pop(uid_of(previous), None)
            self._revision += 1
            last = previous | {"metadata": metadata(previous) | {"resourceVersion": str(self._revision)}}
            self._publish("DELETED", resource, obj=last, previous=previous)
            return last

    def _publish(self, event: EventType, resource: Resource, *, obj: JsonObject, previous: JsonObject | None) -> None:
        self.hub.publish(Change(revision=self._revision, resource=resource, type=event, obj=obj, previous=previous))
