"""The shipped plugin as a process on a node that is only an object, for control planes without a kubelet.

Its token is bound to a pod, its rights are those of deploy/, its GPUs are modelled ones of its own, and the test plays
the kubelet: it registers the plugin and calls Prepare.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.native.fake_gpu import MACHINE_ENV, FakeGpuSpec
from fracgpu.sim.lab.plugin_process import PluginProcess
from fracgpu.sim.node.dra_client import ClaimRef, PreparedDevice, node_prepare, node_unprepare
from fracgpu.sim.node.registration import RegisteredPlugin, register
from tests.cluster.lone_plane import LonePlane
from tests.cluster.machine.gpus import gpu_specs, install_driver, make_gpus

Json = dict[str, Any]
_SLICES: Final = "/apis/resource.k8s.io/v1/resourceslices"
# Paths of sockets are short.
_PARENT: Final = "/run"


@dataclass(frozen=True)
class LonePlugin:
    """A running plugin; `base` holds everything of its node."""

    plane: LonePlane
    node: str
    base: Path
    process: PluginProcess
    registered: RegisteredPlugin

    @property
    def machine(self) -> Path:
        """The file that models the node's GPUs."""
        return self.base / "gpus" / "machine"

    def log(self) -> list[Json]:
        """Return what the plugin has logged."""
        lines = self.process.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_log(self, text: str) -> Json:
        """Wait for a line of the log with `text` and return the first; raises LabTimeout."""
        self.plane.wait(lambda: text in self.process.log.read_text(), what=f"{text!r} in the log of the plugin")
        line = next(line for line in self.process.log.read_text().splitlines() if text in line)
        return dict(json.loads(line))

    def slices(self) -> list[Json]:
        """Return the slices of our driver on the node."""
        query = f"fieldSelector=spec.driver%3D{DRIVER_NAME},spec.nodeName%3D{self.node}"
        items: list[Json] = self.plane.admin.send("GET", f"{_SLICES}?{query}").body["items"]
        return items

    def prepare(self, claim: Json) -> tuple[PreparedDevice, ...]:
        """Call Prepare for a claim as the kubelet does; raises PrepareFailed."""
        ((_, devices),) = node_prepare(self.registered, [_reference(claim)])
        return devices

    def unprepare(self, claim: Json) -> None:
        """Call Unprepare for a claim; raises UnprepareFailed."""
        node_unprepare(self.registered, [_reference(claim)])

    def cdi_files(self) -> list[str]:
        """Return the names of the CDI specs on the node."""
        return sorted(path.name for path in (self.base / "cdi").glob("*.json"))


@contextlib.contextmanager
def lone_plugin(plane: LonePlane, node: str, *, gpus: Sequence[FakeGpuSpec] | None = None) -> Iterator[LonePlugin]:
    """Start the plugin for a node and register it as the kubelet would."""
    base = Path(tempfile.mkdtemp(prefix="lone-", dir=_PARENT))
    try:
        make_gpus(base / "gpus" / "machine", gpus or gpu_specs())
        install_driver(base / "driver")
        arguments = [
            f"--node-name={node}",
            f"--kubeconfig={plane.kubeconfig(f'plugin-{base.name}', node=node)}",
            "--allocator=scheduler",
            f"--driver-root={base / 'driver'}",
            f"--plugin-dir={base / 'plugin'}",
            f"--registry-dir={base / 'registry'}",
            f"--cdi-dir={base / 'cdi'}",
            f"--state-dir={base / 'state'}",
            f"--run-dir={base / 'run'}",
            "--log-json",
        ]
        env = {MACHINE_ENV: str(base / "gpus" / "machine")}
        log = plane.plane.api_server.log.with_name(f"plugin-{node}.log")
        with PluginProcess(arguments, env=env, log=log) as process:
            plane.wait(lambda: list((base / "registry").glob("*.sock")), what="the plugin's registration socket")
            (socket,) = (base / "registry").glob("*.sock")
            yield LonePlugin(plane, node, base, process, register(socket))
    finally:
        shutil.rmtree(base)


def _reference(claim: Json) -> ClaimRef:
    metadata = claim["metadata"]
    return ClaimRef(metadata["namespace"], metadata["name"], metadata["uid"])
