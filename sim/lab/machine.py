"""The modelled machine: GPUs in a file, and the files that a driver installation leaves on a host.

The libraries of the model GPU lie in a directory tree of their own, the driver root, under the names and links that
NVIDIA's installer makes. The plugin discovers them there as it would below ``/``.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from fracgpu.native.fake_gpu import FakeGpuSpec, create_machine
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.lab.errors import LabUnavailable
from fracgpu.sim.lab.options import MIB, Card
from fracgpu.sim.node.isolation import runs_programs
from fracgpu.sim.node.mounts import RUN_DIR

DRIVER_VERSION = "580.65.06"
# Sockets must fit sockaddr_un (108 bytes); the longest is <place>/fracgpu-lab-<8>/registry/<driver>-reg.sock.
_LONGEST_PLACE = 50


def make_base_directory(preferred: Path | None = None) -> Path:
    """Return a new temporary directory, short enough for sockets, on a file system that allows libraries.

    Raises:
        LabUnavailable: there is no such place.

    """
    places = [preferred] if preferred else [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108
    for place in map(Path.resolve, places):
        if _suits(place):
            return Path(tempfile.mkdtemp(prefix="fracgpu-lab-", dir=place))
    names = ", ".join(map(str, places))
    raise LabUnavailable(
        "temporary directory",
        f"none of {names} is writable, short, outside /run and free of the noexec mount option",
        remedy="set TMPDIR to a directory that is",
    )


def _suits(place: Path) -> bool:
    # Containers have a /run of their own, in which they would not find the lab's files.
    usable = place.is_dir() and os.access(place, os.W_OK | os.X_OK) and not place.is_relative_to(RUN_DIR)
    return usable and len(str(place)) < _LONGEST_PLACE and runs_programs(place)


def make_gpus(cards: Iterable[Card], path: Path) -> tuple[FakeGpuSpec, ...]:
    """Create the file that models the machine's GPUs; UUIDs are fresh, as on another machine."""
    specs = tuple(_gpu(index, card) for index, card in enumerate(cards))
    create_machine(path, list(specs))
    return specs


def _gpu(index: int, card: Card) -> FakeGpuSpec:
    return FakeGpuSpec(
        uuid=f"GPU-{uuid.uuid4()}",
        name=card.product_name,
        memory_bytes=card.memory_mib * MIB,
        minor=index,
        pci_bus_id=f"0000:{index + 1:02x}:00.0",
        compute_capability=card.compute_capability,
    )


def make_driver_root(root: Path, libraries: NativeLibraries, *, gpus: int) -> None:
    """Lay out a driver installation below ``root``."""
    library_dir = root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    library_dir.mkdir(parents=True)
    for source in (libraries.fake_cuda, libraries.fake_nvml):
        stem = source.name.removesuffix(".1")
        shutil.copy2(source, library_dir / f"{stem}.{DRIVER_VERSION}")
        (library_dir / source.name).symlink_to(f"{stem}.{DRIVER_VERSION}")
    devices = root / "dev"
    devices.mkdir()
    for name in (*(f"nvidia{minor}" for minor in range(gpus)), "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"):
        (devices / name).touch()
