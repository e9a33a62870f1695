"""What a container gets for an allocation, as CDI edits.

We mount the whole driver ourselves, file by file, and never beside somebody else's CDI device: of two mounts at one
path the later one wins without a word. Each library appears under every name that programs load it by, in every
default library directory of glibc images, so that no ldconfig has to run; our shims take the names of libcuda and
libnvidia-ml, and the real ones go where only the shims look.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from fracgpu.cdi.discovery import DriverFiles
from fracgpu.cdi.spec import CdiDevice, CdiSpec, ContainerEdits, DeviceNode, Mount
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import (
    CDI_CLASS,
    CDI_VENDOR,
    CONTAINER_ALLOCATIONS_DIR,
    CONTAINER_DRIVER_DIR,
    CONTAINER_PRELOAD_DIR,
    allocation_env_key,
    allocation_env_value,
)
from fracgpu.driver.quantity import MIB
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord

CUDA_SONAME: Final = "libcuda.so.1"
NVML_SONAME: Final = "libnvidia-ml.so.1"
PRELOAD_LIST: Final = "ld.so.preload"
PRELOAD_LIST_PATH: Final = f"/etc/{PRELOAD_LIST}"
# As they are stored, and where the list says that they are.
PRELOAD_LIBRARIES: Final = {
    "libfracgpu-preload.so": f"{CONTAINER_PRELOAD_DIR}/libcuda.so.1",
    "libfracgpu-preload-alias.so": f"{CONTAINER_PRELOAD_DIR}/libcuda.so",
}
CONFIG_FILE: Final = "config"
STATE_FILE: Final = "state"

_READ_ONLY: Final = ("ro", "nosuid", "nodev", "rbind")
_DATA_READ_ONLY: Final = ("ro", "nosuid", "nodev", "noexec", "rbind")
_DATA_WRITABLE: Final = ("rw", "nosuid", "nodev", "noexec", "rbind")
_SMI_PATH: Final = "/usr/bin/nvidia-smi"
# Where glibc looks without configuration: Debian's multiarch directory, and /usr/lib64 of the others.
_LIB64: Final = "/usr/lib64"
_MULTIARCH: Final = {"x86_64": "/usr/lib/x86_64-linux-gnu", "aarch64": "/usr/lib/aarch64-linux-gnu"}
# An nvidia container runtime under ours would inject its own driver set once more because the image asks for it.
_NO_SECOND_INJECTION: Final = "NVIDIA_VISIBLE_DEVICES=void"


def library_directories(machine: str) -> tuple[str, ...]:
    """Return the directories of a container that get the libraries, for `machine` as uname(2) names it."""
    return (*((_MULTIARCH[machine],) if machine in _MULTIARCH else ()), _LIB64)


@lru_cache(maxsize=4)
def driver_edits(
    driver: DriverFiles, *, host_root: Path, library_directory: Path, directories: tuple[str, ...]
) -> ContainerEdits:
    """Return what all allocations have in common: shims, driver libraries, nvidia-smi.

    `host_root` is what the runtime calls the driver's root, `library_directory` holds the shims, `directories` are
    those of library_directories. Remembered: it is most of a spec, and the same for all claims of one driver.
    """

    def on_host(path: Path) -> str:
        return str(host_root / path.relative_to(driver.root))

    cuda = (CUDA_SONAME, "libcuda.so", f"libcuda.so.{driver.version}")
    nvml = (NVML_SONAME, "libnvidia-ml.so", f"libnvidia-ml.so.{driver.version}")
    mounts = [
        *_everywhere(str(library_directory / CUDA_SONAME), cuda, directories),
        *_everywhere(str(library_directory / NVML_SONAME), nvml, directories),
        _mount(on_host(driver.cuda), f"{CONTAINER_DRIVER_DIR}/{CUDA_SONAME}"),
        _mount(on_host(driver.nvml), f"{CONTAINER_DRIVER_DIR}/{NVML_SONAME}"),
    ]
    for library in driver.libraries:
        mounts.extend(_everywhere(on_host(library.path), library.names, directories))
    if driver.nvidia_smi is not None:
        mounts.append(_mount(on_host(driver.nvidia_smi), _SMI_PATH))
    return ContainerEdits(env=(_NO_SECOND_INJECTION,), mounts=tuple(mounts))


def strict_edits(library_directory: Path) -> ContainerEdits:
    """Return what strict mode adds: every process of the container knows our libcuda before it looks for another one.

    The image's own /etc/ld.so.preload is hidden by ours: what is in it is unknown when a claim is prepared.
    """
    places = {PRELOAD_LIST: PRELOAD_LIST_PATH, **PRELOAD_LIBRARIES}
    return ContainerEdits(mounts=tuple(_mount(str(library_directory / name), place) for name, place in places.items()))


def allocation_edits(
    allocation: AllocationRecord, *, gpu: Gpu, directory: Path, device_nodes: tuple[str, ...], dev_root: Path
) -> ContainerEdits:
    """Return what one allocation adds: its GPU, its config page and state file below `directory`, its environment."""
    inside = f"{CONTAINER_ALLOCATIONS_DIR}/{allocation.allocation_id}"
    return ContainerEdits(
        env=_allocation_env(allocation, gpu),
        device_nodes=tuple(_device_node(node, dev_root) for node in device_nodes),
        mounts=(
            _mount(str(directory / CONFIG_FILE), f"{inside}/{CONFIG_FILE}", _DATA_READ_ONLY),
            _mount(str(directory / STATE_FILE), f"{inside}/{STATE_FILE}", _DATA_WRITABLE),
        ),
    )


def claim_spec(common: ContainerEdits, devices: Iterable[tuple[str, ContainerEdits]]) -> CdiSpec:
    """Return the CDI spec of a claim: `common` for all, one device per allocation id."""
    return CdiSpec(
        vendor=CDI_VENDOR,
        device_class=CDI_CLASS,
        edits=common,
        devices=tuple(CdiDevice(name=name, edits=edits) for name, edits in devices),
    )


def _allocation_env(allocation: AllocationRecord, gpu: Gpu) -> tuple[str, ...]:
    # Without a limit the whole card may be used, whatever is counted: an admin's share counts as nothing.
    memory_mib = (allocation.memory_bytes if allocation.limited else gpu.physical_memory_bytes) // MIB
    value = allocation_env_value(allocation.request, allocation.gpu_uuid, memory_mib, allocation.cores)
    env = [f"{allocation_env_key(allocation.allocation_id)}={value}"]
    # The keys that programs written for HAMi read. They are numbered within a claim: with several claims in one
    # container the later claim's win, which is why nothing of ours reads them.
    if allocation.limited:
        env.append(f"CUDA_DEVICE_MEMORY_LIMIT_{allocation.index}={memory_mib}m")
        if allocation.cores:
            env.append(f"CUDA_DEVICE_SM_LIMIT_{allocation.index}={allocation.cores}")
    return tuple(env)


def _device_node(node: str, dev_root: Path) -> DeviceNode:
    # Equal paths on both sides are what user namespaces need; only a relocated dev/ makes them differ.
    host_path = str(dev_root / PurePosixPath(node).relative_to("/"))
    return DeviceNode(path=node, host_path=None if host_path == node else host_path)


def _everywhere(host_path: str, names: Iterable[str], directories: tuple[str, ...]) -> list[Mount]:
    return [_mount(host_path, f"{directory}/{name}") for directory in directories for name in names]


def _mount(host_path: str, container_path: str, options: tuple[str, ...] = _READ_ONLY) -> Mount:
    return Mount(host_path=host_path, container_path=container_path, options=options)
