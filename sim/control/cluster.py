"""The cluster as the control plane sees it: informers for what it reads, writes that keep them current."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.api import resources
from fracgpu.sim.api.objects import JsonObject, metadata, name_of, namespace_of, now, uid_of
from fracgpu.sim.api.resources import Resource
from fracgpu.sim.control.client import ApiClient
from fracgpu.sim.control.informer import Informer
from fracgpu.sim.transport import ApiRefusedError

_WATCHED = (
    resources.NODES,
    resources.PODS,
    resources.RESOURCE_CLAIMS,
    resources.RESOURCE_CLAIM_TEMPLATES,
    resources.RESOURCE_SLICES,
    resources.DEVICE_CLASSES,
    resources.DEPLOYMENTS,
    resources.REPLICA_SETS,
    resources.STATEFUL_SETS,
    resources.JOBS,
)
_SYNC_SECONDS = 30.0


class ClusterNotReadyError(FracgpuError):
    """The first lists did not come."""


class Cluster:
    """Reads from caches, writes through the API. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        self.client = ApiClient(url)
        self._listeners: list[Callable[[], None]] = []
        self._informers = {item: Informer(self.client, item, self._changed) for item in _WATCHED}
        self._events = threading.Lock()
        self._last_events: dict[tuple[str, str], JsonObject] = {}

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change. Before `start` only."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Start the informers and wait for their first lists. Raises ClusterNotReadyError."""
        for informer in self._informers.values():
            informer.start()
        for resource, informer in self._informers.items():
            if not informer.wait_synced(_SYNC_SECONDS):
                what = f"{resource.plural} could not be listed within {_SYNC_SECONDS:.0f} s"
                raise ClusterNotReadyError("control plane", what, remedy="check that the API server runs")

    def stop(self) -> None:
        """Stop the informers."""
        for informer in self._informers.values():
            informer.stop()

    def all(self, resource: Resource) -> list[JsonObject]:
        """Return all objects of a watched resource. Do not change them."""
        return self._informers[resource].all()

    def get(self, resource: Resource, namespace: str, name: str) -> JsonObject | None:
        """Return one object of a watched resource, or None. Do not change it."""
        return self._informers[resource].get(namespace, name)

    def create(self, resource: Resource, namespace: str, body: JsonObject) -> JsonObject:
        """Create an object and take it into the cache."""
        return self._observed(resource, self.client.create(resource, namespace, body))

    def update(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Replace an object guarded by its resourceVersion."""
        answer = self.client.update(resource, body)
        if metadata(answer).get("deletionTimestamp") and not metadata(answer).get("finalizers"):
            self._informers[resource].forget(answer)
            return answer
        return self._observed(resource, answer)

    def update_status(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Replace the status of an object guarded by its resourceVersion."""
        return self._observed(resource, self.client.update(resource, body, subresource="status"))

    def change_status(self, resource: Resource, obj: JsonObject, **fields: object) -> JsonObject:
        """Set members of an object's status (None removes one); nothing is written when they have these values."""
        changed = copy.deepcopy(obj)
        status = changed.setdefault("status", {})
        for name, value in fields.items():
            if value is None:
                status.pop(name, None)
            else:
                status[name] = value
        return obj if changed == obj else self.update_status(resource, changed)

    def delete(self, resource: Resource, obj: JsonObject) -> None:
        """Delete exactly this object; one that is gone already is fine."""
        try:
            self.client.delete(resource, obj)
        except ApiRefusedError as error:
            if error.code not in (404, 409):
                raise

    def event(self, obj: JsonObject, kind: str, reason: str, message: str, *, component: str) -> None:
        """Record an event; the same text again is not written, another text of that reason replaces it."""
        key = (uid_of(obj), reason)
        with self._events:
            last = self._last_events.get(key)
            if last is not None and last["message"] == message:
                return
            body = _event(obj, kind=kind, reason=reason, message=message, component=component)
            try:
                self._last_events[key] = self._write_event(body, last)
            except ApiRefusedError as error:
                # News of a namespace that is going away; nobody will miss it.
                if error.code != 403:
                    raise

    def _write_event(self, body: JsonObject, last: JsonObject | None) -> JsonObject:
        if last is not None:
            body["count"] = last["count"] + 1
            body["firstTimestamp"] = last["firstTimestamp"]
            try:
                return self.client.update(resources.EVENTS, body)
            except ApiRefusedError as error:
                if error.code != 404:
                    raise
        try:
            return self.client.create(resources.EVENTS, namespace_of(body), body)
        except ApiRefusedError as error:
            if error.reason != "AlreadyExists":
                raise
            return self.client.update(resources.EVENTS, body)

    def _observed(self, resource: Resource, obj: JsonObject) -> JsonObject:
        self._informers[resource].observe(obj)
        return obj

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


def _event(obj: JsonObject, *, kind: str, reason: str, message: str, component: str) -> JsonObject:
    digest = hashlib.sha256(f"{uid_of(obj)}/{reason}".encode()).hexdigest()[:16]
    namespace = namespace_of(obj) or "default"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name_of(obj)}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "namespace": namespace,
            "name": name_of(obj),
            "uid": uid_of(obj),
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": component,
        "count": 1,
        "firstTimestamp": now(),
        "lastTimestamp": now(),
    }
