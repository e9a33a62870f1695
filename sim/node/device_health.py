"""What plugins said of their devices' health, as the kubelet keeps and shows it.

Keyed by driver, pool and device, not by share. An entry that grew older than its timeout reads as unknown, whatever it
said: a plugin that is silent knows nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WORDS = {0: "Unknown", 1: "Healthy", 2: "Unhealthy"}
# The kubelet's own values.
_DEFAULT_TIMEOUT_S = 30.0
_MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One device: numbers as in the health service's protocol, ``updated_at`` in Unix seconds."""

    pool: str
    device: str
    health: int
    updated_at: float
    timeout_s: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """What is shown: ``Healthy``, ``Unhealthy`` or ``Unknown``, and the plugin's message."""

    health: str
    message: str = ""


class DeviceHealthCache:
    """Remembers the latest report of each device; ``on_change`` is called when what is shown would change."""

    def __init__(self, *, on_change: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.time) -> None:
        self._on_change = on_change
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: dict[tuple[str, str, str], Report] = {}

    def update(self, driver: str, reports: Sequence[Report]) -> None:
        """Take a driver's complete list. A device that is missing keeps its last report until that is too old."""
        changed = False
        with self._lock:
            for report in reports:
                key = (driver, report.pool, report.device)
                before = self._shown(self._reports.get(key))
                self._reports[key] = report
                changed |= self._shown(report) != before
        if changed:
            self._on_change()

    def get(self, driver: str, pool: str, device: str) -> DeviceHealth:
        """Return what is shown for one device."""
        with self._lock:
            return self._shown(self._reports.get((driver, pool, device)))

    def _shown(self, report: Report | None) -> DeviceHealth:
        if report is None or self._clock() - report.updated_at > (report.timeout_s or _DEFAULT_TIMEOUT_S):
            return DeviceHealth("Unknown")
        return DeviceHealth(_WORDS.get(report.health, "Unknown"), report.message[:_MAX_MESSAGE])
