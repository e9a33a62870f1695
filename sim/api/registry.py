"""Create, read, update and patch with the semantics of a real API server, on top of the store.

Every operation takes the store's lock for its whole length: the emulator's writes are serialised as etcd's transactions
are, and what one validates is what it stores.
"""

from __future__ import annotations

import copy
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fracgpu.sim.api.deletion import DeleteOptions, Deletion
from fracgpu.sim.api.errors import (
    ApiError,
    FieldError,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    internal,
    not_found,
    unprocessable,
    version_required,
)
from fracgpu.sim.api.objects import JsonObject, metadata, name_of, namespace_of, now, revision_of, uid_of
from fracgpu.sim.api.patch import apply_patch
from fracgpu.sim.api.rawjson import seal
from fracgpu.sim.api.resources import ALL_RESOURCES, CUSTOM_RESOURCE_DEFINITIONS, NAMESPACES, PODS, Resource
from fracgpu.sim.api.rules_base import Context, check_metadata, check_metadata_update
from fracgpu.sim.api.rules_cluster import rules_for
from fracgpu.sim.api.schema import decode
from fracgpu.sim.api.store import Store
from fracgpu.sim.api.structural import decode_custom, schema_of

_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH = 5
_GENERATED_MAX = 63
_SYSTEM_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


