"""Telling why pods wait, at a pace that a large and full cluster can bear.

A full survey looks at every GPU. It is made for a pod when there is news since the last one, but for one pod at most
every few seconds, and for as many pods in each round as a short time allows: those that have waited longest for their
explanation come first. The planner makes one survey for all pods of a kind.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.allocator.planner import Refuse
from fracgpu.controller.allocator.texts import UNSCHEDULABLE
from fracgpu.controller.objects.facts import full_name, uid_of
from fracgpu.controller.ports import Clock, Json, Teller

_LOG: Final = logging.getLogger(__name__)
# As many events as the API server is asked to take at once, and what a round may cost those who can be placed.
_MOST_PER_ROUND: Final = 16
_SECONDS_PER_ROUND: Final = 0.1
_EVERY_SECONDS: Final = 5.0


@dataclass(slots=True)
class _Open:
    refusal: Refuse
    since: float


class Explaining:
    """Holds refusals until they are told."""

    def __init__(self, teller: Teller, clock: Clock) -> None:
        self._teller = teller
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._told_at: dict[str, float] = {}

    def refused(self, refusal: Refuse) -> None:
        """Have a refusal told; it replaces an earlier one of the same pod that was not told yet."""
        uid = uid_of(_subject(refusal))
        before = self._open.get(uid)
        self._open[uid] = _Open(refusal, before.since if before is not None else self._clock())

    def tell_some(self) -> list[tuple[str, float]]:
        """Tell the refusals whose turn it is; return the first reason code of each, and how long finding it took."""
        now = self._clock()
        ready = sorted((one.since, uid) for uid, one in self._open.items() if self._may_tell(uid, now))
        codes: list[tuple[str, float]] = []
        for _, uid in ready[:_MOST_PER_ROUND]:
            refusal = self._open.pop(uid).refusal
            began = self._clock()
            self._told_at[uid] = now
            try:
                misfit = refusal.why()
            except Exception:
                # The other pods are to be told all the same, and to be placed.
                _LOG.exception("no explanation", extra={"subject": full_name(_subject(refusal))})
                continue
            for obj in (*((refusal.pod,) if refusal.pod is not None else ()), *refusal.claims):
                self._teller.tell(obj, UNSCHEDULABLE, misfit.message, warning=True)
            codes.append((misfit.reasons[0].code.value, self._clock() - began))
            if self._clock() - now >= _SECONDS_PER_ROUND:
                break
        return codes

    def next_due(self) -> float | None:
        """Return when, on the clock, a refusal can be told; None when there is none."""
        return min((self._earliest(uid) for uid in self._open), default=None)

    def settled(self, objects: Sequence[Json]) -> None:
        """These have what they wanted."""
        for obj in objects:
            self._open.pop(uid_of(obj), None)
            self._told_at.pop(uid_of(obj), None)
            self._teller.settle(obj, UNSCHEDULABLE)

    def keep(self, uids: set[str]) -> None:
        """Forget all others."""
        for uid in self._open.keys() - uids:
            del self._open[uid]
        for uid in self._told_at.keys() - uids:
            del self._told_at[uid]

    def _may_tell(self, uid: str, now: float) -> bool:
        return self._earliest(uid) <= now

    def _earliest(self, uid: str) -> float:
        told_at = self._told_at.get(uid)
        return self._open[uid].since if told_at is None else told_at + _EVERY_SECONDS


def _subject(refusal: Refuse) -> Json:
    return refusal.pod if refusal.pod is not None else refusal.claims[0]
