"""Finds the files of an NVIDIA driver below a driver root.

We make the whole set of mounts ourselves, so the driver's own files are all that is needed from the host, and this is
where they are found. Names and places are those that NVIDIA's installer, the distributions' packages and NVIDIA's
driver container use. ld.so.cache is not asked: it belongs to the root's own loader, may be absent or stale, and says
nothing about a root that nobody ran ldconfig in. Nothing is remembered here; driver_cache.py does that.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from fracgpu.cdi.elf import is_32_bit, read_soname
from fracgpu.cdi.errors import DriverAbsent, DriverAmbiguous, DriverFilesMissing, DriverUnsupported
from fracgpu.cdi.rooted import resolve_in_root

# In the order in which a 64-bit loader of that system would prefer them. /usr/lib comes after /usr/lib64: on Red Hat's
# layout it holds 32-bit libraries of the same names.
_LIBRARY_DIRECTORIES: Final = (
    "usr/lib/x86_64-linux-gnu",  # Debian, Ubuntu
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",  # Red Hat, SUSE, Amazon Linux, Azure Linux, Flatcar
    "usr/lib/x86_64-linux-gnu/nvidia/current",  # Debian before update-alternatives has made its links
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib",  # Arch, Bottlerocket, Talos from 1.13
    "usr/lib/nvidia/tesla",  # Bottlerocket before
    "usr/local/glibc/usr/lib",  # Talos before
    "usr/local/glibc/lib",
    "run/opengl-driver/lib",  # NixOS
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "lib64",  # a flat layout: Container-Optimized OS, and what installers leave in /usr/local/nvidia
    "lib",
)
_BINARY_DIRECTORIES: Final = (
    "usr/bin",
    "bin",
    "usr/lib/nvidia/current",
    "usr/libexec/nvidia/tesla/bin",
    "usr/local/bin",
    "opt/bin",
    "run/current-system/sw/bin",
)
# Windows mounts its driver here. Its files carry no version in their names and talk to /dev/dxg.
_WSL_DIRECTORY: Final = "usr/lib/wsl/lib"
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


def discover_driver(root: Path, *, trail: set[Path] | None = None) -> DriverFiles:
    """Return the driver found below `root`, links followed inside it.

    All that the answer depends on, directories looked into and files found, is added to `trail`. Raises DriverAbsent
    without a libcuda, DriverUnsupported for WSL's, DriverAmbiguous when several versions are there and libcuda.so.1
    does not say which one is in use, DriverFilesMissing without libnvidia-ml of the same version, and ElfInvalid for a
    broken library, as an installation that is still going on has. 32-bit libraries are passed over.
    """
    search = _Search(root, set() if trail is None else trail)
    cuda = _find_cuda(search)
    version = cuda.name.removeprefix("libcuda.so.")
    directories = (cuda.parent, *search.existing(_LIBRARY_DIRECTORIES))
    nvml = search.find_library(directories, f"{_NVML}.so.{version}")
    if nvml is None:
        raise DriverFilesMissing(
            f"driver root {root}",
            f"libcuda.so.{version} is there but {_NVML}.so.{version} is not",
            remedy="install the driver's utility libraries of the same version",
        )
    for library in (cuda, nvml):
        read_soname(library)
    return DriverFiles(
        root=root,
        version=version,
        cuda=cuda,
        nvml=nvml,
        libraries=tuple(_optional_libraries(search, directories, version)),
        nvidia_smi=search.find(search.existing(_BINARY_DIRECTORIES), _SMI),
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


class _Search:
    """Looks for names below one root, and remembers where it looked."""

    def __init__(self, root: Path, trail: set[Path]) -> None:
        self.root = root
        self._trail = trail

    def existing(self, places: tuple[str, ...]) -> tuple[Path, ...]:
        """Return the directories that exist among `places`, each once: /lib is often a link to /usr/lib."""
        found = (resolve_in_root(self.root, place, trail=self._trail) for place in places)
        return tuple(dict.fromkeys(path for path in found if path is not None and path.is_dir()))

    def find(self, directories: tuple[Path, ...], name: str) -> Path | None:
        """Return the real file that the first of `directories` has under `name`."""
        for directory in directories:
            inside = PurePosixPath("/", directory.relative_to(self.root), name)
            path = resolve_in_root(self.root, inside, trail=self._trail)
            if path is not None and path.is_file():
                self._trail.add(path)
                return path
        return None

    def find_library(self, directories: tuple[Path, ...], name: str) -> Path | None:
        """Return what `find` returns, 32-bit files left out: they have the same names in other directories."""
        found = (self.find((directory,), name) for directory in directories)
        return next((path for path in found if path is not None and not is_32_bit(path)), None)

    def entries(self, directory: Path) -> Iterator[str]:
        """Return the names in `directory`."""
        self._trail.add(directory)
        return (path.name for path in directory.iterdir())


def _find_cuda(search: _Search) -> Path:
    in_use: dict[Path, None] = {}
    installed: dict[Path, None] = {}
    for directory in search.existing(_LIBRARY_DIRECTORIES):
        linked = search.find_library((directory,), "libcuda.so.1")
        if linked is not None and _VERSIONED.fullmatch(linked.name):
            in_use[linked] = None
        for name in search.entries(directory):
            resolved = search.find_library((directory,), name) if _VERSIONED.fullmatch(name) else None
            if resolved is not None and _VERSIONED.fullmatch(resolved.name):
                installed[resolved] = None
    found = list(in_use or installed)
    if not found:
        raise _absent(search)
    versions = sorted({path.name for path in found})
    if len(versions) > 1:
        raise DriverAmbiguous(
            f"driver root {search.root}",
            f"several drivers are installed and it is not clear which one is in use: {', '.join(versions)}",
            remedy="remove the old driver's files, or run ldconfig so that libcuda.so.1 names the one in use",
        )
    return found[0]


def _absent(search: _Search) -> DriverFilesMissing:
    subject = f"driver root {search.root}"
    if search.find(search.existing((_WSL_DIRECTORY,)), "libcuda.so.1") is not None:
        return DriverUnsupported(
            subject,
            f"has only the driver that Windows lends to WSL ({_WSL_DIRECTORY})",
            remedy="use a machine with NVIDIA's driver for Linux; WSL is not supported",
        )
    return DriverAbsent(
        subject,
        "no libcuda.so.<version> in any library directory",
        remedy="install the NVIDIA driver on this node or correct --driver-root",
    )


def _optional_libraries(search: _Search, directories: tuple[Path, ...], version: str) -> Iterator[DriverLibrary]:
    for stem in _OPTIONAL:
        path = search.find_library(directories, f"{stem}.so.{version}")
        if path is not None:
            soname = read_soname(path)
            yield DriverLibrary(path=path, names=tuple(sorted({path.name, soname or path.name})))
