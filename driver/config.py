"""FractionConfig: what a class or a claim says about a fraction.

Security relevant fields belong to the class: a claim is written by whoever wants the GPU, and must not be able to
loosen its own enforcement. So every entry is parsed together with who wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from fracgpu.driver.errors import ConfigInvalid, QuantityInvalid
from fracgpu.driver.names import CONFIG_KIND
from fracgpu.driver.parameters import (
    Source,
    StrictModel,
    canonical_json,
    close_envelope,
    describe_failure,
    open_envelope,
)
from fracgpu.driver.quantity import quantity_bytes

__all__ = ["WHOLE", "FractionConfig", "Placement", "Source", "canonical_json", "merge_configs", "parse_config"]

WHOLE: Final = "Whole"
"""`memory: Whole` asks for all physical memory of the card, whatever its size."""


def _check_memory(value: str) -> str:
    if value != WHOLE:
        try:
            quantity_bytes(value)
        except QuantityInvalid as error:
            raise ValueError(error.what) from error
    return value


Policy = Literal["Binpack", "Spread"]
MemoryText = Annotated[str, AfterValidator(_check_memory)]


class Placement(StrictModel):
    """Where the allocator prefers to place: among the GPUs of a node, among nodes, and how near several GPUs."""

    gpu: Policy | None = None
    node: Policy | None = None
    topology: Literal["None", "Numa", "PcieRoot"] | None = None


class FractionConfig(StrictModel):
    """Opaque configuration of a class or a claim; None means "not said here".

    `memory` is a Quantity or `Whole`, `memory_percent` 1..100 of physical memory, `cores` and `burst_cores` 0..100
    percent of one GPU, `weight` 1..100 relative to the other sharers.
    """

    memory: MemoryText | None = None
    memory_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    cores: Annotated[int, Field(ge=0, le=100)] | None = None
    weight: Annotated[int, Field(ge=1, le=100)] | None = None
    placement: Placement | None = None
    utilization_view: Literal["Slice", "Device"] | None = None
    cores_policy: Literal["Cap", "Burst", "None"] | None = None
    burst_cores: Annotated[int, Field(ge=0, le=100)] | None = None
    enforcement: Literal["Interceptor", "None"] | None = None
    strict: bool | None = None
    oversubscribe: bool | None = None
    on_violation: Literal["Report", "Taint", "Kill"] | None = None

    @property
    def states_memory(self) -> bool:
        """Whether memory is said at all, as an amount or as a percentage."""
        return self.memory is not None or self.memory_percent is not None

    def to_parameters(self) -> dict[str, object]:
        """Return the opaque parameters that say exactly this: with apiVersion and kind, unsaid fields left out."""
        return close_envelope(self.model_dump(by_alias=True, exclude_none=True), kind=CONFIG_KIND)


_CLASS_ONLY: Final = ("coresPolicy", "burstCores", "enforcement", "strict", "oversubscribe", "onViolation")
_ALLOWED: Final = {
    "memory": "a Quantity of whole bytes as text, e.g. 8Gi, or Whole",
    "memoryPercent": "an integer 1..100",
    "cores": "an integer 0..100",
    "weight": "an integer 1..100",
    "placement": "an object with gpu, node, topology",
    "placement.gpu": "Binpack, Spread",
    "placement.node": "Binpack, Spread",
    "placement.topology": "None, Numa, PcieRoot",
    "utilizationView": "Slice, Device",
    "coresPolicy": "Cap, Burst, None",
    "burstCores": "an integer 0..100",
    "enforcement": "Interceptor, None",
    "strict": "true, false",
    "oversubscribe": "true, false",
    "onViolation": "Report, Taint, Kill",
}


def parse_config(parameters: object, *, source: Source) -> FractionConfig:
    """Return the FractionConfig in decoded opaque parameters.

    Raises ConfigInvalid, naming the field, its value and the allowed values: for another kind or version, an unknown
    field, a value of the wrong type or out of range, memory and memoryPercent together, and for a field that only a
    class may set when `source` is FromClaim.
    """
    fields = open_envelope(parameters, kind=CONFIG_KIND, error=ConfigInvalid)
    if source == "FromClaim":
        for field in _CLASS_ONLY:
            if field in fields:
                remedy = "remove it from the claim; an administrator sets it in the DeviceClass"
                raise ConfigInvalid(f"{CONFIG_KIND} field {field}", "may only be set by a class", remedy=remedy)
    _refuse_null(fields, "")
    try:
        config = FractionConfig.model_validate(fields, by_alias=True, by_name=False)
    except ValidationError as failure:
        raise describe_failure(failure, kind=CONFIG_KIND, allowed=_ALLOWED, error=ConfigInvalid) from failure
    if config.memory is not None and config.memory_percent is not None:
        what = f"value {config.memory_percent} stands beside memory {config.memory}"
        raise ConfigInvalid(f"{CONFIG_KIND} field memoryPercent", what, remedy="give one of memory and memoryPercent")
    return config


def _refuse_null(fields: dict[str, Any], prefix: str) -> None:
    # None stands for "not said" in the model, and canonical JSON has no null: an explicit one is a mistake.
    for field, value in fields.items():
        if value is None:
            allowed = _ALLOWED.get(f"{prefix}{field}", "no null")
            raise ConfigInvalid(f"{CONFIG_KIND} field {prefix}{field}", "is null", remedy=f"allowed: {allowed}")
        if isinstance(value, dict):
            _refuse_null(value, f"{prefix}{field}.")


def merge_configs(entries: Sequence[tuple[Source, FractionConfig]]) -> FractionConfig:
    """Return the effective configuration: later entries override earlier ones, field by field.

    memory and memoryPercent are two ways to say one thing, so either overrides both. `placement` merges by its own
    fields. The sources do not change the order: the API lists class entries first. An empty sequence says nothing.
    """
    return reduce(_override, (config for _, config in entries), FractionConfig())


def _override(earlier: FractionConfig, later: FractionConfig) -> FractionConfig:
    said = _said(later)
    if later.states_memory:
        said = {"memory": None, "memory_percent": None, **said}
    if earlier.placement is not None and later.placement is not None:
        said["placement"] = earlier.placement.model_copy(update=_said(later.placement))
    return earlier.model_copy(update=said)


def _said(model: StrictModel) -> dict[str, Any]:
    return {name: value for name in type(model).model_fields if (value := getattr(model, name)) is not None}
