"""The prefix: a directory that takes the place of mounts for the standalone build of the interceptor.

    <prefix>/libcuda.so.1                   the shim; found first, because LD_LIBRARY_PATH names the prefix
    <prefix>/libnvidia-ml.so.1
    <prefix>/driver/libcuda.so.1            the real library, the shim's dependency ($ORIGIN/driver)
    <prefix>/allocations/<hash>/state       the state file of one allocation

The simulator fills one from the same edits that a runtime would turn into mounts, `fracgpu run` from a driver found on
the machine.
"""

from pathlib import Path
from typing import Final

from fracgpu.driver.names import AllocationId, allocation_hash

CUDA_SONAME: Final = "libcuda.so.1"
NVML_SONAME: Final = "libnvidia-ml.so.1"
STATE_FILE: Final = "state"
PREFIX_ENV: Final = "FRACGPU_PREFIX"
LIBRARY_PATH_ENV: Final = "LD_LIBRARY_PATH"
_DRIVER: Final = "driver"
_ALLOCATIONS: Final = "allocations"


def library_path(prefix: Path, name: str) -> Path:
    """Return where a program that runs in `prefix` finds the library `name` (`libcuda.so.1`)."""
    return prefix / name


def driver_path(prefix: Path, name: str) -> Path:
    """Return where the shims of `prefix` find the real library `name`."""
    return prefix / _DRIVER / name


def allocation_path(prefix: Path, allocation: AllocationId | str, name: str) -> Path:
    """Return the place of the file `name` (`state`) of an allocation, below the hash that its variable carries."""
    return prefix / _ALLOCATIONS / allocation_hash(allocation) / name


def state_files(prefix: Path) -> tuple[Path, ...]:
    """Return the state files of all allocations in `prefix`, sorted."""
    return tuple(sorted((prefix / _ALLOCATIONS).glob(f"*/{STATE_FILE}")))


def link(path: Path, target: Path | str) -> None:
    """Make `path` a link to `target`, whatever was there: one library may be named several times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def prefix_environment(prefix: Path) -> dict[str, str]:
    """Return the variables that make a program, and all that it starts, use `prefix`."""
    return {LIBRARY_PATH_ENV: str(prefix), PREFIX_ENV: str(prefix)}
