"""The device model: one physical GPU as every part sees it.

Physical memory is rounded down to MiB once, here, so that slice, amounts and limits all count the same card.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.names import DeviceName, GpuUuid, device_name
from fracgpu.driver.quantity import floor_mib

UNKNOWN_NUMA_NODE = -1
CORES_PER_GPU = 100
# Far beyond sense, and still within the int64 of a ResourceSlice capacity for any card.
_LARGEST_SCALE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One physical GPU of this node.

    Texts are empty, `numa_node` is -1, versions are `0.0.0` and the optional fields None when unknown.
    `memory_total_bytes` is NVML's total. Versions are three dotted numbers (versions.py). `healthy` is False for a GPU
    that fell off the bus.
    """

    uuid: GpuUuid
    product_name: str
    brand: str
    architecture: str
    pci_bus_id: str
    pcie_root: str | None
    numa_node: int
    memory_total_bytes: int
    minor_number: int | None
    index: int
    driver_version: str
    cuda_driver_version: str
    compute_capability: str
    healthy: bool = True

    @property
    def device_name(self) -> DeviceName:
        """Name of the device in the ResourceSlice."""
        return device_name(self.uuid)

    @property
    def physical_memory_bytes(self) -> int:
        """Memory that can be handed out: NVML's total rounded down to MiB, in bytes."""
        return floor_mib(self.memory_total_bytes)

    def scaled_memory_bytes(self, scale: Decimal | float | int) -> int:
        """Return the published memory capacity in bytes: physical times scale, rounded down to MiB.

        Raises ConfigInvalid if `scale` is not a number from 1 to 1000.
        """
        return scaled_memory_bytes(self.memory_total_bytes, scale)


def scaled_memory_bytes(total_bytes: int, scale: Decimal | float | int) -> int:
    """Return what of a GPU with `total_bytes`, as NVML counts, may be handed out: times scale, rounded down to MiB.

    Raises ConfigInvalid if `scale` is not a number from 1 to 1000.
    """
    return floor_mib(int(floor_mib(total_bytes) * parse_scale(scale, name="memory scale")))


def parse_scale(scale: Decimal | float | int | str, *, name: str) -> Decimal:
    """Return an overcommit scale as an exact decimal (1.1 means eleven tenths).

    Raises ConfigInvalid below 1 and above 1000.
    """
    try:
        exact = Decimal(str(scale))
    except InvalidOperation:
        exact = Decimal("NaN")
    if isinstance(scale, bool) or not exact.is_finite() or exact < 1:
        raise ConfigInvalid(name, f"{str(scale)!r} is not a number >= 1", remedy="set 1 for no overcommit, or more")
    if exact > _LARGEST_SCALE:
        raise ConfigInvalid(name, f"{str(scale)!r} is more than {_LARGEST_SCALE}", remedy="give a small number, as 1.5")
    return exact


def scaled_cores(scale: Decimal | float | int | str) -> int:
    """Return the published cores capacity in percent of one GPU: 100 times scale, which must be whole.

    Raises ConfigInvalid.
    """
    exact = CORES_PER_GPU * parse_scale(scale, name="cores scale")
    if exact != int(exact):
        raise ConfigInvalid("cores scale", f"100 x {scale} is not whole", remedy="give at most two decimals, e.g. 1.5")
    return int(exact)
