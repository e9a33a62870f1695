"""Where a GPU sits: PCI address forms, PCIe root and NUMA node from sysfs (sysfs-bus-pci ABI).

NVML and sysfs write the same address differently, and a wrong guess here would put a GPU next to the wrong CPU, so
everything that is not certain is unknown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from fracgpu.driver.gpu import UNKNOWN_NUMA_NODE

SYSFS_ROOT: Final = Path("/sys")
_ADDRESS: Final = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)
_ROOT: Final = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")


def normalise_pci_bus_id(text: str) -> str:
    """Return a PCI address as sysfs writes it, `0000:3b:00.0`, from NVML's `00000000:3B:00.0`; empty if it is none."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        return ""
    domain, bus, device, function = match.groups()
    return f"{int(domain, 16):04x}:{bus}:{device}.{function}".lower()


def pcie_root(pci_bus_id: str, sysfs: Path = SYSFS_ROOT) -> str | None:
    """Return the PCIe root complex of a device, e.g. `pci0000:3a`, or None when unknown.

    It is the first folder of the device's real path below `devices`, as the standard attribute defines it.
    """
    if not pci_bus_id:
        return None
    link = sysfs / "bus" / "pci" / "devices" / pci_bus_id
    try:
        below = link.resolve(strict=True).relative_to((sysfs / "devices").resolve())
    except (OSError, ValueError):
        return None
    return next((part for part in below.parts if _ROOT.fullmatch(part)), None)


def numa_node(pci_bus_id: str, sysfs: Path = SYSFS_ROOT) -> int:
    """Return the NUMA node of a device, or -1 when unknown (also what the kernel itself says for "no affinity")."""
    if not pci_bus_id:
        return UNKNOWN_NUMA_NODE
    try:
        node = int((sysfs / "bus" / "pci" / "devices" / pci_bus_id / "numa_node").read_text())
    except (OSError, ValueError):
        return UNKNOWN_NUMA_NODE
    return max(node, UNKNOWN_NUMA_NODE)
