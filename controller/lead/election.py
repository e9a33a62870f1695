"""Which replica leads, by the rules of the official client's LeaderElection, in a loop of our own.

The rules are the client's: whoever finds the record unchanged for the lease's duration, or without a holder, may take
it; the holder renews it, and stops believing in itself before anybody else may take it. The client's loop itself can
not be used: it can not be stopped, nor give the Lease back; it measures by the wall clock, which jumps; it ends the
process for a wrong setting; it takes an API error for somebody else's lead; and it goes on under one name for ever,
while the allocator needs a new name for each term (see allocator/fenced_writes.py).

Time is counted on this machine's monotonic clock alone. A leader counts from before its request was sent, a follower
from after it has seen the record: so, as long as clocks run at about one rate, the one's end is before the other's
begin. That keeps two replicas from working against each other; that no GPU is given away twice does not depend on it.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fracgpu.controller.lead.lease_lock import RecordLock
from fracgpu.controller.lead.record import Record
from fracgpu.driver.kube.errors import ClusterError
from fracgpu.driver.process.background import Wait

_LOG: Final = logging.getLogger(__name__)
# What a released record promises: nothing. The API server wants more than zero.
_RELEASED_SECONDS: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds: how long a lease holds, for how long after a renewal its holder believes in it, and between attempts.

    `renew` must be less than `lease`, `retry` less than `renew`.
    """

    lease: int = 15
    renew: float = 10.0
    retry: float = 2.0


class Leadership:
    """Whether this replica leads, and since when: one `term` is one uninterrupted lead, never the same twice.

    Run `run` in a thread. `identity` is what people read in the Lease, the pod's name; `on_change` is called, in that
    thread, with the term that has begun or None for one that has ended.
    """

    def __init__(
        self,
        lock: RecordLock,
        *,
        identity: str,
        timing: Timing,
        on_change: Callable[[str | None], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._lock = lock
        self._identity = identity
        self._timing = timing
        self._on_change = on_change
        self._clock = clock
        self._now = now
        self._new_id = new_id
        self._candidate = self._fresh()
        self._observed: Record | None = None
        self._observed_at = 0.0
        self._acquired = ""
        self._state = threading.Condition()
        self._term: str | None = None
        self._valid_until = 0.0

    def term(self) -> str | None:
        """Return the term in which this replica leads, None while it does not, or can not be sure that it does."""
        with self._state:
            return self._term if self._clock() < self._valid_until else None

    def wait(self, seconds: float) -> str | None:
        """Return the term as soon as there is one, None when there is none for `seconds`."""
        end = self._clock() + seconds
        with self._state:
            while (term := self.term()) is None and (left := end - self._clock()) > 0:
                self._state.wait(left)
            return term

    def run(self, wait: Wait) -> None:
        """Stand for election, and renew, until `wait` says that the process stops; then give the Lease back."""
        pause = 0.0
        while not wait(pause):
            begun = self._clock()
            self.attempt()
            # Counted from the begin, so that slow answers do not eat into the deadline as well.
            pause = max(0.0, begun + self._timing.retry - self._clock())
        self.release()

    def attempt(self) -> None:
        """Try once to become or remain the leader. Raises nothing: the API server may be away."""
        begun = self._clock()
        self._end_if_over()
        try:
            held = self._acquire_or_renew()
        except ClusterError as error:
            _LOG.warning("lease not renewed", extra={"error": str(error), "leads": self._term is not None})
            self._end_if_over()
            return
        if held:
            self._hold(begun)
        elif self._term is not None:
            self._end("the lease is not ours any more")

    def release(self) -> None:
        """Give up the lead, if there is one, so that another replica can take it at once."""
        with self._state:
            holds, self._term, self._valid_until = self._term is not None, None, 0.0
        if not holds:
            return
        self._candidate = self._fresh()
        self._on_change(None)
        try:
            self._lock.update(self._record(holder="", seconds=_RELEASED_SECONDS))
            _LOG.info("lease given back")
        except ClusterError as error:
            _LOG.warning("lease not given back; it ends by itself", extra={"error": str(error)})

    def _acquire_or_renew(self) -> bool:
        record = self._lock.read()
        if self._term is not None and (record is None or record.holder != self._candidate):
            # Taken, emptied or deleted while we held it: who has led since can not be known, so this term is over.
            return False
        if record is None:
            self._acquired = self._time()
            self._lock.create(self._record())
            return True
        if record != self._observed:
            self._observed, self._observed_at = record, self._clock()
        if record.holder == self._candidate:
            # Also what a write of ours whose answer was lost has left.
            self._lock.update(self._record())
            return True
        lasts = max(record.duration_seconds, self._timing.lease)
        if record.holder and self._clock() < self._observed_at + lasts:
            return False
        self._acquired = self._time()
        self._lock.update(self._record())
        return True

    def _hold(self, begun: float) -> None:
        with self._state:
            new = self._term is None
            self._term = self._candidate
            self._valid_until = begun + self._timing.renew
            self._state.notify_all()
        if new:
            _LOG.info("this replica leads", extra={"term": self._term})
            self._on_change(self._term)

    def _end_if_over(self) -> None:
        if self._term is not None and self._clock() >= self._valid_until:
            self._end(f"not renewed for {self._timing.renew:g} s")

    def _end(self, why: str) -> None:
        _LOG.warning("this replica does not lead any more", extra={"term": self._term, "reason": why})
        with self._state:
            self._term, self._valid_until = None, 0.0
        self._candidate = self._fresh()
        self._on_change(None)

    def _record(self, *, holder: str | None = None, seconds: int | None = None) -> Record:
        return Record(
            holder=self._candidate if holder is None else holder,
            duration_seconds=self._timing.lease if seconds is None else seconds,
            acquired=self._acquired,
            renewed=self._time(),
        )

    def _time(self) -> str:
        return str(self._now())

    def _fresh(self) -> str:
        return f"{self._identity}_{self._new_id()}"
