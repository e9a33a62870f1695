"""Deletion: preconditions, grace of pods, finalizers, and the cascade to dependents.

The cascade is the garbage collector's work in a real cluster. It runs here inside the emulator, because there is no
test in which it should be absent; foreground deletion is treated as background.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fracgpu.sim.api.errors import conflict
from fracgpu.sim.api.objects import JsonObject, metadata, name_of, namespace_of, now, revision_of, uid_of
from fracgpu.sim.api.resources import ALL_RESOURCES, CUSTOM_RESOURCE_DEFINITIONS, NAMESPACES, PODS, Resource
from fracgpu.sim.api.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """metav1.DeleteOptions as far as they are served. `grace_seconds` None means the object's own grace."""

    grace_seconds: int | None = None
    uid: str | None = None
    resource_version: str | None = None
    orphan: bool = False
    dry_run: bool = False


class Deletion:
    """Removes objects. The caller holds the store's lock."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def delete(self, resource: Resource, obj: JsonObject, options: DeleteOptions) -> tuple[JsonObject, bool]:
        """Delete or begin to delete; returns the object's last state and whether it is gone."""
        self._check(resource, obj, options)
        if options.dry_run:
            return obj, True
        if options.orphan:
            self._orphan_dependents(uid_of(obj))
        grace = _grace(resource, obj, options)
        if grace == 0 and not _held(resource, obj):
            return self.finish(resource, obj), True
        marked = copy.deepcopy(obj)
        meta = metadata(marked)
        meta.setdefault("deletionTimestamp", _later(grace))
        shorter = min(grace, meta.get("deletionGracePeriodSeconds", grace))
        meta["deletionGracePeriodSeconds"] = shorter
        if "generation" in meta and marked != obj:
            meta["generation"] += 1
        if resource is NAMESPACES:
            marked["status"] = {"phase": "Terminating"}
        return (obj if marked == obj else self._store.put(resource, marked)), False

    def is_complete(self, obj: JsonObject) -> bool:
        """Tell whether an object that is being deleted has nothing left that holds it."""
        meta = metadata(obj)
        ended = meta.get("deletionTimestamp") and not meta.get("deletionGracePeriodSeconds")
        return bool(ended) and not meta.get("finalizers") and not (obj.get("spec") or {}).get("finalizers")

    def finish(self, resource: Resource, obj: JsonObject) -> JsonObject:
        """Remove the object from the store. Dependents follow through `collect`, a definition's objects at once."""
        if resource is CUSTOM_RESOURCE_DEFINITIONS:
            for custom in ALL_RESOURCES:
                if custom.is_custom and custom.qualified == name_of(obj):
                    for found in self._store.scan(custom):
                        self._store.remove(custom, namespace_of(found), name_of(found))
        return self._store.remove(resource, namespace_of(obj), name_of(obj))

    def collect(self) -> bool:
        """Do one round of garbage collection; returns whether anything changed.

        An object goes when none of its owners exists (by UID); a terminating namespace empties and goes.
        """
        with self._store.lock:
            changed = False
            for resource, obj in self._store.everything():
                owners = metadata(obj).get("ownerReferences") or []
                if owners and not any(self._store.find_uid(str(owner.get("uid"))) for owner in owners):
                    changed |= self._delete_again(resource, obj)
                elif resource is NAMESPACES and metadata(obj).get("deletionTimestamp"):
                    changed |= self._empty_namespace(obj)
            return changed

    def _delete_again(self, resource: Resource, obj: JsonObject) -> bool:
        current = self._store.get(resource, namespace_of(obj), name_of(obj))
        if current is None or uid_of(current) != uid_of(obj) or metadata(current).get("deletionTimestamp"):
            return False
        self.delete(resource, current, DeleteOptions())
        return True

    def _empty_namespace(self, namespace: JsonObject) -> bool:
        content = [
            (resource, obj)
            for resource, obj in self._store.everything()
            if resource.namespaced and namespace_of(obj) == name_of(namespace)
        ]
        if content:
            deleted = [self._delete_again(resource, obj) for resource, obj in content]
            return any(deleted)
        self._store.remove(NAMESPACES, "", name_of(namespace))
        return True

    def _orphan_dependents(self, uid: str) -> None:
        for resource, obj in self._store.everything():
            owners = metadata(obj).get("ownerReferences") or []
            kept = [owner for owner in owners if owner.get("uid") != uid]
            if len(kept) != len(owners):
                freed = copy.deepcopy(obj)
                metadata(freed)["ownerReferences"] = kept
                self._store.put(resource, freed)

    def _check(self, resource: Resource, obj: JsonObject, options: DeleteOptions) -> None:
        if options.uid and options.uid != uid_of(obj):
            text = (
                f"the UID in the precondition ({options.uid}) does not match the UID in record ({uid_of(obj)}). "
                "The object might have been deleted and then recreated"
            )
            raise conflict(resource, name_of(obj), text)
        if options.resource_version and options.resource_version != str(revision_of(obj)):
            text = (
                f"the ResourceVersion in the precondition ({options.resource_version}) does not match the "
                f"ResourceVersion in record ({revision_of(obj)}). The object might have been modified"
            )
            raise conflict(resource, name_of(obj), text)


def _grace(resource: Resource, obj: JsonObject, options: DeleteOptions) -> int:
    if resource is not PODS:
        return 0
    spec, phase = obj.get("spec") or {}, (obj.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    if options.grace_seconds is not None:
        return max(0, options.grace_seconds)
    return int(spec.get("terminationGracePeriodSeconds", 30))


def _held(resource: Resource, obj: JsonObject) -> bool:
    return bool(metadata(obj).get("finalizers")) or (resource is NAMESPACES)


def _later(seconds: int) -> str:
    if not seconds:
        return now()
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
