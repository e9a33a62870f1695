"""Where everything of one run lies: below a single directory on disk, under the names that a real node uses.

Inside the run's mount namespace the parts are mounted where Kubernetes, the container runtime and the plugin look for
them, so their paths are those of any node, and nothing of the real machine is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

KUBELET_ROOT: Final = Path("/var/lib/kubelet")
PLUGIN_STATE: Final = Path("/var/lib/fracgpu")
RUN: Final = Path("/run")
PLUGIN_RUN: Final = RUN / "fracgpu"
CDI_DIR: Final = RUN / "cdi"
DRIVER_ROOT: Final = RUN / "nvidia" / "driver"
CONTAINERD_SOCKET: Final = RUN / "containerd" / "containerd.sock"
POD_LOGS: Final = Path("/var/log/pods")
CONTAINER_LOGS: Final = Path("/var/log/containers")


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below ``base``, the directory of one run."""

    base: Path

    @property
    def disk(self) -> Path:
        """What survives a reboot of the node: the kubelet's, the plugin's and the runtime's directories."""
        return self.base / "disk"

    @property
    def gpus(self) -> Path:
        """The file that models the GPUs: the node's hardware."""
        return self.base / "gpus" / "machine"

    @property
    def boot_id(self) -> Path:
        """What the node shows as the kernel's boot id."""
        return self.base / "boot-id"

    @property
    def credentials(self) -> Path:
        """Keys, certificates, kubeconfigs."""
        return self.base / "credentials"

    @property
    def configuration(self) -> Path:
        """Configuration files of the components."""
        return self.base / "configuration"

    @property
    def etcd(self) -> Path:
        """The cluster's database."""
        return self.base / "etcd"

    @property
    def containerd(self) -> Path:
        """Images and snapshots."""
        return self.disk / "containerd"

    @property
    def logs(self) -> Path:
        """One log per component; kept when a test fails."""
        return self.base / "logs"

    def mounts(self) -> dict[Path, Path]:
        """Return where directories of the disk are mounted: target -> source."""
        return {
            KUBELET_ROOT: self.disk / "kubelet",
            PLUGIN_STATE: self.disk / "fracgpu",
            POD_LOGS: self.disk / "pod-logs",
            CONTAINER_LOGS: self.disk / "container-logs",
        }
