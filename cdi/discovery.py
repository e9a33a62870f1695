"""Finds the files of an NVIDIA driver below a driver root.

We make the whole set of mounts ourselves, so the driver's own files are all that is needed from the host, and this is
where they are found. Names and places are those that NVIDIA's installer, the distributions' packages and NVIDIA's
driver container use. Nothing is cached: a driver may be replaced under a running plugin.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from fracgpu.cdi.elf import read_soname
from fracgpu.cdi.errors import DriverFilesMissing
from fracgpu.cdi.rooted import resolve_in_root

_LIBRARY_DIRECTORIES: Final = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "lib64",
    "lib",
)
_BINARY_DIRECTORIES: Final = ("usr/bin", "bin", "usr/lib/nvidia/current", "opt/bin")
_NVML: Final = "libnvidia-ml"
# What the capabilities `compute` and `utility` of NVIDIA's container stack comprise, beside the two above. A driver
# release has some of them and not others: gpucomp came with 535, fatbinaryloader left with 450.
_OPTIONAL: Final = (
    "libcudadebugger",
    "libnvidia-allocator",
    "libnvidia-cfg",
    "libnvidia-compiler",
    "libnvidia-fatbinaryloader",
    "libnvidia-gpucomp",
    "libnvidia-nvvm",
    "libnvidia-nvvm70",
    "libnvidia-opencl",
    "libnvidia-pkcs11",
    "libnvidia-pkcs11-openssl3",
    "libnvidia-ptxjitcompiler",
    "libnvidia-sandboxutils",
    "libnvidia-tileiras",
)
_SMI: Final = "nvidia-smi"
_VERSIONED: Final = re.compile(r"libcuda\.so\.(\d{3,}\.\d+(?:\.\d+)?)")
_CONTROL_NODES: Final = ("/dev/nvidiactl", "/dev/nvidia-uvm")
_OPTIONAL_NODES: Final = ("/dev/nvidia-uvm-tools",)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverLibrary:
    """One library: its real file, as this process sees it, and every name that a program may load it by."""

    path: Path
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFiles:
    """The driver of one root. `version` is the driver's, as it stands in file names (580.65.06).

    `libraries` are those beside libcuda and libnvidia-ml, sorted by file name; `nvidia_smi` is None when the root has
    no such program. All paths are real files as this process sees them.
    """

    root: Path
    version: str
    cuda: Path
    nvml: Path
    libraries: tuple[DriverLibrary, ...]
    nvidia_smi: Path | None


def discover_driver(root: Path) -> DriverFiles:
    """Return the driver found below `root`, links followed inside it.

    Raises DriverFilesMissing when libcuda or libnvidia-ml of one version is not there, or when several versions are
    and libcuda.so.1 does not say which one is in use; ElfInvalid for a broken optional library.
    """
    cuda = _find_cuda(root)
    version = cuda.name.removeprefix("libcuda.so.")
    directories = (cuda.parent, *_existing(root, _LIBRARY_DIRECTORIES))
    nvml = _find(root, directories, f"{_NVML}.so.{version}")
    if nvml is None:
        raise DriverFilesMissing(
            f"driver root {root}",
            f"libcuda.so.{version} is there but {_NVML}.so.{version} is not",
            remedy="install the driver's utility libraries of the same version",
        )
    smi = _find(root, _existing(root, _BINARY_DIRECTORIES), _SMI)
    return DriverFiles(
        root=root,
        version=version,
        cuda=cuda,
        nvml=nvml,
        libraries=tuple(_optional_libraries(root, directories, version)),
        nvidia_smi=smi,
    )


def list_device_nodes(dev_root: Path) -> frozenset[str]:
    """Return the NVIDIA device nodes below `dev_root` as paths in a container: `/dev/nvidia0`, `/dev/nvidiactl`, ..."""
    return frozenset(f"/dev/{path.name}" for path in (dev_root / "dev").glob("nvidia*"))


def gpu_device_nodes(present: frozenset[str], minor_number: int) -> tuple[str, ...]:
    """Return the device nodes that a container needs for the GPU with `minor_number`, out of those `present`.

    The GPU's own node first, then the control nodes that all GPUs share; those a driver may lack only if present.
    Raises DriverFilesMissing for one that is needed and absent.
    """
    needed = (f"/dev/nvidia{minor_number}", *_CONTROL_NODES)
    for node in needed:
        if node not in present:
            raise DriverFilesMissing(
                f"device node {node}",
                "is not on this node",
                remedy="load the nvidia and nvidia-uvm kernel modules (nvidia-modprobe -c0 -u) or correct --dev-root",
            )
    return needed + tuple(node for node in _OPTIONAL_NODES if node in present)


def _find_cuda(root: Path) -> Path:
    in_use: dict[Path, None] = {}
    installed: dict[Path, None] = {}
    for directory in _existing(root, _LIBRARY_DIRECTORIES):
        linked = _find(root, (directory,), "libcuda.so.1")
        if linked is not None and _VERSIONED.fullmatch(linked.name):
            in_use[linked] = None
        for path in directory.iterdir():
            resolved = _find(root, (directory,), path.name) if _VERSIONED.fullmatch(path.name) else None
            if resolved is not None and _VERSIONED.fullmatch(resolved.name):
                installed[resolved] = None
    found = list(in_use or installed)
    if not found:
        raise DriverFilesMissing(
            f"driver root {root}",
            "no libcuda.so.<version> in any library directory",
            remedy="install the NVIDIA driver on this node or correct --driver-root",
        )
    versions = sorted({path.name for path in found})
    if len(versions) > 1:
        raise DriverFilesMissing(
            f"driver root {root}",
            f"several drivers are installed and it is not clear which one is in use: {', '.join(versions)}",
            remedy="remove the old driver's files, or run ldconfig so that libcuda.so.1 names the one in use",
        )
    return found[0]


def _optional_libraries(root: Path, directories: tuple[Path, ...], version: str) -> Iterator[DriverLibrary]:
    for stem in _OPTIONAL:
        path = _find(root, directories, f"{stem}.so.{version}")
        if path is not None:
            soname = read_soname(path)
            yield DriverLibrary(path=path, names=tuple(sorted({path.name, soname or path.name})))


def _existing(root: Path, places: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the directories that exist among `places`, each once: /lib is often a link to /usr/lib."""
    found = (resolve_in_root(root, place) for place in places)
    return tuple(dict.fromkeys(path for path in found if path is not None and path.is_dir()))


def _find(root: Path, directories: tuple[Path, ...], name: str) -> Path | None:
    for directory in directories:
        path = resolve_in_root(root, PurePosixPath("/", directory.relative_to(root), name))
        if path is not None and path.is_file():
            return path
    return None
