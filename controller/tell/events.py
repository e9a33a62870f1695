"""Events on pods and claims: one object for each reason, which changes as what it tells changes.

`kubectl describe` shows them. What changes often (how much is free) must not become a stream of objects: an event is
made once, and patched afterwards; the same text is told again after some minutes only, to show that it still holds. The
name of an event follows from what it is about and its reason, so that a controller that was started again, or that has
just become the leader, goes on with the event that is there.

Nothing depends on an event: whoever tells puts it into a bounded queue and goes on.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from fracgpu.controller.ports import Clock, Json
from fracgpu.driver.kube.errors import ClusterError, Conflict, NotFound, Unavailable
from fracgpu.driver.process.background import Wait

_LOG: Final = logging.getLogger(__name__)
COMPONENT: Final = "fracgpu-controller"
OUTCOMES: Final = ("written", "gone", "refused", "unavailable", "dropped")
"""What becomes of an event; `dropped`: there were too many."""

_SAME_AGAIN_SECONDS: Final = 300.0
_CHANGED_AGAIN_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 5.0
_MOST_WAITING: Final = 16384
_MOST_REMEMBERED: Final = 16384
_IDLE_SECONDS: Final = 1.0
# Between two looks at whether the process stops.
_ROUND_SECONDS: Final = 5.0
_LAST_SECONDS: Final = 1.0
_MAX_MESSAGE: Final = 1024
_MAX_NAME_PREFIX: Final = 200
Key = tuple[str, str]


class EventApi(Protocol):
    """The API server, as far as events need it. Every method raises ClusterError."""

    def create_event(self, event: Json) -> Json:
        """Create an Event of core/v1 in its namespace and return it as stored. Raises Conflict if it is there."""

    def patch_event(self, namespace: str, name: str, patch: Json) -> Json:
        """Merge `patch` into an Event of core/v1 and return it as stored."""


@dataclass(frozen=True, slots=True)
class _Said:
    about: Json
    reason: str
    message: str
    warning: bool


@dataclass(slots=True)
class _Known:
    """An event that was written: what it says (None: that is over), and when by our clock it was written."""

    text: tuple[str, bool] | None
    at: float
    count: int


class EventTeller:
    """Teller by Events. `told` hears what becomes of each, one of OUTCOMES. `now` is the time of day for people."""

    def __init__(
        self,
        api: EventApi,
        *,
        told: Callable[[str], None] = lambda _: None,
        clock: Clock = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._told = told
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._waiting: OrderedDict[Key, _Said] = OrderedDict()
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._not_before: dict[Key, float] = {}
        # What is being written just now, and whether it was settled since.
        self._writing: Key | None = None
        self._settled = False

    def tell(self, about: Json, reason: str, message: str, *, warning: bool = False) -> None:
        """Say `message` about an object (its JSON with apiVersion, kind, metadata)."""
        said = _Said(_reference(about), reason, _cut(message), warning)
        key = (str(said.about["uid"]), reason)
        with self._lock:
            known = self._known.get(key)
            if key not in self._waiting and known is not None and known.text == (said.message, warning):
                if self._clock() < known.at + _SAME_AGAIN_SECONDS:
                    return
            elif key not in self._waiting and len(self._waiting) >= _MOST_WAITING:
                self._waiting.popitem(last=False)
                self._told("dropped")
            self._waiting[key] = said
        self._news.set()

    def settle(self, about: Json, reason: str) -> None:
        """Forget what was last said for a reason, so that the same trouble later is news again."""
        key = (str((about.get("metadata") or {}).get("uid")), reason)
        with self._lock:
            self._waiting.pop(key, None)
            self._settled = self._settled or key == self._writing
            known = self._known.get(key)
            if known is not None:
                known.text = None

    def waiting(self) -> int:
        """Return how many events wait to be written."""
        return len(self._waiting)

    def wake(self) -> None:
        """End the pause of `run`."""
        self._news.set()

    def run(self, wait: Wait) -> None:
        """Write what is told, until `wait` says that the process stops."""
        pause = 0.0
        while not wait(0.0):
            self._news.wait(pause)
            self._news.clear()
            pause = self.write_due()
        self.write_due(_LAST_SECONDS)

    def write_due(self, seconds: float = _ROUND_SECONDS) -> float:
        """Write what is due, for about `seconds` at most; return the seconds until there is something to do."""
        now = self._clock()
        with self._lock:
            keys = [key for key in self._waiting if self._due(key) <= now]
        for key in keys:
            self._write_key(key)
            if self._clock() >= now + seconds:
                break
        with self._lock:
            due = min((self._due(key) for key in self._waiting), default=None)
        return _IDLE_SECONDS if due is None else min(max(due - self._clock(), 0.0), _IDLE_SECONDS)

    def _due(self, key: Key) -> float:
        known = self._known.get(key)
        earliest = float("-inf") if known is None else known.at + _CHANGED_AGAIN_SECONDS
        return max(earliest, self._not_before.get(key, earliest))

    def _write_key(self, key: Key) -> None:
        now = self._clock()
        with self._lock:
            said = self._waiting.pop(key, None)
            if said is None:
                # Settled meanwhile.
                return
            known = self._known.get(key)
            self._writing, self._settled = key, False
        outcome = "written"
        try:
            count = self._write(key, said, known)
        except Unavailable as error:
            outcome = "unavailable"
            self._again(key, said, now)
            _LOG.debug("event not written", extra={"error": str(error)})
        except NotFound:
            # The namespace is gone, and everything in it.
            outcome = "gone"
        except ClusterError as error:
            # Mostly a namespace that is being deleted.
            outcome = "refused"
            _LOG.debug("event not written", extra={"error": str(error)})
        else:
            self._remember(key, said, now, count)
        self._told(outcome)

    def _again(self, key: Key, said: _Said, now: float) -> None:
        with self._lock:
            # What was said meanwhile is newer.
            self._waiting.setdefault(key, said)
            self._not_before = {one: at for one, at in self._not_before.items() if at > now}
            self._not_before[key] = now + _RETRY_SECONDS

    def _remember(self, key: Key, said: _Said, now: float, count: int) -> None:
        with self._lock:
            self._known.pop(key, None)
            self._known[key] = _Known(None if self._settled else (said.message, said.warning), now, count)
            if len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)

    def _write(self, key: Key, said: _Said, known: _Known | None) -> int:
        """Create or change the event; return its count. Raises ClusterError."""
        stamp = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace, name = _place(key, said)
        if known is not None:
            patch = {**_changing(said, stamp), "count": known.count + 1}
            try:
                self._api.patch_event(namespace, name, patch)
                return known.count + 1
            except NotFound:
                # The API server forgets events after an hour.
                pass
        try:
            self._api.create_event(_event(namespace, name, said, stamp))
        except Conflict:
            # Of a process before this one.
            stored = self._api.patch_event(namespace, name, _changing(said, stamp))
            return int(stored.get("count") or 1)
        return 1


def _place(key: Key, said: _Said) -> tuple[str, str]:
    digest = hashlib.sha256("/".join(key).encode()).hexdigest()[:16]
    return said.about["namespace"] or "default", f"{said.about['name'][:_MAX_NAME_PREFIX].rstrip('-.')}.{digest}"


def _changing(said: _Said, stamp: str) -> Json:
    return {
        "type": "Warning" if said.warning else "Normal",
        "message": said.message,
        "lastTimestamp": stamp,
    }


def _event(namespace: str, name: str, said: _Said, stamp: str) -> Json:
    about = said.about if said.about["namespace"] else {k: v for k, v in said.about.items() if k != "namespace"}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": about,
        "reason": said.reason,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": stamp,
        "count": 1,
        **_changing(said, stamp),
    }


def _reference(obj: Json) -> Json:
    metadata = obj.get("metadata") or {}
    return {
        "apiVersion": obj.get("apiVersion", ""),
        "kind": obj.get("kind", ""),
        "namespace": metadata.get("namespace", ""),
        "name": metadata.get("name", ""),
        "uid": metadata.get("uid", ""),
    }


def _cut(message: str) -> str:
    encoded = message.encode(errors="replace")
    if len(encoded) <= _MAX_MESSAGE:
        return encoded.decode()
    return encoded[: _MAX_MESSAGE - 3].decode(errors="ignore") + "..."
