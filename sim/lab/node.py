"""What only somebody on the node can look at: files of the driver, the hardware, the plugin's own account.

The embedded cluster and the real one that `make e2e` starts have such a node; any other cluster
keeps its own to itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fracgpu.sim.node.isolation import Isolation


@dataclass(frozen=True, slots=True)
class Rights:
    """With which rights a part of the driver got along so far, in words; what was refused to it, oldest first."""

    used: str
    refused: tuple[str, ...]


class NodeUnderTest(Protocol):
    """The one node of a cluster, seen from the node itself."""

    @property
    def run_dir(self) -> Path:
        """The plugin's volatile state: config pages and state files."""

    @property
    def cdi_dir(self) -> Path:
        """Where the container runtime reads CDI specs."""

    @property
    def machine_file(self) -> Path:
        """The file that models the GPUs of the machine."""

    @property
    def isolation(self) -> Isolation:
        """How containers are separated on it."""

    def interceptor_digest(self, build: str, library: str) -> str:
        """Return the SHA-256 of a library of the interceptor as the plugin was installed with it.

        ``build`` is ``container`` or ``standalone``, ``library`` a SONAME.
        """

    def plugin_rights(self) -> Rights:
        """Return what the plugin was allowed and what was refused to it."""

    def plugin_log(self) -> str:
        """Return what the plugin has logged."""
