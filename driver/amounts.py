"""Amounts: one truth about how much of a GPU one allocation has.

Amounts can be stated in capacity.requests, in configuration, in consumedCapacity and in the grant, and an API server
may silently drop some of them. These pure functions say which statement counts and refuse every contradiction: a
device is never handed out without amounts, and never with amounts that two places disagree about.

    allocated by  API keeps  amounts                                      refused
    scheduler     yes        consumedCapacity                             claim config that differs, memoryPercent
    scheduler     no         -                                            always
    controller    yes        capacity.requests, else claim, else class    claim stating both, differently
    controller    no         claim config, else class config              no memory in either

What the controller writes, as consumedCapacity where the API keeps it and always as grant, must agree at Prepare.

Whether the API keeps capacity is not a setting at Prepare: it shows in whether the result has consumedCapacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from fracgpu.driver.config import WHOLE, FractionConfig
from fracgpu.driver.errors import (
    AmountsDisagree,
    AmountsDropped,
    AmountsExceedDevice,
    AmountsInvalid,
    AmountsZero,
    MemoryPercentNotSupported,
    QuantityInvalid,
)
from fracgpu.driver.gpu import CORES_PER_GPU
from fracgpu.driver.grant import GrantResult
from fracgpu.driver.names import CAPACITIES, CAPACITY_CORES, CAPACITY_MEMORY, CAPACITY_SLOTS
from fracgpu.driver.quantity import ceil_mib, floor_mib, format_bytes, quantity_int

Allocator = Literal["controller", "scheduler"]
Capacities = Mapping[str, str | int]
"""Capacity name to Quantity, as in capacity.requests and consumedCapacity."""

MAX_SLOTS: Final = 1
"""Slots that one allocation takes: it counts as one sharer, or, for admin access, as none."""
_UNITS: Final = {CAPACITY_MEMORY: "bytes", CAPACITY_CORES: "percent of one GPU", CAPACITY_SLOTS: "sharers"}
_NOTHING_SAID: Final = FractionConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What one allocation has of one GPU.

    Memory in bytes, cores in percent of one GPU (0: none reserved, no cap), slots in sharers: what counts against the
    GPU, limited or not; admin access counts as zero of everything. `limited` is False when the
    config page must say no limit: admin access, enforcement None, or a whole GPU.
    """

    memory_bytes: int
    cores: int
    slots: int
    limited: bool = True

    def to_capacities(self) -> dict[str, str]:
        """Return the amounts as consumedCapacity: canonical Quantities by capacity name."""
        return {
            CAPACITY_CORES: str(self.cores),
            CAPACITY_MEMORY: format_bytes(self.memory_bytes),
            CAPACITY_SLOTS: str(self.slots),
        }


_ADMIN: Final = Amounts(memory_bytes=0, cores=0, slots=0, limited=False)


def requested_amounts(
    *,
    subject: str,
    physical_memory_bytes: int,
    keeps_capacity: bool,
    requests: Capacities | None = None,
    claim_config: FractionConfig = _NOTHING_SAID,
    class_config: FractionConfig = _NOTHING_SAID,
    admin_access: bool = False,
) -> Amounts:
    """Return what our controller grants for one device to a request that asks for it.

    `requests` is capacity.requests of the request, the configurations are the merged entries of claim and class,
    `physical_memory_bytes` that of the GPU in question (a multiple of MiB), `keeps_capacity` whether the API server
    keeps capacity fields, and `subject` names the claim and request for error texts. Memory is rounded up to MiB, as
    the API's step does; a percentage is rounded down. Without any memory amount the default is the whole card, except
    where capacity is not kept: there it must be said.

    Raises AmountsDisagree, AmountsDropped, AmountsExceedDevice, AmountsZero or AmountsInvalid.
    """
    _refuse_unknown_capacities(subject, requests or {})
    asked = _Partial.of_capacities(subject, requests or {}).rounded_up()
    claim = _Partial.of_config(claim_config, physical_memory_bytes)
    default = _Partial.of_config(class_config, physical_memory_bytes)
    _require_equal(subject, ("capacity.requests", asked), ("the claim's FractionConfig", claim))
    if admin_access:
        return _ADMIN
    if not keeps_capacity:
        asked = _Partial()
        if claim.memory is None and default.memory is None:
            remedy = f"state memory (an amount or {WHOLE}) in the FractionConfig of claim or class"
            raise AmountsDropped(
                subject, "the API server drops capacity.requests and no memory is configured", remedy=remedy
            )
    amounts = Amounts(
        memory_bytes=_first(asked.memory, claim.memory, default.memory, physical_memory_bytes),
        cores=_first(asked.cores, claim.cores, default.cores, 0),
        slots=_first(asked.slots, MAX_SLOTS),
    )
    return _checked(subject, amounts, class_config, physical_memory_bytes)


