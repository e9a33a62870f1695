"""Where everything of one lab lies: below a single temporary directory, so that removing it removes all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fracgpu.sim.lab.machine import make_base_directory


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below ``base``, named after what they are on a real node."""

    base: Path

    @classmethod
    def create(cls, parent: Path | None) -> Self:
        """Make the temporary directory; raises LabUnavailable when no suitable place exists."""
        return cls(make_base_directory(parent))

    @property
    def machine(self) -> Path:
        """The file that models the GPUs of the machine."""
        return self.base / "gpus"

    @property
    def driver_root(self) -> Path:
        """Root of the modelled driver installation."""
        return self.base / "driver"

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig file of the embedded API server, for its administrator."""
        return self.base / "kubeconfig"

    @property
    def plugin_kubeconfig(self) -> Path:
        """Kubeconfig file of the plugin: the same server with the plugin's token."""
        return self.base / "plugin.kubeconfig"

    @property
    def plugin_token(self) -> Path:
        """The plugin's token, as the kubelet projects one into a pod."""
        return self.base / "token"

    @property
    def controller_kubeconfig(self) -> Path:
        """Kubeconfig file of the controller: the same server with the controller's token."""
        return self.base / "controller.kubeconfig"

    @property
    def controller_token(self) -> Path:
        """The controller's token, as the kubelet projects one into a pod."""
        return self.base / "controller-token"

    @property
    def plugin_dir(self) -> Path:
        """The plugin's own socket directory."""
        return self.base / "plugin"

    @property
    def registry_dir(self) -> Path:
        """Where the kubelet looks for plugins."""
        return self.base / "registry"

    @property
    def cdi_dir(self) -> Path:
        """Where the container runtime reads CDI specs."""
        return self.base / "cdi"

    @property
    def state_dir(self) -> Path:
        """The plugin's persistent state."""
        return self.base / "lib"

    @property
    def run_dir(self) -> Path:
        """The plugin's volatile state: config pages and state files."""
        return self.base / "run"

    @property
    def node_state(self) -> Path:
        """The kubelet's checkpoint."""
        return self.base / "kubelet"

    @property
    def pods(self) -> Path:
        """Container logs, and prefixes where containers have no mounts."""
        return self.base / "pods"

    @property
    def plugin_log(self) -> Path:
        """What the plugin logs."""
        return self.base / "plugin.log"

    @property
    def controller_log(self) -> Path:
        """What the controller logs."""
        return self.base / "controller.log"
