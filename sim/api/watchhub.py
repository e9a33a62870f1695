"""The history of changes, from which every watch is served.

Watchers read it by revision instead of each having a queue: a slow one then costs nothing, and one that fell behind the
history gets the 410 that a real API server gives.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.resources import Resource

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One committed write. `obj` is the state after it (before it, for DELETED); `previous` the state before."""

    revision: int
    resource: Resource
    type: EventType
    obj: JsonObject
    previous: JsonObject | None


class HistoryExpiredError(Exception):
    """Changes after the asked revision are gone; the reader must list again."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest})")


class WatchHub:
    """Bounded history of changes with listeners. Safe to use from several threads."""

    def __init__(self, *, history: int = 10_000) -> None:
        self._lock = threading.Lock()
        self._changes: deque[Change] = deque(maxlen=history)
        self._dropped = 0
        self._listeners: list[Callable[[], None]] = []

    def publish(self, change: Change) -> None:
        """Append a change (revisions ascend) and tell the listeners."""
        with self._lock:
            if len(self._changes) == self._changes.maxlen:
                self._dropped = self._changes[0].revision
            self._changes.append(change)
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def since(self, revision: int) -> list[Change]:
        """Return the changes after a revision, oldest first. Raises HistoryExpiredError."""
        with self._lock:
            if revision < self._dropped:
                raise HistoryExpiredError(revision, self._dropped)
            newer = 0
            for change in reversed(self._changes):
                if change.revision <= revision:
                    break
                newer += 1
            return list(islice(self._changes, len(self._changes) - newer, None))

    def forget(self) -> None:
        """Drop the whole history, as an etcd compaction does: every older watch gets 410."""
        with self._lock:
            if self._changes:
                self._dropped = self._changes[-1].revision
            self._changes.clear()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` (any thread, no arguments) after each change; returns the unsubscriber."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return unsubscribe
