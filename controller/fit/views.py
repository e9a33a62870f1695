"""What the fit engine is told and what it answers: plain values, no Kubernetes types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fracgpu.driver.amounts import Amounts, Capacities, requested_amounts
from fracgpu.driver.config import FractionConfig
from fracgpu.driver.reasons import Reason, ReasonCode

Policy = Literal["Binpack", "Spread"]
AttributeValue = str | int | bool
DeviceKey = tuple[str, str]
"""Pool and device name: what identifies a GPU in the whole cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """One published GPU.

    Memory in bytes, `cores` in percent of one GPU, `slots` in sharers; the three are capacity totals with the
    oversubscription scale applied, `physical_memory_bytes` is without it and bounds a single share.
    """

    node: str
    pool: str
    device: str
    physical_memory_bytes: int
    memory_bytes: int
    cores: int = 100
    slots: int = 10
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    healthy: bool = True

    @property
    def key(self) -> DeviceKey:
        """Return the GPU's identity."""
        return (self.pool, self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one allocation holds of one GPU, in the units of GpuView. Admin access holds nothing: leave it out."""

    pool: str
    device: str
    memory_bytes: int
    cores: int = 0
    slots: int = 1

    @property
    def key(self) -> DeviceKey:
        """Return the GPU's identity."""
        return (self.pool, self.device)


def matches_any(_gpu: GpuView) -> bool:
    """Accept every GPU: the selector of a class without conditions."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """One request of a claim: `count` distinct GPUs of a class, each with the same question for amounts.

    The amounts depend on the GPU (percentages, whole cards), so the statements are kept and resolved per GPU. `claim`
    and `name` together are unique within one fit.
    """

    claim: str
    name: str
    count: int = 1
    class_name: str = ""
    requests: Capacities = field(default_factory=dict)
    claim_config: FractionConfig = field(default_factory=FractionConfig)
    class_config: FractionConfig = field(default_factory=FractionConfig)
    keeps_capacity: bool = True
    admin: bool = False
    gpu_policy: Policy = "Spread"
    matches: Callable[[GpuView], bool] = matches_any

    @property
    def subject(self) -> str:
        """Name the request in error texts."""
        return f"claim {self.claim} request {self.name}"

    def amounts_on(self, gpu: GpuView) -> Amounts:
        """Return what this request takes of a GPU. Raises AmountsError."""
        return requested_amounts(
            subject=self.subject,
            physical_memory_bytes=gpu.physical_memory_bytes,
            keeps_capacity=self.keeps_capacity,
            requests=self.requests,
            claim_config=self.claim_config,
            class_config=self.class_config,
            admin_access=self.admin,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """All GPUs of some requests of one claim must agree (`match`) or all differ (`distinct`) in an attribute.

    `requests` empty means all requests of the claim. A GPU without the attribute, or with a value in `unknown`,
    satisfies no constraint.
    """

    claim: str
    attribute: str
    kind: Literal["match", "distinct"] = "match"
    requests: tuple[str, ...] = ()
    unknown: tuple[AttributeValue, ...] = ()
    code: ReasonCode = ReasonCode.CONSTRAINT_NOT_MET

    def covers(self, request: DeviceRequest) -> bool:
        """Tell whether the constraint speaks about a request."""
        base = request.name.partition("/")[0]
        named = not self.requests or request.name in self.requests or base in self.requests
        return request.claim == self.claim and named


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedDevice:
    """One GPU given to one request, with what it gets of it."""

    claim: str
    request: str
    pool: str
    device: str
    amounts: Amounts
    admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All requests placed on one node, in the order of the requests."""

    node: str
    devices: tuple[PlacedDevice, ...]


@dataclass(frozen=True, slots=True)
class Misfit:
    """No node can take all requests; never without a reason."""

    reasons: tuple[Reason, ...]

    @property
    def message(self) -> str:
        """One line for an event."""
        return "; ".join(reason.message for reason in self.reasons)
