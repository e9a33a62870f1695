"""What the fit engine is told and what it answers: plain values, no Kubernetes types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fracgpu.driver.amounts import Amounts, Capacities, requested_amounts
from fracgpu.driver.config import FractionConfig
from fracgpu.driver.reasons import Reason, ReasonCode

Policy = Literal["Binpack", "Spread"]
Topology = Literal["None", "Numa", "PcieRoot"]
AttributeValue = str | int | bool
DeviceKey = tuple[str, str]
"""Pool and device name: what identifies a GPU in the whole cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """Keeps requests off a GPU that do not tolerate it. Effect NoSchedule, NoExecute, or None (informational)."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """Lets a request use tainted GPUs. An empty key with Exists tolerates all keys, an empty effect all effects."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Tell whether this toleration covers a taint."""
        if self.effect not in ("", taint.effect):
            return False
        if not self.key:
            return self.operator == "Exists"
        return self.key == taint.key and (self.operator == "Exists" or self.value == taint.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """One published GPU.

    Memory in bytes, `cores` in percent of one GPU, `slots` in sharers; the three are capacity totals with the
    oversubscription scale applied, `physical_memory_bytes` is without it and bounds a single share. Attributes of our
    driver have bare names (`uuid`), those of other domains full ones (`resource.kubernetes.io/pcieRoot`).
    """

    node: str
    pool: str
    device: str
    physical_memory_bytes: int
    memory_bytes: int
    cores: int = 100
    slots: int = 10
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()

    @property
    def key(self) -> DeviceKey:
        """Return the GPU's identity."""
        return (self.pool, self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one allocation holds of one GPU, in the units of GpuView. Admin access holds nothing: leave it out.

    `whole` holds all that the GPU has, however much that is, and leaves nothing: an allocation that does not say how
    much it holds.
    """

    pool: str
    device: str
    memory_bytes: int
    cores: int = 0
    slots: int = 1
    whole: bool = False

    @property
    def key(self) -> DeviceKey:
        """Return the GPU's identity."""
        return (self.pool, self.device)


class Selector(Protocol):
    """Which GPUs a request may use. Equal selectors compare equal and hash alike, so that answers can be remembered."""

    def matches(self, gpu: GpuView) -> bool:
        """Tell whether the GPU is selected. Raises SelectorNotSupported (a FracgpuError with a `code`)."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class AnyGpu:
    """Selects every GPU: the selector of a class without conditions."""

    def matches(self, _gpu: GpuView) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """One request of a claim: `count` distinct GPUs of a class, or `every` matching one of a node, asked alike.

    The amounts depend on the GPU (percentages, whole cards), so the statements are kept and resolved per GPU. `claim`
    (its UID) and `name` (`request` or `request/sub`) together are unique within one demand; `claim_name` is
    `namespace/name`, for people.
    """

    claim: str
    name: str
    claim_name: str = ""
    count: int = 1
    every: bool = False
    class_name: str = ""
    requests: Capacities = field(default_factory=dict)
    claim_config: FractionConfig = field(default_factory=FractionConfig)
    class_config: FractionConfig = field(default_factory=FractionConfig)
    keeps_capacity: bool = True
    admin: bool = False
    gpu_policy: Policy = "Spread"
    selector: Selector = field(default_factory=AnyGpu)
    tolerations: tuple[Toleration, ...] = ()

    @property
    def subject(self) -> str:
        """Name the request in error texts."""
        return f"claim {self.claim_name or self.claim} request {self.name}"

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
class Demand:
    """What one pod needs at once, of all its claims: it is placed on one node as a whole, or not at all.

    `choices` has one entry per request, in the order of claims and requests: its alternatives, preferred first (one,
    unless it is a prioritized list). A preference of an earlier request counts more than those of later ones.
    """

    choices: tuple[tuple[DeviceRequest, ...], ...]
    constraints: tuple[Constraint, ...] = ()
    node_policy: Policy = "Binpack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a namespace may still be given, None meaning without limit. Memory in bytes, cores in percent, sharers."""

    memory_bytes: int | None = None
    cores: int | None = None
    slots: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedDevice:
    """One GPU given to one request, with what it gets of it."""

    claim: str
    request: str
    class_name: str
    pool: str
    device: str
    amounts: Amounts
    admin: bool = False

    @property
    def key(self) -> DeviceKey:
        """Return the GPU's identity."""
        return (self.pool, self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All requests placed on one node, in the order of the demand."""

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
