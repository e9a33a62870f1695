"""Which pods are worth another look.

A pod that was refused is looked at again when something about it or its claims has changed, when something may have
become free, or when a time that was set for it has come; not in every round.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.objects.facts import revision_of, uid_of
from fracgpu.controller.ports import Clock, Json

_FIRST_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 60.0
# A look that nothing asked for, so that people go on being told (events expire), and nobody waits for lost news.
_AGAIN_SECONDS: Final = 330.0


@dataclass(slots=True)
class _Look:
    seen: tuple[int, ...]
    supply_version: int
    again_at: float
    not_before: float = 0.0
    failures: int = 0


class DueList:
    """Remembers, by UID, when a pod or claim was last looked at and in vain."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looks: dict[str, _Look] = {}

    def is_due(self, obj: Json, claims: Iterable[Json], supply_version: int) -> bool:
        """Tell whether a look may bring something new."""
        look = self._looks.get(uid_of(obj))
        if look is None:
            return True
        now = self._clock()
        if now < look.not_before:
            return False
        if now >= look.again_at:
            return True
        return look.failures > 0 or look.supply_version != supply_version or look.seen != _versions(obj, claims)

    def refused(self, obj: Json, claims: Iterable[Json], supply_version: int) -> None:
        """There was no place, as things are."""
        self._looks[uid_of(obj)] = _Look(_versions(obj, claims), supply_version, self._clock() + _AGAIN_SECONDS)

    def failed(self, obj: Json, claims: Iterable[Json], supply_version: int) -> None:
        """A write did not succeed: again after a while, each time a longer one."""
        before = self._looks.get(uid_of(obj))
        failures = before.failures if before is not None else 0
        pause = min(_FIRST_RETRY_SECONDS * 2**failures, _LONGEST_RETRY_SECONDS)
        versions = _versions(obj, claims)
        now = self._clock()
        self._looks[uid_of(obj)] = _Look(versions, supply_version, now + _AGAIN_SECONDS, now + pause, failures + 1)

    def served(self, uid: str) -> None:
        """Nothing is wanted any more, or nothing was decided: the next look is like the first."""
        self._looks.pop(uid, None)

    def next_due(self) -> float | None:
        """Return when, on the clock, the next retry is due; None when there is none."""
        return min((look.not_before for look in self._looks.values() if look.failures), default=None)

    def keep(self, uids: set[str]) -> None:
        """Forget all others."""
        for uid in self._looks.keys() - uids:
            del self._looks[uid]


def _versions(obj: Json, claims: Iterable[Json]) -> tuple[int, ...]:
    return (revision_of(obj), *(revision_of(claim) for claim in claims))
