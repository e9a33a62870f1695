"""Stable reason codes.

Events, metrics, `fracgpu fit` and tests name a refusal by the same code, so a user can search for it and an alert can
match it. The codes that HAMi's users already grep for keep their spelling. A file of its own because both errors and
reasons need it.
"""

from __future__ import annotations

from enum import StrEnum


class ReasonCode(StrEnum):
    """Why something was not placed or not prepared. The values are API: never rename one."""

    CARD_INSUFFICIENT_MEMORY = "CardInsufficientMemory"
    CARD_INSUFFICIENT_CORE = "CardInsufficientCore"
    CARD_TIME_SLICING_EXHAUSTED = "CardTimeSlicingExhausted"
    CARD_TYPE_MISMATCH = "CardTypeMismatch"
    CARD_UUID_MISMATCH = "CardUuidMismatch"
    CARD_NOT_HEALTH = "CardNotHealth"
    EXCLUSIVE_DEVICE_ALLOCATE_CONFLICT = "ExclusiveDeviceAllocateConflict"
    NUMA_NOT_FIT = "NumaNotFit"
    PCIE_ROOT_NOT_FIT = "PcieRootNotFit"
    RESOURCE_QUOTA_NOT_FIT = "ResourceQuotaNotFit"
    NODE_INSUFFICIENT_DEVICE = "NodeInsufficientDevice"
    NODE_MISMATCH = "NodeMismatch"
    DEVICE_NOT_FOUND = "DeviceNotFound"
    CLASS_NOT_FOUND = "ClassNotFound"
    CONSTRAINT_NOT_MET = "ConstraintNotMet"
    SELECTOR_MISMATCH = "SelectorMismatch"
    SELECTOR_NOT_SUPPORTED = "SelectorNotSupported"
    SELECTOR_FAILED = "SelectorFailed"
    SEARCH_LIMIT_REACHED = "SearchLimitReached"
    CONFIG_INVALID = "ConfigInvalid"
    AMOUNTS_DISAGREE = "AmountsDisagree"
    AMOUNTS_DROPPED = "AmountsDropped"
    AMOUNTS_EXCEED_DEVICE = "AmountsExceedDevice"
    AMOUNTS_INVALID = "AmountsInvalid"
    AMOUNTS_ZERO = "AmountsZero"
    MEMORY_PERCENT_NOT_SUPPORTED = "MemoryPercentNotSupported"