def granted_amounts(
    *,
    subject: str,
    allocator: Allocator,
    physical_memory_bytes: int,
    consumed: Capacities | None = None,
    grant: GrantResult | None = None,
    claim_config: FractionConfig = _NOTHING_SAID,
    class_config: FractionConfig = _NOTHING_SAID,
    admin_access: bool = False,
) -> Amounts:
    """Return what Prepare enforces for one allocation result.

    `consumed` is consumedCapacity of the result (None or empty if the API server has none), `grant` the entry of the
    FractionGrant for exactly this result, the configurations are the merged entries of claim and class in the
    allocation, `allocator` who owns the GPU. `subject` names claim and result for error texts.

    Raises AmountsDropped, AmountsDisagree, MemoryPercentNotSupported, AmountsExceedDevice, AmountsZero or
    AmountsInvalid.
    """
    if allocator == "scheduler" and not consumed:
        remedy = "enable DRAConsumableCapacity in the API server, or set allocator to controller"
        raise AmountsDropped(subject, "the result has no consumedCapacity", remedy=remedy)
    if allocator == "controller" and grant is None:
        remedy = "delete the claim and let the fracgpu controller allocate a new one"
        raise AmountsDropped(subject, "the allocation has no FractionGrant for this result", remedy=remedy)
    stated = _Partial.of_capacities(subject, consumed) if consumed else None
    granted = _Partial.of_grant(grant) if grant is not None else None
    if stated is not None:
        _require_complete(subject, stated)
    if stated is not None and granted is not None:
        _require_equal(subject, ("consumedCapacity", stated), ("the FractionGrant", granted))
    if allocator == "scheduler" and stated is not None:
        _check_scheduler_claim(subject, stated, claim_config, physical_memory_bytes)
    if admin_access:
        return _ADMIN
    known = stated or granted or _Partial()
    amounts = Amounts(memory_bytes=_first(known.memory, 0), cores=_first(known.cores, 0), slots=_first(known.slots, 0))
    return _checked(subject, amounts, class_config, physical_memory_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Partial:
    """Amounts as one place states them; None is "not stated here"."""

    memory: int | None = None
    cores: int | None = None
    slots: int | None = None

    @classmethod
    def of_capacities(cls, subject: str, capacities: Capacities) -> _Partial:
        amounts = {name: _quantity(subject, name, capacities[name]) for name in CAPACITIES if name in capacities}
        return cls(**amounts)

    def rounded_up(self) -> _Partial:
        """The memory step of the device's request policy; consumedCapacity has been through it already."""
        return self if self.memory is None else replace(self, memory=ceil_mib(self.memory))

    @classmethod
    def of_config(cls, config: FractionConfig, physical_memory_bytes: int) -> _Partial:
        return cls(memory=_configured_memory(config, physical_memory_bytes), cores=config.cores)

    @classmethod
    def of_grant(cls, grant: GrantResult) -> _Partial:
        return cls(memory=grant.memory_bytes, cores=grant.cores, slots=grant.slots)


def _configured_memory(config: FractionConfig, physical_memory_bytes: int) -> int | None:
    if config.memory == WHOLE:
        return physical_memory_bytes
    if config.memory is not None:
        return ceil_mib(quantity_int(config.memory, unit="bytes"))
    if config.memory_percent is not None:
        return floor_mib(physical_memory_bytes * config.memory_percent // 100)
    return None


def _quantity(subject: str, name: str, value: str | int) -> int:
    try:
        return quantity_int(value, unit=_UNITS[name])
    except QuantityInvalid as error:
        what = f"capacity {name} {value!r:.80} {error.what}"
        raise AmountsInvalid(subject, what, remedy=error.remedy) from error


def _refuse_unknown_capacities(subject: str, requests: Capacities) -> None:
    # The API matches these keys literally: a prefixed `<driver>/memory` finds no device and would wait for ever.
    for name in requests:
        if name not in CAPACITIES:
            what = f"capacity {name!r:.80} is unknown"
            raise AmountsInvalid(subject, what, remedy=f"use {', '.join(CAPACITIES)} without a prefix")


def _require_complete(subject: str, stated: _Partial) -> None:
    values = {CAPACITY_MEMORY: stated.memory, CAPACITY_CORES: stated.cores, CAPACITY_SLOTS: stated.slots}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        what = f"consumedCapacity lacks {', '.join(missing)}"
        raise AmountsDropped(subject, what, remedy="delete the claim and let it be allocated again")


def _require_equal(subject: str, one: tuple[str, _Partial], other: tuple[str, _Partial]) -> None:
    (one_name, left), (other_name, right) = one, other
    for name, a, b in (
        (CAPACITY_MEMORY, left.memory, right.memory),
        (CAPACITY_CORES, left.cores, right.cores),
        (CAPACITY_SLOTS, left.slots, right.slots),
    ):
        if a is not None and b is not None and a != b:
            stated = f"{name} is {_show(name, a)} in {one_name} but {_show(name, b)} in {other_name}"
            raise AmountsDisagree(subject, stated, remedy="state it once, or alike in both")


def _check_scheduler_claim(
    subject: str, stated: _Partial, claim_config: FractionConfig, physical_memory_bytes: int
) -> None:
    if claim_config.memory_percent is not None:
        what = f"memoryPercent {claim_config.memory_percent} in a claim that kube-scheduler allocated"
        remedy = "state memory in capacity.requests, or set allocator to controller"
        raise MemoryPercentNotSupported(subject, what, remedy=remedy)
    configured = _Partial.of_config(claim_config, physical_memory_bytes)
    _require_equal(subject, ("consumedCapacity", stated), ("the claim's FractionConfig", configured))


def _checked(subject: str, amounts: Amounts, class_config: FractionConfig, physical_memory_bytes: int) -> Amounts:
    """Refuse amounts that no device can have; return them with `limited` as the class decides."""
    for name, value, unit in (
        (CAPACITY_MEMORY, amounts.memory_bytes, "1Mi"),
        (CAPACITY_SLOTS, amounts.slots, str(MAX_SLOTS)),
    ):
        if value == 0:
            what = f"{name} is 0 without admin access"
            raise AmountsZero(subject, what, remedy=f"ask for at least {unit} of {name}")
    if amounts.memory_bytes > physical_memory_bytes:
        what = (
            f"memory {format_bytes(amounts.memory_bytes)} is more than the GPU's {format_bytes(physical_memory_bytes)}"
        )
        raise AmountsExceedDevice(subject, what, remedy="ask for less, or select larger GPUs")
    for name, value, most in (
        (CAPACITY_CORES, amounts.cores, CORES_PER_GPU),
        (CAPACITY_SLOTS, amounts.slots, MAX_SLOTS),
    ):
        if value > most:
            what = f"{name} {value} is more than {most}"
            raise AmountsExceedDevice(subject, what, remedy=f"ask for at most {most} {name}")
    # A whole GPU is what the class promises and the amounts confirm; a claim in such a class that asked for less, and
    # so leaves the rest to others, is limited to it.
    whole = (
        class_config.memory == WHOLE
        and amounts.memory_bytes == physical_memory_bytes
        and amounts.cores in (0, CORES_PER_GPU)
    )
    limited = class_config.enforcement != "None" and not whole
    return replace(amounts, limited=limited)


def _show(name: str, value: int) -> str:
    return format_bytes(value) if name == CAPACITY_MEMORY else str(value)


def _first(*candidates: int | None) -> int:
    return next((candidate for candidate in candidates if candidate is not None), 0)