class WriteGuard(Protocol):
    """What is known of the user who writes; None stands for an administrator."""

    def findings(
        self, resource: Resource, obj: JsonObject, old: JsonObject, *, refused_anyway: bool
    ) -> list[FieldError]:
        """Return what validation says about the user's rights to this change of a status.

        With `refused_anyway` nobody could make the change, so that it is no lack of rights.
        """

    def mutate(self, operation: str, resource: Resource, obj: JsonObject) -> None:
        """Let admission policies change what CREATE or UPDATE writes, in place."""

    def admit(self, operation: str, resource: Resource, obj: JsonObject) -> None:
        """Apply admission policies to CREATE, UPDATE or DELETE. Raises ApiError 403 or 422."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """Options of a write: `dry_run` (nothing is stored), `strict` (unknown members are refused), who writes."""

    dry_run: bool = False
    strict: bool = False
    guard: WriteGuard | None = None

    def mutate(self, operation: str, resource: Resource, obj: JsonObject) -> None:
        """Let admission policies change the object in place, if there are any."""
        if self.guard is not None:
            self.guard.mutate(operation, resource, obj)

    def admit(self, operation: str, resource: Resource, obj: JsonObject) -> None:
        """Apply admission policies, if there are any."""
        if self.guard is not None:
            self.guard.admit(operation, resource, obj)


class Registry:
    """All operations on all resources. Raises ApiError for whatever a real server refuses."""

    def __init__(self, store: Store, *, consumable_capacity: bool = True) -> None:
        self.store = store
        self.consumable_capacity = consumable_capacity
        self.deletion = Deletion(store)

    def served(self) -> list[Resource]:
        """Return the resources that are there now."""
        return [resource for resource in ALL_RESOURCES if self.serves(resource)]

    def serves(self, resource: Resource) -> bool:
        """Tell whether a resource is there: a custom one is while it has a definition."""
        return not resource.is_custom or self._definition(resource) is not None

    def get(self, resource: Resource, namespace: str, name: str) -> JsonObject:
        """Return the stored object (shared: do not change it)."""
        found = self.store.get(resource, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def create(
        self, resource: Resource, namespace: str, body: JsonObject, options: WriteOptions | None = None
    ) -> JsonObject:
        """Store a new object and return it."""
        options = options or WriteOptions()
        obj = self._decode(resource, namespace, body, options)
        with self.store.lock:
            context = self._context(resource, namespace, creating=True)
            self._name(resource, obj)
            self._stamp(resource, obj)
            options.mutate("CREATE", resource, obj)
            rules_for(resource).prepare_create(obj, context)
            errors = check_metadata(resource, obj) + rules_for(resource).validate(obj, context)
            if errors:
                raise unprocessable(resource, name_of(obj), errors)
            if self.store.get(resource, namespace, name_of(obj)) is not None:
                raise already_exists(resource, name_of(obj))
            options.admit("CREATE", resource, obj)
            return obj if options.dry_run else self.store.put(resource, obj)

    def create_by_update(
        self, resource: Resource, namespace: str, name: str, body: JsonObject, options: WriteOptions
    ) -> JsonObject:
        """Create what a PUT wants to replace and is not there, as some resources do; its resourceVersion is nothing."""
        if name_of(body) != name:
            raise _another_name(body, name)
        meta = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
        return self.create(resource, namespace, body | {"metadata": meta}, options)

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: JsonObject,
        *,
        subresource: str = "",
        options: WriteOptions | None = None,
    ) -> JsonObject:
        """Replace an object, or its status (`subresource="status"`), and return it."""
        options = options or WriteOptions()
        obj = self._decode(resource, namespace, body, options)
        if name_of(obj) != name:
            raise _another_name(obj, name)
        with self.store.lock:
            old = self.get(resource, namespace, name)
            return self._commit(resource, obj, old, subresource=subresource, options=options)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Any,
        *,
        content_type: str,
        subresource: str = "",
        options: WriteOptions | None = None,
    ) -> JsonObject:
        """Patch an object or its status and return it."""
        options = options or WriteOptions()
        with self.store.lock:
            old = self.get(resource, namespace, name)
            patched = apply_patch(content_type, old, patch)
            obj = self._decode(resource, namespace, seal(patched), options)
            if name_of(obj) != name:
                raise bad_request("metadata.name may not be changed by a patch")
            return self._commit(resource, obj, old, subresource=subresource, options=options)

    def modify(self, resource: Resource, namespace: str, name: str, change: Callable[[JsonObject], None]) -> JsonObject:
        """Change a stored object without validation: for the server's own work (binding, namespace phases)."""
        with self.store.lock:
            obj = copy.deepcopy(self.get(resource, namespace, name))
            change(obj)
            return self.store.put(resource, obj)

    def delete(
        self, resource: Resource, namespace: str, name: str, options: DeleteOptions, guard: WriteGuard | None = None
    ) -> tuple[JsonObject, bool]:
        """Delete an object; returns its last state and whether it is gone already."""
        with self.store.lock:
            found = self.get(resource, namespace, name)
            WriteOptions(guard=guard).admit("DELETE", resource, found)
            return self.deletion.delete(resource, found, options)

    def bind(self, namespace: str, name: str, binding: JsonObject) -> None:
        """Bind a pod to a node: POST pods/<name>/binding."""
        node = (binding.get("target") or {}).get("name")
        if not node:
            raise internal("target.name: Required value")
        with self.store.lock:
            pod = self.get(PODS, namespace, name)
            if (pod.get("spec") or {}).get("nodeName"):
                raise conflict(PODS, name, f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"')
            if metadata(pod).get("deletionTimestamp"):
                raise conflict(PODS, name, f"pod {name} is being deleted, cannot be assigned to a host")
            wanted = (binding.get("metadata") or {}).get("uid")
            if wanted and wanted != uid_of(pod):
                raise conflict(
                    PODS, name, f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid_of(pod)}"
                )
            self.modify(PODS, namespace, name, lambda obj: _bound(obj, str(node)))

    def _decode(self, resource: Resource, namespace: str, body: JsonObject, options: WriteOptions) -> JsonObject:
        if body.get("kind") not in (None, resource.kind) or body.get("apiVersion") not in (None, resource.api_version):
            given = f"{body.get('kind')} in version {str(body.get('apiVersion')).rpartition('/')[2]!r}"
            raise bad_request(
                f"{given} cannot be handled as a {resource.kind}: it does not match the expected "
                f"{resource.api_version} {resource.kind}; in the data: {body.get('apiVersion')} {body.get('kind')}"
            )
        if resource.is_custom:
            obj = decode_custom(resource, body, self._schema(resource), strict=options.strict)
        else:
            obj = decode(resource, body, strict=options.strict)
        obj["apiVersion"], obj["kind"] = resource.api_version, resource.kind
        given = namespace_of(obj)
        if resource.namespaced and given and given != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata(obj).pop("managedFields", None)
        if resource.namespaced:
            metadata(obj)["namespace"] = namespace
        else:
            metadata(obj).pop("namespace", None)
        return obj

    def _context(self, resource: Resource, namespace: str, *, creating: bool = False) -> Context:
        labels: dict[str, str] = {}
        if resource.namespaced:
            found = self.store.get(NAMESPACES, "", namespace)
            if found is None:
                raise not_found(NAMESPACES, namespace)
            if creating and metadata(found).get("deletionTimestamp"):
                detail = f"unable to create new content in namespace {namespace} because it is being terminated"
                raise forbidden(resource, "", detail)
            labels = metadata(found).get("labels") or {}
        schema = self._schema(resource) if resource.is_custom else {}
        return Context(consumable_capacity=self.consumable_capacity, namespace_labels=labels, schema=schema)

    def _definition(self, resource: Resource) -> JsonObject | None:
        return self.store.get(CUSTOM_RESOURCE_DEFINITIONS, "", resource.qualified)

    def _schema(self, resource: Resource) -> JsonObject:
        """Return the schema by which objects of a custom resource are checked."""
        definition = self._definition(resource)
        if definition is None:
            raise not_found(CUSTOM_RESOURCE_DEFINITIONS, resource.qualified)
        return schema_of(definition, resource.version)

    def _name(self, resource: Resource, obj: JsonObject) -> None:
        meta = metadata(obj)
        if meta.get("resourceVersion"):
            raise internal("resourceVersion should not be set on objects to be created")
        base = meta.get("generateName")
        if meta.get("name") or not base:
            return
        stem = str(base)[: _GENERATED_MAX - _SUFFIX_LENGTH]
        taken = True
        while taken:
            meta["name"] = stem + "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(_SUFFIX_LENGTH))
            taken = self.store.get(resource, namespace_of(obj), meta["name"]) is not None

    def _stamp(self, resource: Resource, obj: JsonObject) -> None:
        meta = metadata(obj)
        for field in _SYSTEM_FIELDS:
            meta.pop(field, None)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = now()
        if resource.counts_generation:
            meta["generation"] = 1

    def _commit(
        self, resource: Resource, obj: JsonObject, old: JsonObject, *, subresource: str, options: WriteOptions
    ) -> JsonObject:
        self._check_preconditions(resource, obj, old)
        rules = rules_for(resource)
        context = self._context(resource, namespace_of(old))
        if subresource == "status":
            merged = copy.deepcopy(old) | {"status": obj.get("status") or {}}
            rules.prepare_status(merged, old, context)
            errors = rules.validate_status(merged, old, context)
            if options.guard is not None:
                errors = options.guard.findings(resource, merged, old, refused_anyway=bool(errors)) + errors
        else:
            merged = obj
            options.mutate("UPDATE", resource, merged)
            _keep_system_fields(merged, old)
            rules.prepare_update(merged, old, context)
            errors = check_metadata(resource, merged) + check_metadata_update(merged, old)
            errors += rules.validate_update(merged, old, context)
            if merged.get("spec") != old.get("spec"):
                errors += rules.validate(merged, context) if not errors else []
                if resource.counts_generation:
                    metadata(merged)["generation"] = metadata(old).get("generation", 0) + 1
        if errors:
            raise unprocessable(resource, name_of(old), errors)
        options.admit("UPDATE", resource, merged)
        return self._store(resource, merged, old, options)

    def _store(self, resource: Resource, obj: JsonObject, old: JsonObject, options: WriteOptions) -> JsonObject:
        metadata(obj)["resourceVersion"] = metadata(old)["resourceVersion"]
        if obj == old:
            return old
        if options.dry_run:
            return obj
        if self.deletion.is_complete(obj):
            return self.deletion.finish(resource, obj)
        return self.store.put(resource, obj)

    def _check_preconditions(self, resource: Resource, obj: JsonObject, old: JsonObject) -> None:
        sent = metadata(obj).get("resourceVersion")
        if not sent and not resource.unconditional_update:
            raise version_required(resource, name_of(old))
        if sent and revision_of(obj) != revision_of(old):
            raise conflict(resource, name_of(old))
        uid = metadata(obj).get("uid")
        if uid and uid != uid_of(old):
            text = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {uid_of(old)}"
            raise conflict(resource, name_of(old), text)


def _another_name(obj: JsonObject, name: str) -> ApiError:
    return bad_request(f"the name of the object ({name_of(obj)}) does not match the name on the URL ({name})")


def _keep_system_fields(obj: JsonObject, old: JsonObject) -> None:
    for field in (*_SYSTEM_FIELDS, "generateName"):
        if field in metadata(old):
            metadata(obj)[field] = metadata(old)[field]
        else:
            metadata(obj).pop(field, None)


def _bound(pod: JsonObject, node: str) -> None:
    pod["spec"]["nodeName"] = node
    status = pod.setdefault("status", {})
    kept = [item for item in status.get("conditions") or [] if item.get("type") != "PodScheduled"]
    status["conditions"] = [*kept, {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}]
