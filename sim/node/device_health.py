"""What plugins said of their devices' health, as the kubelet keeps and shows it.

Keyed by driver, pool and device, not by share. An entry that was not heard again within its timeout reads as unknown,
whatever it said: a plugin that is silent knows nothing. What counts is when it arrived; the time that the plugin gives
is ignored. When a stream ends all of the driver is forgotten, also what another instance of it said.

Source: pkg/kubelet/cm/dra/healthinfo.go of Kubernetes 1.36.3.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

_WORDS = {0: "Unknown", 1: "Healthy", 2: "Unhealthy"}
# The kubelet's own values.
_DEFAULT_TIMEOUT_S = 30.0
_MAX_MESSAGE_BYTES = 1024
_CUT = "..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One device: numbers as in the health service's protocol; without a timeout (seconds) the kubelet's holds."""

    pool: str
    device: str
    health: int
    timeout_s: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """What is shown: ``Healthy``, ``Unhealthy`` or ``Unknown``, and the plugin's message."""

    health: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    shown: DeviceHealth
    timeout_s: float
    arrived: float


class DeviceHealthCache:
    """Remembers the latest report of each device; ``on_change`` is called when a report says something new."""

    def __init__(self, *, on_change: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.time) -> None:
        self._on_change = on_change
        self._clock = clock
        self._lock = threading.Lock()
        self._drivers: dict[str, dict[tuple[str, str], _Entry]] = {}

    def update(self, driver: str, reports: Sequence[Report]) -> None:
        """Take a driver's complete list. A device that is missing keeps its last report until that is too old."""
        changed = False
        with self._lock:
            known, now = self._drivers.setdefault(driver, {}), self._clock()
            for report in reports:
                key, entry = (report.pool, report.device), _entry(report, now)
                before = known.get(key)
                changed |= before is None or (before.shown, before.timeout_s) != (entry.shown, entry.timeout_s)
                known[key] = entry
            for key in known.keys() - {(report.pool, report.device) for report in reports}:
                entry = known[key]
                if entry.shown.health != "Unknown" and now - entry.arrived > entry.timeout_s:
                    known[key] = replace(entry, shown=DeviceHealth("Unknown"), arrived=now)
                    changed = True
        if changed:
            self._on_change()

    def clear(self, driver: str) -> None:
        """Forget all of a driver: a stream of it ended. Nobody is told: pods show it with their next status."""
        with self._lock:
            self._drivers.pop(driver, None)

    def get(self, driver: str, pool: str, device: str) -> DeviceHealth:
        """Return what is shown for one device."""
        with self._lock:
            entry = self._drivers.get(driver, {}).get((pool, device))
            if entry is None or self._clock() - entry.arrived > entry.timeout_s:
                return DeviceHealth("Unknown")
            return entry.shown


def _entry(report: Report, now: float) -> _Entry:
    shown = DeviceHealth(_WORDS.get(report.health, "Unknown"), _cut(report.message))
    timeout = report.timeout_s if report.timeout_s > 0 else _DEFAULT_TIMEOUT_S
    return _Entry(shown=shown, timeout_s=timeout, arrived=now)


def _cut(message: str) -> str:
    """Cut a long message by bytes, be it in the middle of a character, which JSON then has a replacement for."""
    text = message.encode()
    if len(text) <= _MAX_MESSAGE_BYTES:
        return message
    return text[: _MAX_MESSAGE_BYTES - len(_CUT)].decode(errors="replace") + _CUT
