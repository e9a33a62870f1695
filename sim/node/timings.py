"""How long the kubelet waits before it tries again; shorter than the real values where a person watches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds. Pairs are first delay and longest delay; each further try doubles the delay."""

    prepare_retry: tuple[float, float] = (0.25, 5.0)
    create_retry: tuple[float, float] = (0.5, 5.0)
    restart_backoff: tuple[float, float] = (0.5, 10.0)
    release_retry: tuple[float, float] = (0.25, 5.0)
    reconcile: float = 60.0
    slice_wipe_grace: float = 30.0
    health_retry: float = 5.0


KUBELET_TIMINGS = Timings(
    prepare_retry=(2.0, 90.0), create_retry=(2.0, 300.0), restart_backoff=(10.0, 300.0), release_retry=(2.0, 90.0)
)


def backoff(bounds: tuple[float, float]) -> Iterator[float]:
    """Yield delays from the first bound, doubling up to the second."""
    delay, longest = bounds
    while True:
        yield delay
        delay = min(delay * 2, longest)
