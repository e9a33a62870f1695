"""The claims of the cluster, and through them what is held of each GPU.

What we are about to write counts from the moment of the decision, and what may have been written, though no answer
came, counts until it is known not to be. News never takes such an assumption back unless it is newer than the write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.views import Holding, PlacedDevice
from fracgpu.controller.objects.facts import (
    annotations_of,
    is_allocated,
    mapping,
    name_of,
    namespace_of,
    revision_of,
    uid_of,
)
from fracgpu.controller.objects.holdings import holdings_of
from fracgpu.controller.ports import Json

ClaimKey = tuple[str, str]
"""Namespace and name of a claim."""
IMMEDIATE_ANNOTATION: Final = "gpu.fracgpu.dev/allocate"
IMMEDIATE: Final = "Immediate"


def wanted_ahead(claim: Json) -> bool:
    """Tell whether a claim asks to be allocated before any pod needs it."""
    return annotations_of(claim).get(IMMEDIATE_ANNOTATION) == IMMEDIATE


def _allocation(claim: Json) -> Json:
    return mapping(claim, "status", "allocation")


class Charges(Protocol):
    """Who else wants to know what claims hold: quotas."""

    def charge(self, owner: str, namespace: str, holdings: Sequence[Holding]) -> None:
        """Replace what a claim (its UID) in a namespace holds."""

    def release(self, owner: str) -> None:
        """A claim holds nothing any more."""


@dataclass(frozen=True, slots=True)
class ClaimNews:
    """How a claim was known before, and how it is now; None: it was not there, it is gone."""

    before: Json | None
    after: Json | None

    @property
    def lost_allocation(self) -> bool:
        """Whether the claim is still there and its allocation is not."""
        before, after = self.before, self.after
        if before is None or after is None or uid_of(before) != uid_of(after):
            return False
        return is_allocated(before) and not is_allocated(after)

    @property
    def frees(self) -> bool:
        """Whether something may be free that was not."""
        before, after = self.before, self.after
        if before is None or not is_allocated(before):
            return False
        # Between two lists a claim may have been made anew under its name, or placed anew.
        return after is None or uid_of(before) != uid_of(after) or _allocation(before) != _allocation(after)


class ClaimBook:
    """All claims by namespace and name, the newest of what was told about each."""

    def __init__(self, ledger: Ledger, charges: Charges) -> None:
        self._ledger = ledger
        self._charges = charges
        self._claims: dict[ClaimKey, Json] = {}
        self._assumed: dict[str, tuple[Holding, ...]] = {}
        self._ahead: set[ClaimKey] = set()

    def __iter__(self) -> Iterator[Json]:
        return iter(self._claims.values())

    def get(self, key: ClaimKey) -> Json | None:
        """Return a claim. Do not change it."""
        return self._claims.get(key)

    def ahead(self) -> list[Json]:
        """Return the claims that ask to be allocated before any pod needs them and are not, by name."""
        return [self._claims[key] for key in sorted(self._ahead)]

    def take_in(self, claim: Json) -> ClaimNews | None:
        """Take in a claim as it was at its resourceVersion; None when newer is known already."""
        key = (namespace_of(claim), name_of(claim))
        before = self._claims.get(key)
        if before is not None and revision_of(before) >= revision_of(claim):
            return None
        self._claims[key] = claim
        if wanted_ahead(claim) and not is_allocated(claim):
            self._ahead.add(key)
        else:
            self._ahead.discard(key)
        if before is not None and uid_of(before) != uid_of(claim):
            # Another claim of this name: that of before is gone, with all that it held.
            self._drop(before)
        self._count(claim)
        return ClaimNews(before, claim)

    def forget(self, claim: Json) -> ClaimNews | None:
        """Take in that a claim is gone; None when it is another that has its name now."""
        key = (namespace_of(claim), name_of(claim))
        known = self._claims.get(key)
        if known is None or uid_of(known) != uid_of(claim):
            return None
        del self._claims[key]
        self._ahead.discard(key)
        self._drop(known)
        return ClaimNews(known, None)

    def assume(self, claim: Json, devices: Sequence[PlacedDevice]) -> None:
        """Count a placement of a claim that is about to be written, until `settle`."""
        self._assumed[uid_of(claim)] = tuple(
            Holding(
                pool=device.pool,
                device=device.device,
                memory_bytes=device.amounts.memory_bytes,
                cores=device.amounts.cores,
                slots=device.amounts.slots,
            )
            for device in devices
            if not device.admin
        )
        self._count(claim)

    def settle(self, claim: Json) -> bool:
        """Stop assuming: the write is in the book, or is known never to happen. Return whether anything is free now."""
        uid = uid_of(claim)
        assumed = self._assumed.pop(uid, None)
        if assumed is None:
            return False
        known = self._claims.get((namespace_of(claim), name_of(claim)))
        if known is not None and uid_of(known) == uid:
            self._count(known)
        else:
            self._drop(claim)
        return self._ledger.held_by(uid) != assumed

    def is_assumed(self, claim: Json) -> bool:
        """Tell whether a write of this claim's allocation is under way, or its outcome is not known."""
        return uid_of(claim) in self._assumed

    def _count(self, claim: Json) -> None:
        uid = uid_of(claim)
        holdings = holdings_of(claim) if is_allocated(claim) else self._assumed.get(uid, ())
        if holdings:
            self._ledger.hold(uid, holdings)
            self._charges.charge(uid, namespace_of(claim), holdings)
        else:
            self._drop(claim)

    def _drop(self, claim: Json) -> None:
        uid = uid_of(claim)
        if uid in self._assumed and self._is_known(claim):
            return
        self._ledger.release(uid)
        self._charges.release(uid)

    def _is_known(self, claim: Json) -> bool:
        known = self._claims.get((namespace_of(claim), name_of(claim)))
        return known is not None and uid_of(known) == uid_of(claim)
