"""What each namespace holds of the GPUs, and what its quotas leave.

Sums are kept as charges come and go, so an answer costs as much as the namespace has quotas, however many claims there
are. Only a whole holding is looked up when it is asked for: it is as large as its GPU, which may be published later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.fit.views import Budget, DeviceKey, GpuView, Holding
from fracgpu.controller.quota.amounts import NOTHING, NOTHING_LEFT, Json, QuotaInvalid, Usage, limit, read_hard, total
from fracgpu.driver.names import CAPACITIES

QuotaKey = tuple[str, str]
"""Namespace and name of a FractionQuota."""


@dataclass(frozen=True, slots=True)
class Quota:
    """A FractionQuota as it is known: `hard` None says that it cannot be read, and `problem` why."""

    obj: Json
    hard: Budget | None
    problem: QuotaInvalid | None = None


@dataclass(frozen=True, slots=True)
class _Charge:
    namespace: str
    known: Usage
    whole: tuple[Holding, ...]


class QuotaBook:
    """Quotas and charges by namespace. One thread writes and reads."""

    def __init__(self, gpu: Callable[[DeviceKey], GpuView | None]) -> None:
        """`gpu` returns a published GPU by pool and device name, None for one that is not published."""
        self._gpu: Final = gpu
        self._quotas: dict[str, dict[str, Quota]] = {}
        self._charges: dict[str, _Charge] = {}
        self._sums: dict[str, Usage] = {}
        self._whole: dict[str, set[str]] = {}
        self._changes: dict[str, int] = {}
        self._clock = 0

    def put(self, quota: Json) -> None:
        """Take in a FractionQuota; an older state of one that is known is passed over."""
        namespace, name = key_of(quota)
        known = self.quota((namespace, name))
        if known is not None and _is_older(quota, known.obj):
            return
        try:
            entry = Quota(quota, read_hard(quota))
        except QuotaInvalid as problem:
            entry = Quota(quota, None, problem)
        self._quotas.setdefault(namespace, {})[name] = entry
        self._touch(namespace)

    def remove(self, quota: Json) -> None:
        """Forget a FractionQuota that is gone; one of its name that was made since stays."""
        namespace, name = key_of(quota)
        known = self.quota((namespace, name))
        if known is None or _uid(known.obj) != _uid(quota):
            return
        del self._quotas[namespace][name]
        if not self._quotas[namespace]:
            del self._quotas[namespace]
        self._touch(namespace)

    def charge(self, owner: str, namespace: str, holdings: Sequence[Holding]) -> None:
        """Replace what a claim (its UID) in a namespace holds."""
        known = total(
            Usage(memory_bytes=holding.memory_bytes, cores=holding.cores, slots=holding.slots)
            for holding in holdings
            if not holding.whole
        )
        charge = _Charge(namespace, known, tuple(holding for holding in holdings if holding.whole))
        if self._charges.get(owner) == charge:
            return
        self.release(owner)
        if not holdings:
            return
        self._charges[owner] = charge
        if known != NOTHING:
            self._sums[namespace] = self._sums.get(namespace, NOTHING) + known
        if charge.whole:
            self._whole.setdefault(namespace, set()).add(owner)
        self._touch(namespace)

    def release(self, owner: str) -> None:
        """A claim holds nothing any more."""
        charge = self._charges.pop(owner, None)
        if charge is None:
            return
        rest = self._sums.pop(charge.namespace, NOTHING) - charge.known
        if rest != NOTHING:
            self._sums[charge.namespace] = rest
        if charge.whole:
            self._whole[charge.namespace].discard(owner)
            if not self._whole[charge.namespace]:
                del self._whole[charge.namespace]
        self._touch(charge.namespace)

    def used(self, namespace: str, without: Collection[str] = ()) -> Usage:
        """Return what the claims of a namespace hold, except those of the owners in `without`."""
        whole = self._whole.get(namespace, ())
        used = self._sums.get(namespace, NOTHING)
        used += total(self._whole_usage(self._charges[owner]) for owner in whole if owner not in without)
        for owner in set(without):
            charge = self._charges.get(owner)
            if charge is not None and charge.namespace == namespace:
                used -= charge.known
        return used

    def left(self, namespace: str, without: Collection[str] = ()) -> Budget | None:
        """Return what a namespace may still be given, None if it has no quota.

        All quotas of a namespace apply. One that cannot be read leaves nothing. What the owners in `without` hold is
        counted as left. Never less than nothing, also where more is used than allowed.
        """
        quotas = self._quotas.get(namespace)
        if not quotas:
            return None
        used = self.used(namespace, without)
        rests = [NOTHING_LEFT if quota.hard is None else _rest(quota.hard, used) for quota in quotas.values()]
        return Budget(
            memory_bytes=_least(rest.memory_bytes for rest in rests),
            cores=_least(rest.cores for rest in rests),
            slots=_least(rest.slots for rest in rests),
        )

    def quota(self, key: QuotaKey) -> Quota | None:
        """Return a quota by namespace and name."""
        return self._quotas.get(key[0], {}).get(key[1])

    def quotas(self) -> Iterator[Quota]:
        """Yield all quotas."""
        for quotas in self._quotas.values():
            yield from quotas.values()

    def change(self, namespace: str) -> int | None:
        """Return a number that is another after every change of the namespace's quotas or charges.

        None where nothing can be said: a whole GPU changes with its slice.
        """
        return None if namespace in self._whole else self._changes.get(namespace, 0)

    def _whole_usage(self, charge: _Charge) -> Usage:
        return total(self._size(holding) for holding in charge.whole)

    def _size(self, holding: Holding) -> Usage:
        gpu = self._gpu(holding.key)
        if gpu is None:
            # Nobody publishes it, so nobody can say how large it is. It counts in full as soon as it is there.
            return Usage(memory_bytes=holding.memory_bytes, cores=holding.cores, slots=holding.slots)
        return Usage(memory_bytes=gpu.memory_bytes, cores=gpu.cores, slots=gpu.slots)

    def _touch(self, namespace: str) -> None:
        # One counter for all: a namespace that was emptied and filled again must not count from the start.
        self._clock += 1
        if namespace in self._quotas or namespace in self._sums:
            self._changes[namespace] = self._clock
        else:
            self._changes.pop(namespace, None)


def key_of(quota: Json) -> QuotaKey:
    """Return namespace and name of a FractionQuota."""
    metadata = quota.get("metadata") or {}
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def exceeded(hard: Budget, used: Usage) -> tuple[str, ...]:
    """Return the capacity names of which more is used than allowed."""
    rest = _signed_rest(hard, used)
    return tuple(name for name in CAPACITIES if (value := rest[name]) is not None and value < 0)


def _rest(hard: Budget, used: Usage) -> Budget:
    rest = {name: None if value is None else max(0, value) for name, value in _signed_rest(hard, used).items()}
    return Budget(memory_bytes=rest["memory"], cores=rest["cores"], slots=rest["slots"])


def _signed_rest(hard: Budget, used: Usage) -> dict[str, int | None]:
    limits = {name: limit(hard, name) for name in CAPACITIES}
    return {name: None if value is None else value - used.of(name) for name, value in limits.items()}


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _uid(quota: Json) -> str:
    return str((quota.get("metadata") or {}).get("uid", ""))


def _is_older(quota: Json, known: Json) -> bool:
    revisions = [str((obj.get("metadata") or {}).get("resourceVersion", "")) for obj in (quota, known)]
    numbers = [int(text) for text in revisions if text.isdigit()]
    return _uid(quota) == _uid(known) and len(numbers) == 2 and numbers[0] < numbers[1]
