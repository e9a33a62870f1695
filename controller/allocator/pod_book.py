"""The pods that use claims, and which of them wait for one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.allocator.claim_book import ClaimKey
from fracgpu.controller.allocator.node_book import PodKey
from fracgpu.controller.objects.facts import (
    claim_names,
    dig,
    is_deleting,
    is_terminal,
    name_of,
    namespace_of,
    revision_of,
    text,
    uid_of,
)
from fracgpu.controller.ports import Json

_STARTED: Final = ("Running", "Succeeded", "Failed")


def _priority(pod: Json) -> int:
    found = dig(pod, "spec", "priority")
    return found if isinstance(found, int) else 0


@dataclass(frozen=True, slots=True)
class WaitingOrder:
    """Who is served first: the higher priority, then the older pod."""

    priority: int
    created: str
    uid: str

    @classmethod
    def of(cls, pod: Json) -> WaitingOrder:
        """Return a pod's place."""
        return cls(_priority(pod), text(pod, "metadata", "creationTimestamp"), uid_of(pod))

    @property
    def key(self) -> tuple[int, str, str]:
        """Return what sorts."""
        return (-self.priority, self.created, self.uid)


class PodBook:
    """Pods with claims by namespace and name. Those without are nobody's business here."""

    def __init__(self) -> None:
        self._pods: dict[PodKey, Json] = {}
        self._users: dict[ClaimKey, set[PodKey]] = {}
        self._waiting: set[PodKey] = set()

    def __iter__(self) -> Iterator[Json]:
        return iter(self._pods.values())

    def get(self, key: PodKey) -> Json | None:
        """Return a pod. Do not change it."""
        return self._pods.get(key)

    def take_in(self, pod: Json) -> bool:
        """Take in a pod as it was at its resourceVersion; return False when newer is known already."""
        key = (namespace_of(pod), name_of(pod))
        before = self._pods.get(key)
        if before is not None and revision_of(before) >= revision_of(pod):
            return False
        self._unlink(key, before)
        if not dig(pod, "spec", "resourceClaims"):
            self._pods.pop(key, None)
            return True
        self._pods[key] = pod
        for claim in claims_named_by(pod):
            self._users.setdefault(claim, set()).add(key)
        if may_wait(pod):
            self._waiting.add(key)
        return True

    def forget(self, pod: Json) -> bool:
        """Take in that a pod is gone; return False when it is another that has its name now."""
        key = (namespace_of(pod), name_of(pod))
        known = self._pods.get(key)
        if known is None or uid_of(known) != uid_of(pod):
            return False
        self._unlink(key, known)
        del self._pods[key]
        return True

    def users_of(self, claim: ClaimKey) -> list[Json]:
        """Return the living pods that name a claim."""
        return [self._pods[key] for key in sorted(self._users.get(claim, ())) if is_alive(self._pods[key])]

    def waiting(self) -> list[Json]:
        """Return the pods that may wait for an allocation, in the order in which they are served."""
        return sorted((self._pods[key] for key in self._waiting), key=lambda pod: WaitingOrder.of(pod).key)

    def _unlink(self, key: PodKey, pod: Json | None) -> None:
        self._waiting.discard(key)
        for claim in claims_named_by(pod) if pod is not None else ():
            users = self._users.get(claim)
            if users is not None:
                users.discard(key)
                if not users:
                    del self._users[claim]


def claims_named_by(pod: Json) -> Iterable[ClaimKey]:
    """Return the claims of a pod, as far as they have names yet."""
    return [(namespace_of(pod), name) for name in claim_names(pod).values() if name]


def is_alive(pod: Json) -> bool:
    """Tell whether a pod runs or may run."""
    return not is_terminal(pod) and not is_deleting(pod)


def may_wait(pod: Json) -> bool:
    """Tell whether a pod is ready to be scheduled and has not begun.

    One that named its node itself waits too: no scheduler asks for its claims, but the kubelet waits for them.
    """
    return is_alive(pod) and not dig(pod, "spec", "schedulingGates") and dig(pod, "status", "phase") not in _STARTED
