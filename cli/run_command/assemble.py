"""Fills a prefix for one run: shims, the real driver behind them, one allocation per GPU.

The shims are copied: a link would end nowhere when fracgpu is upgraded under a running command, and the loader would
go on to the real driver. The driver's libraries are links, as large as they are and as little ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fracgpu.cdi.discovery import DriverFiles
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import AllocationId, allocation_env_key, allocation_env_value
from fracgpu.driver.quantity import MIB
from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.prefix import (
    CUDA_SONAME,
    LIBRARY_PATH_ENV,
    NVML_SONAME,
    STATE_FILE,
    allocation_path,
    driver_path,
    library_path,
    link,
    prefix_environment,
)
from fracgpu.native.state_file import new_state_file

_REQUEST = "run"
_SYSTEM_ROOT = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAllocation:
    """One GPU of the run, its limit in bytes, its cores in percent, and the file in which its use is counted."""

    gpu: Gpu
    memory_bytes: int
    cores_percent: int
    identifier: AllocationId
    state: Path


def allocate(prefix: Path, gpus: Sequence[Gpu], *, memory_bytes: int, cores_percent: int) -> tuple[RunAllocation, ...]:
    """Make the state file of each GPU's allocation below `prefix`; the limit is the same for each."""
    allocations = []
    for gpu in gpus:
        # Unique within the run, and the prefix belongs to this run alone.
        identifier = AllocationId(f"{_REQUEST}-{gpu.uuid}")
        state = allocation_path(prefix, identifier, STATE_FILE)
        state.parent.mkdir(parents=True)
        state.write_bytes(new_state_file(gpu.uuid))
        allocations.append(
            RunAllocation(
                gpu=gpu,
                memory_bytes=memory_bytes,
                cores_percent=cores_percent,
                identifier=identifier,
                state=state,
            )
        )
    return tuple(allocations)


def install_libraries(prefix: Path, libraries: NativeLibraries, driver: DriverFiles) -> None:
    """Put the shims into `prefix` under every name that programs load the driver by, the real driver behind them.

    Raises NativeLibrariesMissing and OSError.
    """
    for soname, shim, real in (
        (CUDA_SONAME, libraries.standalone_cuda, driver.cuda),
        (NVML_SONAME, libraries.standalone_nvml, driver.nvml),
    ):
        shutil.copyfile(shim, library_path(prefix, soname))
        stem = soname.removesuffix(".1")
        for name in (stem, f"{stem}.{driver.version}"):
            link(library_path(prefix, name), soname)
        link(driver_path(prefix, soname), real)
    for library in driver.libraries:
        for name in library.names:
            link(driver_path(prefix, name), library.path)


def run_environment(
    inherited: Mapping[str, str], prefix: Path, driver: DriverFiles, allocations: Sequence[RunAllocation]
) -> dict[str, str]:
    """Return the command's environment: that of `inherited`, the prefix first in the library path, the limits.

    CUDA_VISIBLE_DEVICES names the GPUs that have a limit: the others would show and then refuse every call.
    """
    ours = prefix_environment(prefix)
    # The loader finds the other libraries of a driver by itself only where the machine's own driver is.
    siblings = [] if driver.root == _SYSTEM_ROOT else [str(driver_path(prefix, CUDA_SONAME).parent)]
    before = [inherited[LIBRARY_PATH_ENV]] if inherited.get(LIBRARY_PATH_ENV) else []
    ours[LIBRARY_PATH_ENV] = ":".join([ours[LIBRARY_PATH_ENV], *siblings, *before])
    ours["CUDA_VISIBLE_DEVICES"] = ",".join(allocation.gpu.uuid for allocation in allocations)
    for index, allocation in enumerate(allocations):
        memory_mib = allocation.memory_bytes // MIB
        value = allocation_env_value(_REQUEST, allocation.gpu.uuid, memory_mib, allocation.cores_percent)
        ours[allocation_env_key(allocation.identifier)] = value
        # As in a container: programs written for HAMi size themselves by these.
        ours[f"CUDA_DEVICE_MEMORY_LIMIT_{index}"] = f"{memory_mib}m"
        if allocation.cores_percent:
            ours[f"CUDA_DEVICE_SM_LIMIT_{index}"] = str(allocation.cores_percent)
    return {**inherited, **ours}
