"""What a claim that is not allocated may come to hold: where kube-scheduler allocates, claims count once they exist.

There a quota is enforced when a claim is created (deploy/quota-policy.yaml), so whatever has been created and may still
be allocated has to be in the sum that the next claim is compared with. The policy and this module read a claim alike:
of a prioritized list each amount counts as the alternative that asks for most of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

from fracgpu.controller.fit.views import Holding
from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.names import CAPACITY_CORES, CAPACITY_MEMORY, CAPACITY_SLOTS, CLASS_FRACTION
from fracgpu.driver.quantity import ceil_mib, quantity_int

Json = dict[str, Any]

MOST_DEVICES: Final = 32
"""Devices that one allocation can have at most: what a request for all of a node's counts as, as in a ResourceQuota."""
# Beyond these no device of ours can serve a request, and how far beyond is nothing that a quota needs to know. The
# policy cuts them off because its integers end somewhere.
_TOO_MANY: Final = MOST_DEVICES + 1
_TOO_MUCH: Final = 2**50


class ClaimNews(Protocol):
    """How a claim was known before and how it is now; None: it was not there, it is gone."""

    @property
    def before(self) -> Json | None:
        """The claim before."""

    @property
    def after(self) -> Json | None:
        """The claim now."""


class Charges(Protocol):
    """Where amounts are counted: a QuotaBook."""

    def charge(self, owner: str, namespace: str, holdings: Sequence[Holding]) -> None:
        """Replace what a claim (its UID) in a namespace counts."""


def is_class_of_ours(name: str) -> bool:
    """Tell whether a DeviceClass is one of ours by its name: `gpu.fracgpu.dev`, or anything that ends in `.` and that.

    The policy can go by nothing else: it sees no other object than the claim.
    """
    return name == CLASS_FRACTION or name.endswith(f".{CLASS_FRACTION}")


class AskedCharges:
    """Listens to news of claims and charges what is not allocated yet; what is, is charged by who knows holdings.

    `is_ours` tells of a DeviceClass whether it selects our GPUs, `largest_memory` how many bytes the largest GPU of the
    cluster has: that counts for a request that states no memory.
    """

    def __init__(
        self, charges: Charges, *, largest_memory: Callable[[], int], is_ours: Callable[[str], bool] = is_class_of_ours
    ) -> None:
        self._charges, self._largest_memory, self._is_ours = charges, largest_memory, is_ours

    def __call__(self, news: ClaimNews) -> None:
        """Take in news of a claim, after its holdings have been charged or released."""
        claim = news.after
        if claim is None or (claim.get("status") or {}).get("allocation"):
            return
        metadata = claim["metadata"]
        # What is being deleted is not allocated any more.
        asked = () if metadata.get("deletionTimestamp") else self._asked(claim)
        self._charges.charge(str(metadata["uid"]), str(metadata["namespace"]), asked)

    def _asked(self, claim: Json) -> tuple[Holding, ...]:
        return asked_of(claim, largest_memory=self._largest_memory, is_ours=self._is_ours)


def asked_of(
    claim: Json, *, largest_memory: Callable[[], int], is_ours: Callable[[str], bool] = is_class_of_ours
) -> tuple[Holding, ...]:
    """Return the most that each request of a claim can come to hold of our GPUs, wherever that will be."""
    devices = (claim.get("spec") or {}).get("devices") or {}
    found = [
        [part for part in _alternatives(request) if _is_charged(part, is_ours)]
        for request in devices.get("requests") or []
    ]
    return tuple(_worst(parts, largest_memory) for parts in found if parts)


def _alternatives(request: Json) -> Iterator[Json]:
    if request.get("exactly"):
        yield request["exactly"]
    yield from request.get("firstAvailable") or []


def _is_charged(part: Json, is_ours: Callable[[str], bool]) -> bool:
    return is_ours(str(part.get("deviceClassName", ""))) and not part.get("adminAccess")


def _worst(parts: Sequence[Json], largest_memory: Callable[[], int]) -> Holding:
    counts = [_count(part) for part in parts]
    asked = [(part.get("capacity") or {}).get("requests") or {} for part in parts]
    memory = [ceil_mib(amount) if (amount := _number(one, CAPACITY_MEMORY)) is not None else None for one in asked]
    return Holding(
        pool="",
        device="",
        memory_bytes=max(
            count * (largest_memory() if amount is None else amount)
            for count, amount in zip(counts, memory, strict=True)
        ),
        cores=max(count * (_number(one, CAPACITY_CORES) or 0) for count, one in zip(counts, asked, strict=True)),
        slots=max(count * _slots(one) for count, one in zip(counts, asked, strict=True)),
    )


def _count(part: Json) -> int:
    return MOST_DEVICES if part.get("allocationMode") == "All" else min(int(part.get("count") or 1), _TOO_MANY)


def _slots(asked: Json) -> int:
    slots = _number(asked, CAPACITY_SLOTS)
    return 1 if slots is None else slots


def _number(asked: Json, name: str) -> int | None:
    """Return a stated amount; None if it is not stated, or in a way that no device of ours can serve."""
    if name not in asked:
        return None
    try:
        return min(quantity_int(asked[name], unit=name), _TOO_MUCH)
    except QuantityInvalid:
        return None
