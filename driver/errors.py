"""Typed errors.

Whoever reads one sees which object it is about, what is wrong and what to do next: that text ends up in pod events,
where nobody has a stack trace.
"""

# The names state a finding about an object (ConfigInvalid), as the reason codes in events do.

from __future__ import annotations

from typing import ClassVar

from fracgpu.driver.codes import ReasonCode


class FracgpuError(Exception):
    """Base of every error of ours.

    `subject` names the object ("claim ns/a", "GPU GPU-1111..."), `what` the finding, `remedy` the next step. The text
    is always `<subject>: <what>; <remedy>`.
    """

    def __init__(self, subject: str, what: str, *, remedy: str) -> None:
        super().__init__(subject, what, remedy)
        self.subject = subject
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.subject}: {self.what}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # A keyword-only argument is lost by Exception's own pickling, and process pools pickle errors.
        return (_rebuild, (type(self), self.subject, self.what, self.remedy))


def _rebuild(kind: type[FracgpuError], subject: str, what: str, remedy: str) -> FracgpuError:
    return kind(subject, what, remedy=remedy)


class QuantityInvalid(FracgpuError):
    """A text is not a Kubernetes Quantity, or not one of the wanted kind (whole bytes, whole percent)."""


class NameInvalid(FracgpuError):
    """An identifier (GPU UUID, claim UID, share id) does not have the form that names are derived from."""


class ConfigInvalid(FracgpuError):
    """A FractionConfig, or a setting of a component, is not acceptable."""


class OptionInvalid(FracgpuError):
    """A command line option has a value that the process can not work with. The subject is the flag."""


class GrantInvalid(FracgpuError):
    """A FractionGrant is malformed, or comes from where a grant is never accepted."""


class InventoryUnavailable(FracgpuError):
    """The GPUs of this node cannot be listed: no driver library, or NVML refuses to work."""


class GpuNotFound(FracgpuError):
    """No GPU with this UUID is visible to NVML."""


class GpuLost(FracgpuError):
    """The GPU fell off the bus: NVML knows it but cannot talk to it."""


class AmountsError(FracgpuError):
    """The amounts of one device of a claim cannot be enforced. `code` is stable and goes into events and metrics."""

    code: ClassVar[ReasonCode] = ReasonCode.AMOUNTS_INVALID


class AmountsInvalid(AmountsError):
    """An amount is not a whole number of its unit, out of range, or names an unknown capacity."""


class AmountsDisagree(AmountsError):
    """Two places state the same amount differently."""

    code: ClassVar[ReasonCode] = ReasonCode.AMOUNTS_DISAGREE


class AmountsDropped(AmountsError):
    """The API server dropped the amounts, or nobody stated them: nothing to enforce, so nothing is handed out."""

    code: ClassVar[ReasonCode] = ReasonCode.AMOUNTS_DROPPED


class AmountsExceedDevice(AmountsError):
    """More than one physical GPU has."""

    code: ClassVar[ReasonCode] = ReasonCode.AMOUNTS_EXCEED_DEVICE


class AmountsZero(AmountsError):
    """Zero memory or zero slots without admin access."""

    code: ClassVar[ReasonCode] = ReasonCode.AMOUNTS_ZERO


class MemoryPercentNotSupported(AmountsError):
    """memoryPercent in a claim that kube-scheduler allocated: a percentage is not something it can account."""

    code: ClassVar[ReasonCode] = ReasonCode.MEMORY_PERCENT_NOT_SUPPORTED
