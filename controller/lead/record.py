"""What the replicas write down about who leads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Who leads, and for how long after each renewal. `holder` is empty when nobody does.

    `acquired` and `renewed` are times for people to read: no decision depends on another machine's clock.
    `version` tells two writes apart; a record that is to be written has none.
    """

    holder: str
    duration_seconds: int
    acquired: str = ""
    renewed: str = ""
    version: str = ""
