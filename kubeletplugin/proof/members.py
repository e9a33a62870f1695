"""Which allocation a process on a GPU belongs to.

A process that has an allocation's config page mounted belongs to it: only the runtime can reach that file. A process
without one may still be of the same container (it changed its root, or made mounts of its own), or of a pod that the
claim is reserved for; these are found by the cgroup, which a container can not leave. All others are foreign.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fracgpu.kubeletplugin.proof.cgroup import ContainerRef


@dataclass(frozen=True, slots=True)
class Candidate:
    """An allocation of the GPU in question, and its claim."""

    allocation_id: str
    claim_uid: str


class ClaimConsumers:
    """The pods that claims are reserved for, by UID, as far as the API server was asked. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pods: dict[str, frozenset[str]] = {}

    def learn(self, claim_uid: str, claim: Mapping[str, Any]) -> None:
        """Remember the pods in status.reservedFor of the raw `claim`."""
        reserved = (claim.get("status") or {}).get("reservedFor") or ()
        pods = frozenset(str(one.get("uid")) for one in reserved if one.get("resource") == "pods")
        with self._lock:
            self._pods[claim_uid] = pods

    def pods(self, claim_uid: str) -> frozenset[str]:
        """Return the UIDs of the pods that the claim was last seen reserved for."""
        with self._lock:
            return self._pods.get(claim_uid, frozenset())

    def keep_only(self, claim_uids: Iterable[str]) -> None:
        """Forget all other claims."""
        kept = set(claim_uids)
        with self._lock:
            self._pods = {uid: pods for uid, pods in self._pods.items() if uid in kept}


class Members:
    """Assigns processes to allocations, and remembers in which containers it saw them."""

    def __init__(self, consumers: ClaimConsumers) -> None:
        self._consumers = consumers
        self._seen: dict[ContainerRef, frozenset[str]] = {}

    def assign(
        self, mounted: frozenset[str], container: ContainerRef | None, candidates: Iterable[Candidate]
    ) -> frozenset[str]:
        """Return the ids of those `candidates`, the allocations of one GPU, that a process belongs to.

        `mounted` are the allocation ids whose config page the process has, of whatever GPU. What other processes of its
        container had counts too: one that keeps only some of the pages must not get away from the others.
        """
        candidates = tuple(candidates)
        known = mounted
        if container is not None:
            known |= self._seen.get(container, frozenset())
            if mounted:
                self._seen[container] = known
        if known:
            return frozenset(one.allocation_id for one in candidates if one.allocation_id in known)
        if container is None:
            return frozenset()
        return frozenset(
            one.allocation_id for one in candidates if container.pod_uid in self._consumers.pods(one.claim_uid)
        )

    def keep_only(self, allocation_ids: frozenset[str]) -> None:
        """Forget containers all of whose allocations are gone."""
        self._seen = {container: ids for container, ids in self._seen.items() if ids & allocation_ids}
