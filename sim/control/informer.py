"""A local copy of one resource, kept by list and watch.

Answers of the own writes enter the copy at once, so that a controller that acts twice in a row does not act on what it
has just changed; older news from the watch then loses against newer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.api.objects import JsonObject, name_of, namespace_of, revision_of, uid_of
from fracgpu.sim.api.resources import Resource
from fracgpu.sim.control.client import ApiClient
from fracgpu.sim.transport import ApiRefusedError, WatchStream

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS = 0.5
_RETRY_MAX_SECONDS = 10.0


class Informer:
    """Cache of one resource with its own thread. `changed` is called after each change, from that thread."""

    def __init__(self, client: ApiClient, resource: Resource, changed: Callable[[], None]) -> None:
        self._client = client
        self._resource = resource
        self._changed = changed
        self._lock = threading.Lock()
        self._objects: dict[tuple[str, str], JsonObject] = {}
        self._revision = ""
        self._seen = 0
        self._synced = threading.Event()
        self._stopping = threading.Event()
        self._stream: WatchStream | None = None
        self._thread = threading.Thread(target=self._run, name=f"informer-{resource.plural}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and join the thread."""
        self._stopping.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.close()
        if self._thread.is_alive():
            self._thread.join()

    def wait_synced(self, timeout_seconds: float) -> bool:
        """Wait for the first list; returns whether it came."""
        return self._synced.wait(timeout_seconds)

    def all(self) -> list[JsonObject]:
        """Return all objects by namespace and name. Do not change them."""
        with self._lock:
            return [self._objects[key] for key in sorted(self._objects)]

    def get(self, namespace: str, name: str) -> JsonObject | None:
        """Return one object or None. Do not change it."""
        with self._lock:
            return self._objects.get((namespace, name))

    def observe(self, obj: JsonObject) -> None:
        """Take in an object that a write returned, unless the watch is beyond it and knows that it is gone."""
        with self._lock:
            gone = (namespace_of(obj), name_of(obj)) not in self._objects and revision_of(obj) <= self._seen
            if not gone:
                self._take(obj)

    def forget(self, obj: JsonObject) -> None:
        """Take in that an object is gone."""
        with self._lock:
            key = (namespace_of(obj), name_of(obj))
            known = self._objects.get(key)
            if known is not None and uid_of(known) == uid_of(obj):
                del self._objects[key]

    def _take(self, obj: JsonObject) -> None:
        key = (namespace_of(obj), name_of(obj))
        known = self._objects.get(key)
        if known is None or revision_of(known) <= revision_of(obj):
            self._objects[key] = obj

    def _run(self) -> None:
        pause = _RETRY_SECONDS
        while not self._stopping.is_set():
            try:
                if not self._revision:
                    self._list()
                self._watch()
                pause = _RETRY_SECONDS
            except ApiRefusedError as error:
                if error.code == 410:
                    # What was missed is not known: start over from a list.
                    self._revision = ""
                    continue
                _LOG.warning("watch of %s refused: %s", self._resource.plural, error)
                self._stopping.wait(pause)
                pause = min(pause * 2, _RETRY_MAX_SECONDS)
            except FracgpuError as error:
                if not self._stopping.is_set():
                    _LOG.info("watch of %s interrupted: %s", self._resource.plural, error)
                self._stopping.wait(pause)
                pause = min(pause * 2, _RETRY_MAX_SECONDS)

    def _list(self) -> None:
        items, revision = self._client.list(self._resource)
        with self._lock:
            self._objects = {(namespace_of(item), name_of(item)): item for item in items}
            self._revision = revision
            self._seen = int(revision)
        self._synced.set()
        self._changed()

    def _watch(self) -> None:
        stream = self._client.watch(self._resource, self._revision)
        with self._lock:
            self._stream = stream
        try:
            if self._stopping.is_set():
                return
            stream.open()
            for kind, obj in stream:
                self._apply(kind, obj)
        finally:
            with self._lock:
                self._stream = None
            stream.close()

    def _apply(self, kind: str, obj: JsonObject) -> None:
        self._revision = str(obj["metadata"]["resourceVersion"])
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self.forget(obj)
        else:
            self.observe(obj)
        with self._lock:
            self._seen = revision_of(obj)
        self._changed()
