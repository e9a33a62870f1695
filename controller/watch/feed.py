"""News of one resource, through the official client's SharedInformer.

The informer keeps the list, the watch and the diff between lists; it asks us for pages and streams, and gets raw JSON.
What it leaves open is here:

* Without model classes its watch does not learn from which version to go on, and would start again from the list's.
* It goes on at once after an error, and writes a traceback each time: here failures wait, longer each time, and are
  told once when they begin and once when they are over.
* Only the status 410 makes it list again. Whatever else a watch may say in its stream gets the same answer, and so do
  some failures in a row: the version may be one that the API server will not know, as after a restored backup.
* `stop` may come while it is between a list and a watch, and would then wait for the watch to end by itself.
* A resource that the API server does not know (a CustomResourceDefinition that was not installed) is an empty one, and
  is looked for again now and then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer

from fracgpu.controller.api.listing import list_all, trimmed
from fracgpu.controller.ports import Change, ChangeKind, Json
from fracgpu.controller.watch.resources import Watched
from fracgpu.controller.watch.stream import WatchStream
from fracgpu.driver.kube.errors import ClusterError, Expired, NotFound
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.driver.process.liveness import Heartbeat

_LOG: Final = logging.getLogger(__name__)
_INFORMER_LOG: Final = logging.getLogger("kubernetes.informer.informer")
_GONE: Final = 410
# How long one watch runs. The API server sends a bookmark about every minute: who hears nothing for longer than two is
# connected to nobody.
_WATCH_SECONDS: Final = 300
_SILENT_SECONDS: Final = 130.0
_ABSENT_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.5
# A server that ends each watch at once, as one does that shuts down, is not to be asked in a tight loop.
_SHORTEST_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 15.0
_FAILURES_UNTIL_LIST: Final = 3
# All time limits of a list, with its attempts, and of waiting in between.
_BOUND_SECONDS: Final = 900.0


class Feed:
    """Tells `on_change` of every object of a resource, first of all that there are: `synced` is set after those.

    `on_change` is called from one thread and must not raise.
    """

    def __init__(
        self,
        transport: KubernetesTransport,
        watched: Watched,
        on_change: Callable[[Change], None],
        *,
        absent_seconds: float = _ABSENT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # What it would say is said here, in one line.
        _INFORMER_LOG.addFilter(_say_nothing)
        self._transport = transport
        self._watched = watched
        self._on_change = on_change
        self._absent_seconds = absent_seconds
        self._clock = clock
        self.synced = threading.Event()
        self.heartbeat = Heartbeat(bound_seconds=_BOUND_SECONDS, clock=clock)
        self._heard_at = clock()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._stream: WatchStream | None = None
        self._listed: str | None = None
        self._version = ""
        self._absent = False
        self._relist = False
        self._failures = 0
        self._begun_at = -_SHORTEST_SECONDS
        self._informer: Any = SharedInformer(self._list_or_watch)
        for kind in ("ADDED", "MODIFIED", "DELETED"):
            self._informer.add_event_handler(kind, self._teller(kind))
        self._informer.add_event_handler("BOOKMARK", self._remember)
        self._informer.add_event_handler("ERROR", self._wrong)

    @property
    def plural(self) -> str:
        """The resource."""
        return self._watched.plural

    def age(self) -> float:
        """Return for how many seconds nothing was heard of the API server, which speaks about once a minute."""
        return self._clock() - self._heard_at

    def start(self) -> None:
        """Begin."""
        self._informer.start()

    def stop(self, seconds: float) -> None:
        """End, and wait for it for `seconds` at most: a request that is under way has a time limit of its own."""
        self._stopping.set()
        with self._lock:
            if self._stream is not None:
                self._stream.end()
        ending = threading.Thread(target=self._informer.stop, name=f"end {self.plural}", daemon=True)
        ending.start()
        ending.join(seconds)

    def _list_or_watch(self, *, watch: bool = False, **_: Any) -> Any:
        """Answer the informer, which adds what the client's own methods want to be told."""
        self.heartbeat.beat()
        if self._stopping.is_set():
            # The informer looks whether it is stopped right after this.
            time.sleep(_FIRST_PAUSE_SECONDS / 10)
            raise ApiException(status=0, reason="stopping")
        try:
            return self._watch() if watch else self._list()
        except Expired as error:
            self._heard()
            raise ApiException(status=_GONE, reason=str(error)) from error
        except ClusterError as error:
            self._failed(error)
            raise ApiException(status=0, reason=str(error)) from error

    def _list(self) -> Any:
        self._relist = False
        try:
            listing = list_all(self._transport, self._watched.path)
            self._absent = False
        except NotFound:
            if not self._watched.optional:
                raise
            self._absent = True
            self._heard()
            return SimpleNamespace(items=[], metadata=SimpleNamespace(resource_version="0"))
        self._heard()
        self._listed = listing.resource_version
        return SimpleNamespace(items=listing.items, metadata=SimpleNamespace(resource_version=listing.resource_version))

    def _watch(self) -> WatchStream:
        # The informer watches after it has told everything that was listed.
        self.synced.set()
        if self._absent:
            self._stopping.wait(self._absent_seconds)
            raise ApiException(status=_GONE, reason="to be looked for again")
        if self._relist or (self._failures and self._failures % _FAILURES_UNTIL_LIST == 0):
            raise ApiException(status=_GONE, reason="to be listed again")
        if self._listed is not None:
            self._version, self._listed = self._listed, None
        self._pause()
        self._begun_at = self._clock()
        query = {
            "watch": "1",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        try:
            response = self._transport.send("GET", self._watched.path, query=query, read_seconds=_SILENT_SECONDS)
        except NotFound as error:
            # The definition was removed; listing finds out.
            raise Expired(self._watched.path, error.what, remedy=error.remedy) from error
        self._heard()
        stream = WatchStream(response, heard=self._heard, broken=self._broken)
        with self._lock:
            self._stream = stream
            if self._stopping.is_set():
                stream.end()
        return stream

    def _teller(self, kind: ChangeKind) -> Callable[[Json], None]:
        def tell(obj: Json) -> None:
            self._remember(obj)
            try:
                self._on_change(Change(self.plural, kind, trimmed(obj)))
            except Exception:
                _LOG.exception("news not taken in", extra={"resource": self.plural})

        return tell

    def _remember(self, obj: Json) -> None:
        self._version = str((obj.get("metadata") or {}).get("resourceVersion") or self._version)

    def _wrong(self, error: object) -> None:
        """Hear what the informer met: errors of ours, already told, or something in the stream."""
        if isinstance(error, ApiException) and error.status in (0, _GONE):
            return
        self._relist = True
        self._failed(error)

    def _broken(self, error: Exception) -> None:
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            _LOG.info("watch was silent; it begins again", extra={"resource": self.plural})
        elif not self._stopping.is_set():
            self._failed(error)

    def _heard(self) -> None:
        self._heard_at = self._clock()
        self.heartbeat.beat()
        if self._failures:
            self._failures = 0
            _LOG.info("news again", extra={"resource": self.plural})

    def _failed(self, error: object) -> None:
        self._failures += 1
        if self._failures == 1:
            _LOG.warning("no news; trying again", extra={"resource": self.plural, "error": str(error)})

    def _pause(self) -> None:
        seconds = self._begun_at + _SHORTEST_SECONDS - self._clock()
        if self._failures:
            seconds = min(_FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE_SECONDS)
        if seconds > 0:
            self.heartbeat.beat(pause_seconds=seconds)
            self._stopping.wait(seconds)


def _say_nothing(_: logging.LogRecord) -> bool:
    return False
