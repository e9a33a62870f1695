"""Builders of holdings, requests and demands, and short answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from fracgpu.controller.fit.views import Demand, DeviceRequest, GpuView, Holding, Misfit, Placement
from fracgpu.driver.config import FractionConfig
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.reasons import ReasonCode

GIB = 1024**3


@pytest.fixture
def held() -> Callable[..., Holding]:
    """Build a holding on `node/device` with memory in GiB."""

    def build(name: str, memory: int, cores: int = 0, slots: int = 1, **changes: Any) -> Holding:
        pool, device = name.split("/")
        return Holding(pool=pool, device=device, memory_bytes=memory * GIB, cores=cores, slots=slots, **changes)

    return build


@pytest.fixture
def ask() -> Callable[..., DeviceRequest]:
    """Build a request for memory (GiB as a number, or a Quantity) and cores."""

    def build(memory: int | str | None = 10, cores: int | None = None, **changes: Any) -> DeviceRequest:
        requests: dict[str, str | int] = {}
        if memory is not None:
            requests["memory"] = memory if isinstance(memory, str) else memory * GIB
        if cores is not None:
            requests["cores"] = cores
        config = changes.pop("config", {})
        defaults: dict[str, Any] = {"claim": "c1", "name": "gpu", "claim_config": FractionConfig(**config)}
        return DeviceRequest(requests=requests, **(defaults | changes))

    return build


@pytest.fixture
def demand() -> Callable[..., Demand]:
    """Build a demand; each argument is a request, or a list of alternatives."""

    def build(*requests: DeviceRequest | list[DeviceRequest], **changes: Any) -> Demand:
        choices = tuple(tuple(item) if isinstance(item, list) else (item,) for item in requests)
        return Demand(choices=choices, **changes)

    return build


@pytest.fixture
def where() -> Callable[..., list[str]]:
    """Return the GPUs of an answer that must be a placement."""

    def read(answer: Placement | Misfit | None) -> list[str]:
        assert isinstance(answer, Placement), answer
        return [f"{device.pool}/{device.device}" for device in answer.devices]

    return read


@pytest.fixture
def why() -> Callable[..., list[str]]:
    """Return the messages of an answer that must be a misfit."""

    def read(answer: Placement | Misfit | None) -> list[str]:
        assert isinstance(answer, Misfit), answer
        return [reason.message for reason in answer.reasons]

    return read


class SelectorBroken(FracgpuError):
    """What a selector of a test raises."""

    code = ReasonCode.SELECTOR_FAILED


@dataclass(frozen=True)
class Having:
    """Selects by attribute; fails, as CEL does, where a GPU has none of that name."""

    name: str
    value: object

    def matches(self, gpu: GpuView) -> bool:
        if self.name not in gpu.attributes:
            raise SelectorBroken("selector", f"no such key: {self.name}", remedy="guard it")
        return gpu.attributes[self.name] == self.value


@pytest.fixture
def having() -> Callable[[str, object], Having]:
    """Build a selector by attribute."""
    return Having
