"""Builders of GPUs, holdings and requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fracgpu.controller.fit.views import DeviceRequest, GpuView, Holding
from fracgpu.driver.config import FractionConfig

GIB = 1024**3


@pytest.fixture
def gpu() -> Callable[..., GpuView]:
    """Build a GPU `node/device` with memory in GiB."""

    def build(name: str, memory: int = 80, **changes: Any) -> GpuView:
        node, device = name.split("/")
        changes = {"physical_memory_bytes": memory * GIB, "memory_bytes": memory * GIB} | changes
        return GpuView(node=node, pool=node, device=device, **changes)

    return build


@pytest.fixture
def held() -> Callable[..., Holding]:
    """Build a holding on `node/device` with memory in GiB."""

    def build(name: str, memory: int, cores: int = 0, slots: int = 1) -> Holding:
        pool, device = name.split("/")
        return Holding(pool=pool, device=device, memory_bytes=memory * GIB, cores=cores, slots=slots)

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
