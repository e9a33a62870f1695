"""The fallback for machines on which containers cannot have mounts: a prefix directory instead of a container root.

The same CDI edits decide what goes in. Where a mount would put the interceptor over the driver's library, the prefix
gets the interceptor's stand-alone build; the driver's own files and the state file of each allocation become links.
A library that the edits do not mention is not in the prefix either: this is a translation, never an improvement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from fracgpu.driver.names import CONTAINER_ALLOCATIONS_DIR, CONTAINER_DRIVER_DIR, allocation_hash
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.node.cdi_registry import ContainerEdits, Mount

_ENV_PREFIX = "FRACGPU_PREFIX"
# By library: the build that containers get mounted, and the one that stands in for it here.
_BUILDS: dict[str, Callable[[NativeLibraries], tuple[Path, Path]]] = {
    "libcuda.so.1": lambda libraries: (libraries.container_cuda, libraries.standalone_cuda),
    "libnvidia-ml.so.1": lambda libraries: (libraries.container_nvml, libraries.standalone_nvml),
}


def build_prefix(prefix: Path, edits: ContainerEdits, libraries: NativeLibraries) -> Mapping[str, str]:
    """Fill ``prefix`` from ``edits`` and return the environment that makes a program use it.

    Raises:
        NativeLibrariesMissing: the stand-alone build of an interceptor library is not there.

    """
    for mount in edits.mounts:
        target = PurePosixPath(mount.container_path)
        if target.is_relative_to(CONTAINER_ALLOCATIONS_DIR):
            _link_allocation(prefix, target, mount)
        elif target.is_relative_to(CONTAINER_DRIVER_DIR):
            _link(prefix / "driver" / target.name, mount.host_path)
        elif target.name in _BUILDS:
            container_build, standalone_build = _BUILDS[target.name](libraries)
            is_ours = Path(mount.host_path).read_bytes() == container_build.read_bytes()
            _link(prefix / target.name, str(standalone_build) if is_ours else mount.host_path)
    return {"LD_LIBRARY_PATH": str(prefix), _ENV_PREFIX: str(prefix)}


def _link_allocation(prefix: Path, target: PurePosixPath, mount: Mount) -> None:
    """Link one file of an allocation below the short name that its environment variable carries."""
    allocation = target.relative_to(CONTAINER_ALLOCATIONS_DIR).parts[0]
    _link(prefix / "allocations" / allocation_hash(allocation) / target.name, mount.host_path)


def _link(path: Path, target: str) -> None:
    """Make or replace the link: the same library may be mounted in several library directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
