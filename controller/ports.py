"""What the controller needs of the world outside, as narrow interfaces.

Protocols, so that the whole allocator runs in a deterministic simulation: there the API server, its delays, conflicts
and crashes, the clock and the other replica are played by a seeded test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Json = dict[str, Any]
ChangeKind = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class Change:
    """One piece of news about the cluster: an object of a resource (its plural, as `resourceclaims`) as it is now."""

    resource: str
    kind: ChangeKind
    obj: Json


class ControllerApi(Protocol):
    """The API server. Every method raises ClusterError (fracgpu.driver.kube.errors); reads are linearizable.

    Objects are the server's own JSON. Bodies are whole objects, guarded by their metadata.resourceVersion; parameters
    that were stored in another encoding do not stand in the way (the implementation falls back to protobuf).
    """

    def list_claims(self) -> Sequence[Json]:
        """Return all ResourceClaims, as of a moment after the call began."""

    def get_claim(self, namespace: str, name: str) -> Json:
        """Return a ResourceClaim, as of a moment after the call began."""

    def replace_claim(self, claim: Json) -> Json:
        """Replace a ResourceClaim's metadata (finalizers, annotations) and return it as stored."""

    def replace_claim_status(self, claim: Json) -> Json:
        """Replace a ResourceClaim's status and return it as stored."""

    def replace_quota_status(self, quota: Json) -> Json:
        """Replace a FractionQuota's status, guarded by its resourceVersion, and return it as stored."""

    def lease_holder(self) -> str:
        """Return who holds the allocators' Lease, as of a moment after the call began; empty when nobody does."""

    def keeps_capacity(self) -> bool:
        """Tell, by a dry run, whether the server keeps capacity requests, share ids and consumed capacity."""


class Teller(Protocol):
    """Tells people by Events, one per object and reason: the same text again is nothing new. Never blocks or raises."""

    def tell(self, about: Json, reason: str, message: str, *, warning: bool = False) -> None:
        """Say `message` about an object (its JSON with apiVersion, kind, metadata)."""

    def settle(self, about: Json, reason: str) -> None:
        """Forget what was last said for a reason, so that the same trouble later is news again."""


class Executor(Protocol):
    """Runs calls that do not depend on each other, all of them to their end."""

    def run_all(self, calls: Sequence[Callable[[], None]]) -> None:
        """Run the calls, in any order or at once; return when all have ended. They do not raise."""


Clock = Callable[[], float]
"""Seconds that only grow."""


class AllocatorMetrics(Protocol):
    """Counts what the allocator does; how it becomes a metric is decided by the implementation."""

    def placed(self, seconds: float) -> None:
        """A place was found; deciding took `seconds`."""

    def refused(self, code: str, seconds: float) -> None:
        """There was no place, first of all for the reason `code`; deciding took `seconds`."""

    def wrote(self, kind: str, outcome: str) -> None:
        """A write of `kind` (allocation, release) ended: written, refused, conflict, unknown or skipped."""

    def taken_back(self) -> None:
        """kube-scheduler has deallocated a claim that we had allocated."""

    def rolled_back(self) -> None:
        """A part of a pod's claims was taken back, so that all of them find a place together."""

    def collected(self) -> None:
        """An allocation that nobody used was taken back."""

    def fenced(self) -> None:
        """A batch was given up, because the term of office was over."""

    def pending(self, count: int) -> None:
        """So many pods and claims wait for an allocation."""


class Leadership(Protocol):
    """Whether this replica leads, and in which term of office."""

    def term(self) -> str | None:
        """Return the identity under which this replica holds the Lease, None while it does not (for sure)."""
