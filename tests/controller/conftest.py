"""Builders that several folders use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fracgpu.controller.fit.views import GpuView

GIB = 1024**3


@pytest.fixture
def gpu() -> Callable[..., GpuView]:
    """Build a GPU `node/device` with memory in GiB."""

    def build(name: str, memory: int = 80, **changes: Any) -> GpuView:
        node, device = name.split("/")
        changes = {"physical_memory_bytes": memory * GIB, "memory_bytes": memory * GIB} | changes
        return GpuView(node=node, pool=node, device=device, **changes)

    return build
