"""Keeps a Prepare that lost its race from undoing an Unprepare.

The kubelet stops waiting for a slow Prepare, but the call goes on here. When the pod is deleted meanwhile, Unprepare
finds nothing and is done; a Prepare that then came through would leave files and a reservation behind, and the kubelet
would never ask to take them back. So an Unprepare overtakes every Prepare of its claim that is under way.

Only calls of one process are seen here. Two plugins of a rolling update can still race; then the claim soon has no
allocation or no API object any more, and the janitor takes it back.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fracgpu.kubeletplugin.errors import ClaimOvertaken
from fracgpu.kubeletplugin.prepare.claim import ClaimRef


class PrepareTurn:
    """One Prepare under way."""

    def __init__(self, ref: ClaimRef) -> None:
        self.ref = ref
        self.overtaken = False

    def check(self) -> None:
        """Raise ClaimOvertaken if an Unprepare of the claim was completed since. Call it under the node lock."""
        if self.overtaken:
            raise ClaimOvertaken(
                str(self.ref),
                "was taken back by the kubelet while it was being prepared",
                remedy="nothing is left of it; it is prepared anew when a pod asks again",
            )


class ClaimOrder:
    """The Prepares under way in this process, by claim. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, list[PrepareTurn]] = {}

    @contextmanager
    def preparing(self, ref: ClaimRef) -> Iterator[PrepareTurn]:
        """Count a Prepare of `ref` as under way while the block runs. Begin it before the claim is looked at."""
        turn = PrepareTurn(ref)
        with self._lock:
            self._turns.setdefault(ref.uid, []).append(turn)
        try:
            yield turn
        finally:
            with self._lock:
                self._turns[ref.uid].remove(turn)
                if not self._turns[ref.uid]:
                    del self._turns[ref.uid]

    def unprepared(self, ref: ClaimRef) -> None:
        """Overtake every Prepare of `ref` that is under way. Call it under the node lock, at the end of Unprepare."""
        with self._lock:
            for turn in self._turns.get(ref.uid, ()):
                turn.overtaken = True
