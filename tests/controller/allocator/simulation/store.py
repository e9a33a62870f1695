"""An API server as far as it matters here: versions, conflicts, finalizers, status, watches that lag.

Objects are replaced, never changed in place, so that whoever holds one holds it as it was.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

from fracgpu.controller.ports import Change, ChangeKind
from fracgpu.driver.kube.errors import Conflict, NotFound, Refused

Json = dict[str, Any]
Key = tuple[str, str, str]
Copied = TypeVar("Copied")


def copied(obj: Copied) -> Copied:
    """Return a deep copy of JSON: several times as fast as copy.deepcopy, and most of what a run does."""
    copy: Copied = pickle.loads(pickle.dumps(obj))  # noqa: S301 (our own objects)
    return copy


class Store:
    """Objects by resource, namespace and name. `on_write` hears of every change at once; watchers as they look."""

    def __init__(self, on_write: Callable[[Store], None]) -> None:
        self.objects: dict[Key, Json] = {}
        self.keeps_capacity = True
        self.lease_holder = ""
        self.news: dict[str, list[Change]] = {}
        self._revision = 100
        self._uids = itertools.count(1)
        self._on_write = on_write

    @property
    def revision(self) -> int:
        """The version of the last change."""
        return self._revision

    def all(self, resource: str) -> list[Json]:
        return [obj for key, obj in sorted(self.objects.items()) if key[0] == resource]

    def get(self, resource: str, namespace: str, name: str) -> Json:
        found = self.objects.get((resource, namespace, name))
        if found is None:
            raise NotFound(f"{resource} {namespace}/{name}", "is not there", remedy="none")
        return found

    def create(self, resource: str, obj: Json) -> Json:
        body = copied(obj)
        body["metadata"] |= {"uid": f"uid-{next(self._uids):05d}"}
        return self._put("ADDED", resource, body)

    def replace(self, resource: str, obj: Json, *, status: bool) -> Json:
        """Replace an object, all but its status or only that, guarded by its resourceVersion."""
        meta = obj["metadata"]
        current = self.get(resource, meta.get("namespace", ""), meta["name"])
        if current["metadata"]["uid"] != meta["uid"]:
            raise Conflict(f"{resource} {meta['name']}", "is another object", remedy="read it again")
        if current["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            raise Conflict(f"{resource} {meta['name']}", "the object has been modified", remedy="read it again")
        if status:
            body = {**copied(current), "status": copied(obj.get("status") or {})}
            self._check_allocation(current, body)
        else:
            body = {**copied(obj), "status": copied(current.get("status") or {})}
            if meta.get("deletionTimestamp") and set(meta.get("finalizers") or ()) - set(
                current["metadata"].get("finalizers") or ()
            ):
                raise Refused(resource, "no new finalizers can be added if the object is being deleted", remedy="none")
            if meta.get("deletionTimestamp") and not meta.get("finalizers"):
                return self._remove(resource, body)
        if {**body, "metadata": {}} == {**current, "metadata": {}} and body["metadata"] == current["metadata"]:
            return current
        return self._put("MODIFIED", resource, body)

    def change(self, resource: str, obj: Json, edit: Callable[[Json], None], *, status: bool = False) -> Json:
        """Read, edit and replace an object as it is now."""
        body = copied(self.get(resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]))
        edit(body)
        return self.replace(resource, body, status=status)

    def delete(self, resource: str, obj: Json) -> None:
        meta = obj["metadata"]
        current = self.objects.get((resource, meta.get("namespace", ""), meta["name"]))
        if current is None:
            return
        if current["metadata"].get("finalizers"):
            if not current["metadata"].get("deletionTimestamp"):
                body = copied(current)
                body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                self._put("MODIFIED", resource, body)
            return
        self._remove(resource, current)

    def _check_allocation(self, current: Json, body: Json) -> None:
        before = (current.get("status") or {}).get("allocation")
        after = body["status"].get("allocation")
        if before is not None and after is not None and before != after:
            raise Conflict("claim", "status.allocation: field is immutable", remedy="read it again")
        if not self.keeps_capacity and before is None and after is not None:
            for result in after["devices"]["results"]:
                result.pop("shareID", None)
                result.pop("consumedCapacity", None)

    def _put(self, kind: ChangeKind, resource: str, body: Json) -> Json:
        self._revision += 1
        meta = body["metadata"]
        meta["resourceVersion"] = str(self._revision)
        self.objects[resource, meta.get("namespace", ""), meta["name"]] = body
        self.news.setdefault(resource, []).append(Change(resource, kind, body))
        self._on_write(self)
        return body

    def _remove(self, resource: str, body: Json) -> Json:
        meta = body["metadata"]
        self._revision += 1
        gone = {**body, "metadata": {**meta, "resourceVersion": str(self._revision)}}
        del self.objects[resource, meta.get("namespace", ""), meta["name"]]
        self.news.setdefault(resource, []).append(Change(resource, "DELETED", gone))
        self._on_write(self)
        return gone


class Watch:
    """What one replica has been told of the store's log; resources lag independently."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._at = {resource: len(news) for resource, news in store.news.items()}
        self.first = [Change(key[0], "ADDED", obj) for key, obj in sorted(store.objects.items())]

    def lagging(self) -> list[str]:
        """Return the resources of which there is news."""
        return sorted(name for name, news in self._store.news.items() if self._at.get(name, 0) < len(news))

    def take(self, resource: str) -> Change:
        """Return the next piece of news of a resource."""
        position = self._at.get(resource, 0)
        self._at[resource] = position + 1
        return self._store.news[resource][position]
