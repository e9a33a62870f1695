"""Writes what namespaces use into the status of their quotas, once a second for each and no oftener in the long run.

The first change of a while is written at once, the next ones together a second later. Where the status is what claims
are admitted by, claims that come together would all be compared with the same old sum; there the first few writes after
a quiet while may follow each other ten times as fast. A status that was read from an
older state of the object is refused by the API server (409): the news of the newer state is on its way, and with it the
next attempt succeeds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from fracgpu.controller.ports import Clock, Executor
from fracgpu.controller.quota.amounts import QUOTA_KIND, Json
from fracgpu.controller.quota.book import Quota, QuotaBook, QuotaKey, key_of
from fracgpu.controller.quota.status import EXCEEDED, VALID, EnforcedAt, condition_of, desired_status
from fracgpu.driver.kube.errors import ClusterError, Conflict, NotFound
from fracgpu.driver.names import API_VERSION

_LOG: Final = logging.getLogger(__name__)
SPACING_S: Final = 1.0
"""Seconds between two writes of one quota's status, in the long run."""
HASTE_S: Final = 0.1
"""Seconds between two writes while some have been saved up."""
SAVED_UP: Final[dict[EnforcedAt, int]] = {"Allocation": 1, "Admission": 10}
"""How many writes can be saved up."""


class QuotaApi(Protocol):
    """The API server, as far as quotas need it. Raises ClusterError."""

    def replace_quota_status(self, quota: Json) -> Json:
        """Replace a FractionQuota's status, guarded by its resourceVersion, and return it as stored."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to be told about a quota by an event; with `settled` that it is over."""

    about: Json
    reason: str
    message: str
    settled: bool = False


@dataclass(slots=True)
class Pace:
    """When one quota may be written: so many at first, and one more with every SPACING_S."""

    most: int
    saved: float = 0.0
    last: float = float("-inf")

    def due(self) -> float:
        """Return the moment of the next write."""
        if self.last == float("-inf"):
            return self.last
        return self.last + max(HASTE_S, (1 - self.saved) * SPACING_S)

    def spend(self, now: float) -> None:
        """Take note of a write."""
        gained = self.most if self.last == float("-inf") else (now - self.last) / SPACING_S
        self.saved = max(0.0, min(self.most, self.saved + gained) - 1)
        self.last = now


@dataclass(slots=True)
class _Entry:
    """What is remembered of one quota: when it was written, and for which state nothing had to be."""

    uid: str
    pace: Pace
    settled_at: tuple[str, int] | None = None


@dataclass(slots=True)
class _Write:
    quota: Quota
    desired: Json
    stored: Json | None = None
    failure: ClusterError | None = None


class QuotaReporter:
    """Keeps the statuses; `step` is called by the thread that feeds the book, on the leader only.

    `enforced_at` is Allocation where our controller allocates, Admission where kube-scheduler does. `now` returns the
    time as the API writes it.
    """

    def __init__(
        self,
        api: QuotaApi,
        book: QuotaBook,
        *,
        enforced_at: EnforcedAt,
        clock: Clock,
        now: Callable[[], str],
        executor: Executor,
    ) -> None:
        self._api, self._book, self._enforced_at = api, book, enforced_at
        self._clock, self._now, self._executor = clock, now, executor
        self._entries: dict[QuotaKey, _Entry] = {}
        self._next: float | None = None

    def step(self) -> list[Notice]:
        """Write every status that differs and is due; return what is to be told. Does not raise ClusterError."""
        self._next = None
        writes = list(self._due())
        self._executor.run_all([self._call(write) for write in writes])
        return [notice for write in writes for notice in self._finish(write)]

    def wait_s(self) -> float | None:
        """Return in how many seconds `step` has something to do without further news; None: nothing is known."""
        return None if self._next is None else max(0.0, self._next - self._clock())

    def _due(self) -> Sequence[_Write]:
        quotas = {key_of(quota.obj): quota for quota in self._book.quotas()}
        self._entries = {key: entry for key, entry in self._entries.items() if key in quotas}
        found = (self._look(key, quota) for key, quota in quotas.items())
        return [write for write in found if write is not None]

    def _look(self, key: QuotaKey, quota: Quota) -> _Write | None:
        """Return the write that a quota needs now."""
        entry = self._entry(key, quota)
        state = self._state(key, quota)
        if state is not None and state == entry.settled_at:
            return None
        used = self._book.used(key[0])
        desired = desired_status(quota, used, enforced_at=self._enforced_at, now=self._now())
        if desired is None:
            entry.settled_at = state
            return None
        if self._clock() < entry.pace.due():
            self._wake(entry.pace.due())
            return None
        return _Write(quota, desired)

    def _state(self, key: QuotaKey, quota: Quota) -> tuple[str, int] | None:
        """Return by what one knows that nothing has happened since; None if one cannot."""
        change = self._book.change(key[0])
        return None if change is None else (str(quota.obj["metadata"].get("resourceVersion", "")), change)

    def _entry(self, key: QuotaKey, quota: Quota) -> _Entry:
        uid = str(quota.obj["metadata"].get("uid", ""))
        entry = self._entries.get(key)
        if entry is None or entry.uid != uid:
            entry = self._entries[key] = _Entry(uid, Pace(SAVED_UP[self._enforced_at]))
        return entry

    def _call(self, write: _Write) -> Callable[[], None]:
        def call() -> None:
            try:
                # Lists may come without the kind of their items.
                kind = {"apiVersion": API_VERSION, "kind": QUOTA_KIND}
                write.stored = self._api.replace_quota_status(write.quota.obj | kind | {"status": write.desired})
            except ClusterError as error:
                write.failure = error

        return call

    def _finish(self, write: _Write) -> Sequence[Notice]:
        key = key_of(write.quota.obj)
        entry = self._entries[key]
        entry.pace.spend(self._clock())
        if write.stored is None:
            if write.failure is not None and not isinstance(write.failure, (Conflict, NotFound)):
                _LOG.warning("quota status not written: %s", write.failure, extra={"quota": "/".join(key)})
            self._wake(entry.pace.due())
            return ()
        # News may be newer than the answer; `put` keeps the newer of the two.
        self._book.put(write.stored)
        kept = self._book.quota(key)
        if kept is not None and kept.obj is write.stored:
            # Also where the server did not keep all of it, for which an older definition of the resource is enough.
            entry.settled_at = self._state(key, kept)
        return _notices(write.quota.obj, write.stored)

    def _wake(self, at: float) -> None:
        self._next = at if self._next is None else min(self._next, at)


def _notices(before: Json, after: Json) -> list[Notice]:
    """Return what a change of status gives to tell."""
    notices: list[Notice] = []
    for kind, bad in ((EXCEEDED, "True"), (VALID, "False")):
        old, new = condition_of(before, kind), condition_of(after, kind)
        reason = "QuotaExceeded" if kind == EXCEEDED else "QuotaInvalid"
        if new.get("status") == bad and old.get("status") != bad:
            notices.append(Notice(after, reason, str(new.get("message", ""))))
        elif old.get("status") == bad and new.get("status") != bad:
            notices.append(Notice(after, reason, "", settled=True))
    return notices
