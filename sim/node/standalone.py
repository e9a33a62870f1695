"""The fallback for machines on which containers cannot have mounts: a prefix directory instead of a container root.

The same CDI edits decide what goes in. Where a mount would put the interceptor over the driver's library, the prefix
gets the interceptor's stand-alone build; the driver's own files and the state file of each allocation become links.
A library that the edits do not mention is not in the prefix either: this is a translation, never an improvement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from fracgpu.driver.names import CONTAINER_ALLOCATIONS_DIR, CONTAINER_DRIVER_DIR, CONTAINER_PRELOAD_DIR
from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.prefix import (
    CUDA_SONAME,
    NVML_SONAME,
    allocation_path,
    driver_path,
    library_path,
    link,
    prefix_environment,
)
from fracgpu.sim.node.cdi_registry import ContainerEdits

# By library: the build that containers get mounted, and the one that stands in for it here.
_BUILDS: dict[str, Callable[[NativeLibraries], tuple[Path, Path]]] = {
    CUDA_SONAME: lambda libraries: (libraries.container_cuda, libraries.standalone_cuda),
    NVML_SONAME: lambda libraries: (libraries.container_nvml, libraries.standalone_nvml),
}


def build_prefix(prefix: Path, edits: ContainerEdits, libraries: NativeLibraries) -> Mapping[str, str]:
    """Fill ``prefix`` from ``edits`` and return the environment that makes a program use it.

    Raises:
        NativeLibrariesMissing: the stand-alone build of an interceptor library is not there.

    """
    for mount in edits.mounts:
        target = PurePosixPath(mount.container_path)
        if target.is_relative_to(CONTAINER_ALLOCATIONS_DIR):
            allocation = target.relative_to(CONTAINER_ALLOCATIONS_DIR).parts[0]
            link(allocation_path(prefix, allocation, target.name), mount.host_path)
        elif target.is_relative_to(CONTAINER_DRIVER_DIR):
            link(driver_path(prefix, target.name), mount.host_path)
        elif target.name in _BUILDS and not target.is_relative_to(CONTAINER_PRELOAD_DIR):
            container_build, standalone_build = _BUILDS[target.name](libraries)
            is_ours = Path(mount.host_path).read_bytes() == container_build.read_bytes()
            link(library_path(prefix, target.name), standalone_build if is_ours else mount.host_path)
    return prefix_environment(prefix)
