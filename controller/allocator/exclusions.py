"""Nodes that kube-scheduler has refused for a pod after we allocated there.

It takes an unreserved claim back when the pod can run nowhere else. Placing the pod on the same node again at once
would go round in circles; never again would be wrong too, because what spoke against the node may pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fracgpu.controller.ports import Clock

_FIRST_SECONDS: Final = 60.0
_LONGEST_SECONDS: Final = 600.0


@dataclass(slots=True)
class _Refusal:
    until: float
    seconds: float
    over: bool = False


class Exclusions:
    """By pod (its UID) the nodes that are left out, and until when; each time again for twice as long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refusals: dict[str, dict[str, _Refusal]] = {}

    def __bool__(self) -> bool:
        """Whether anything is remembered."""
        return bool(self._refusals)

    def add(self, pod_uid: str, node: str) -> None:
        """Leave a node out for a pod."""
        refusals = self._refusals.setdefault(pod_uid, {})
        before = refusals.get(node)
        seconds = _FIRST_SECONDS if before is None else min(before.seconds * 2, _LONGEST_SECONDS)
        refusals[node] = _Refusal(self._clock() + seconds, seconds)

    def covers(self, pod_uid: str, node: str) -> bool:
        """Tell whether a node is left out for a pod now."""
        refusals = self._refusals.get(pod_uid)
        refusal = refusals.get(node) if refusals else None
        return refusal is not None and self._clock() < refusal.until

    def concern(self, pod_uid: str) -> bool:
        """Tell whether any node is, or was, left out for a pod."""
        return pod_uid in self._refusals

    def next_end(self) -> float | None:
        """Return when the next refusal ends, on the clock; None when there is none."""
        return min((one.until for one in self._all() if not one.over), default=None)

    def take_ended(self) -> bool:
        """Tell whether a refusal has ended since the last call."""
        ended = [one for one in self._all() if not one.over and self._clock() >= one.until]
        for one in ended:
            one.over = True
        return bool(ended)

    def keep(self, pod_uids: set[str]) -> None:
        """Forget all other pods: they are gone."""
        for uid in self._refusals.keys() - pod_uids:
            del self._refusals[uid]

    def _all(self) -> list[_Refusal]:
        return [one for nodes in self._refusals.values() for one in nodes.values()]
