"""Finds where on a host the NVIDIA driver lives.

A driver is not always at the root of its host: the GPU operator runs it in a container, Container-Optimized OS and
other read-only systems unpack it below a directory of their own. Whoever must type that path gets it wrong, so it is
found: the driver whose version the loaded kernel module has is the one in use, whatever else lies around. Only where
the module says nothing, or matches none, the order of the candidates decides.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fracgpu.cdi.discovery import discover_driver, list_device_nodes
from fracgpu.cdi.errors import DriverAbsent, DriverFilesMissing, ElfInvalid
from fracgpu.cdi.rooted import resolve_in_root

# A driver container comes first: it is there only because somebody has it manage the driver, while the host's own
# directories may hold what an earlier installation left. Then the host itself, as every package and installer does;
# MicroK8s, k3s and RKE2 have no place of their own, they use this one or the driver container. The rest is what
# read-only systems use, and none of them has more than one of these.
CANDIDATES: Final = (
    "/run/nvidia/driver",
    "/",
    "/usr/local/nvidia",  # installers of cloud images; flat (lib64, bin)
    "/home/kubernetes/bin/nvidia",  # GKE on Container-Optimized OS; flat
    "/opt/nvidia/current",  # Flatcar
    "/opt/nvidia",
    "/var/lib/nvidia",  # Container-Optimized OS outside GKE; flat
)
_CONTROL_NODE: Final = "/dev/nvidiactl"
# First line of the file: "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build ..."
_MODULE_VERSION: Final = re.compile(r"^NVRM version:.*?\s(\d{3,}\.\d+(?:\.\d+)?)\s", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverRoot:
    """One driver: `path` is its root as this process sees it, `on_host` as the host and its container runtime call it.

    `dev_root` and `dev_root_on_host` are the same for the directory whose dev/ has the device nodes. `version` is the
    driver's.
    """

    path: Path
    on_host: Path
    dev_root: Path
    dev_root_on_host: Path
    version: str


def find_driver_root(
    host_root: Path, *, proc: Path = Path("/proc"), trail: set[Path] | None = None
) -> DriverRoot | None:
    """Return the driver of the host whose root directory this process sees at `host_root`; None when it has none.

    Candidates without a complete driver are passed over while another one has it: a driver container may be halfway
    through its installation. So are those that this process may not look into. All on disk that the answer depends on
    is added to `trail`; the module's version, below `proc`, is not on disk. Raises the DriverFilesMissing or ElfInvalid
    of the first incomplete candidate when there is no complete one.
    """
    complete: dict[Path, str] = {}
    incomplete: list[DriverFilesMissing | ElfInvalid] = []
    for candidate in CANDIDATES:
        try:
            path = resolve_in_root(host_root, candidate, trail=trail)
            if path is not None and path not in complete:
                complete[path] = discover_driver(path, trail=trail).version
        except (DriverAbsent, PermissionError):
            continue
        except (DriverFilesMissing, ElfInvalid) as error:
            incomplete.append(error)
    if not complete:
        if incomplete:
            raise incomplete[0]
        return None
    module = kernel_module_version(proc)
    path = next((path for path, version in complete.items() if version == module), next(iter(complete)))
    dev_root = _dev_root(host_root, path)
    if trail is not None:
        trail.update((host_root / "dev", path / "dev"))
    return DriverRoot(
        path=path,
        on_host=_on_host(path, host_root),
        dev_root=dev_root,
        dev_root_on_host=_on_host(dev_root, host_root),
        version=complete[path],
    )


def kernel_module_version(proc: Path = Path("/proc")) -> str | None:
    """Return the version of the loaded nvidia kernel module (580.65.06); None when none is loaded.

    /proc/driver is the kernel's, the same in every container.
    """
    try:
        match = _MODULE_VERSION.search((proc / "driver" / "nvidia" / "version").read_text(errors="replace"))
    except OSError:
        return None
    return match[1] if match else None


def _on_host(path: Path, host_root: Path) -> Path:
    return Path("/", path.relative_to(host_root))


def _dev_root(host_root: Path, path: Path) -> Path:
    # The host's own nodes come first: with user namespaces a runtime can only give a container a device under the
    # path that it has on the host. A driver container that made nodes for itself alone is the exception.
    if _CONTROL_NODE not in list_device_nodes(host_root) and _CONTROL_NODE in list_device_nodes(path):
        return path
    return host_root
