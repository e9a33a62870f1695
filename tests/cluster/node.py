"""The node of our own cluster as `fracgpu.sim.lab.node` wants it: tests run on it, so its files are simply there."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fracgpu.sim.lab.node import Rights
from fracgpu.sim.node.isolation import Isolation
from tests.cluster.cluster import Cluster
from tests.cluster.installation import NAMESPACE, rights_in
from tests.cluster.machine.layout import CDI_DIR, PLUGIN_RUN

_CONTAINERS: Final = Isolation(("user", "mount", "pid", "net"), "containerd and runc")
_DIGEST: Final = """\
import hashlib, sys
from fracgpu.native.libraries import NativeLibraries
print(hashlib.sha256((NativeLibraries.locate().directory / sys.argv[1]).read_bytes()).hexdigest())
"""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """The node that the test runs on. What the plugin logged before `since` is another test's doing."""

    cluster: Cluster
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    run_dir: Path = PLUGIN_RUN
    cdi_dir: Path = CDI_DIR
    isolation: Isolation = _CONTAINERS

    @property
    def machine_file(self) -> Path:
        """The file that models the GPUs of the machine."""
        return self.cluster.layout.gpus

    def interceptor_digest(self, build: str, library: str) -> str:
        """Return the SHA-256 of a library as the package in the plugin's image has it."""
        (pod,) = self.cluster.installation.plugin_pods()
        command = ["python3", "-c", _DIGEST, f"{build}/{library}"]
        return self.cluster.output_of(pod["metadata"]["name"], command, namespace=NAMESPACE).strip()

    def plugin_rights(self) -> Rights:
        """Return what the plugin complained of: it logs every refusal of the API server."""
        return rights_in(self.plugin_log())

    def plugin_log(self) -> str:
        """Return what the plugin's pods have logged since then."""
        return self.cluster.installation.log(since=self.since)
