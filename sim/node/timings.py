"""How long the kubelet waits before it tries again; shorter than the real values where a person watches.

Source: pkg/kubelet (pod_workers.go, kubelet.go), pkg/util/goroutinemap/exponentialbackoff and
pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go of Kubernetes 1.36.3.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds. Pairs are first delay and longest delay; each further try doubles the delay.

    ``sync``: from one sync of a pod to the next, which is when a Prepare that failed is tried again. ``sync_retry``:
    the same after a sync that failed, as one with a failed Unprepare has. Both are stretched at random (`jittered`).
    """

    sync: float = 1.0
    sync_retry: float = 0.5
    create_retry: tuple[float, float] = (0.5, 5.0)
    restart_backoff: tuple[float, float] = (0.5, 10.0)
    registration_retry: tuple[float, float] = (0.5, 2.0)
    wipe_retry: tuple[float, float] = (1.0, 5.0)
    reconcile: float = 60.0
    slice_wipe_grace: float = 30.0
    health_retry: float = 5.0


KUBELET_TIMINGS = Timings(
    sync=60.0,
    sync_retry=10.0,
    create_retry=(10.0, 10.0),
    restart_backoff=(10.0, 300.0),
    registration_retry=(0.5, 122.0),
    wipe_retry=(1.0, 300.0),
)
_STRETCH = 0.5


def jittered(seconds: float) -> float:
    """Return ``seconds`` times 1 to 1.5, so that pods that failed together are not tried again together."""
    return seconds * random.uniform(1.0, 1.0 + _STRETCH)  # noqa: S311


def backoff(bounds: tuple[float, float]) -> Iterator[float]:
    """Yield delays from the first bound, doubling up to the second."""
    delay, longest = bounds
    while True:
        yield delay
        delay = min(delay * 2, longest)
