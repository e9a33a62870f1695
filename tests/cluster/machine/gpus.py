"""The GPUs of the node: the file that models them, and the driver's files, laid out as a driver container has them.

NVIDIA's GPU operator mounts its driver container's root at /run/nvidia/driver, which is where the plugin looks first.
"""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fracgpu.native.fake_gpu import FakeGpuSpec, create_machine
from fracgpu.native.libraries import NativeLibraries
from tests.cluster.machine.layout import DRIVER_ROOT

DRIVER_VERSION: Final = "580.65.06"
MIB: Final = 1 << 20
CARD_MIB: Final = 49140
# Two of one product and one of another, so that a selector can choose.
CARDS: Final = ("NVIDIA L40S (model)", "NVIDIA L40S (model)", "NVIDIA T4 (model)")
_T4_MIB: Final = 15360


def gpu_specs(products: Sequence[str] = CARDS) -> list[FakeGpuSpec]:
    """Return the GPUs of the node, with UUIDs that stay the same over reboots."""
    return [_spec(index, product) for index, product in enumerate(products)]


def _spec(index: int, product: str) -> FakeGpuSpec:
    spec = FakeGpuSpec(
        uuid=f"GPU-{index:08x}-0000-4000-8000-{index:012x}",
        name=product,
        memory_bytes=CARD_MIB * MIB,
        minor=index,
        pci_bus_id=f"0000:{index + 1:02x}:00.0",
        compute_capability="8.9",
        multiprocessors=142,
    )
    if "T4" in product:
        return dataclasses.replace(spec, memory_bytes=_T4_MIB * MIB, compute_capability="7.5", multiprocessors=40)
    return spec


def make_gpus(path: Path, specs: Sequence[FakeGpuSpec]) -> None:
    """Create the machine file, for every user of the node to write as they write NVIDIA's device nodes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    create_machine(path, list(specs))
    path.chmod(0o666)


def install_driver(root: Path = DRIVER_ROOT) -> None:
    """Lay out the driver's files below `root`, under the names and links that NVIDIA's installer makes."""
    libraries = NativeLibraries.locate()
    directory = root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    directory.mkdir(parents=True)
    for source in (libraries.fake_cuda, libraries.fake_nvml):
        stem = source.name.removesuffix(".1")
        shutil.copy2(source, directory / f"{stem}.{DRIVER_VERSION}")
        (directory / source.name).symlink_to(f"{stem}.{DRIVER_VERSION}")
