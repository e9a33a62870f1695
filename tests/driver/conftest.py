from collections.abc import Callable

import pytest

from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import GpuUuid

MakeGpu = Callable[..., Gpu]


@pytest.fixture
def make_gpu() -> MakeGpu:
    """Build a Gpu with plausible values; any field can be given."""

    def make(**fields: object) -> Gpu:
        values: dict[str, object] = {
            "uuid": GpuUuid("GPU-8f2c1a00-1111-2222-3333-444455556666"),
            "product_name": "NVIDIA H200",
            "brand": "Nvidia",
            "architecture": "Hopper",
            "pci_bus_id": "0000:3b:00.0",
            "pcie_root": "pci0000:3a",
            "numa_node": 0,
            "memory_total_bytes": 10 * 1024**3,
            "minor_number": 0,
            "index": 0,
            "driver_version": "580.65.6",
            "cuda_driver_version": "13.0.0",
            "compute_capability": "9.0.0",
        }
        return Gpu(**{**values, **fields})  # type: ignore[arg-type]

    return make
