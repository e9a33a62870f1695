"""One cluster of real components on one modelled node, and what happens to nodes: restarts and reboots.

To be used on the machine that `tests.cluster.machine.init` makes, once per machine.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from fracgpu.native.fake_gpu import FakeGpuSpec
from fracgpu.sim.lab.node import Rights
from fracgpu.sim.node.api import Json
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.client import ClusterClient
from tests.cluster.components.container_runtime import PAUSE_IMAGE, ContainerRuntime
from tests.cluster.components.control_plane import ControlPlane, ControlPlaneOptions
from tests.cluster.components.kubelet import kubelet
from tests.cluster.components.process import Component
from tests.cluster.installation import Installation, rights_in
from tests.cluster.kubectl import Kubectl
from tests.cluster.machine import cgroups
from tests.cluster.machine.gpus import gpu_specs, install_driver, make_gpus
from tests.cluster.machine.init import NODE_NAME
from tests.cluster.machine.layout import Layout
from tests.cluster.machine.power import end_containers, lose_power


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What can differ: the control plane's gates, the node's GPUs, and which images its store has."""

    plane: ControlPlaneOptions = field(default_factory=ControlPlaneOptions)
    gpus: Sequence[FakeGpuSpec] = field(default_factory=gpu_specs)
    images: Sequence[str] | None = None


class Cluster(ClusterClient):
    """A running cluster with one node, which is Ready, without our driver; a context manager.

    Raises:
        ClusterUnavailable: a component does not start; the text has the end of its log.

    """

    def __init__(self, artifacts: Artifacts, layout: Layout, run: str, options: ClusterOptions | None = None) -> None:
        """Write all configuration; nothing is started."""
        self.options = options or ClusterOptions()
        self.artifacts, self.layout, self.node_name = artifacts, layout, NODE_NAME
        self._cgroup = cgroups.cgroup_name(run)
        self.plane = ControlPlane(artifacts.kubernetes, layout, self.options.plane)
        self.runtime = ContainerRuntime(layout, containerd_dir=artifacts.containerd_dir, cni_dir=artifacts.cni_dir)
        self.kubelet = kubelet(artifacts.kubernetes, layout, self.plane, node=NODE_NAME, cgroup=self._cgroup)
        kubectl = Kubectl(artifacts.kubectl, self.plane.admin_kubeconfig, layout.base / "kubectl-cache")
        super().__init__(self.plane.api, kubectl)
        self.installation = Installation(self, layout.configuration / "driver")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start everything and wait until the node is Ready."""
        with contextlib.ExitStack() as stack:
            make_gpus(self.layout.gpus, self.options.gpus)
            install_driver()
            stack.enter_context(self.plane)
            stack.callback(end_containers, self._cgroup)
            stack.callback(self.runtime.component.stop)
            self.runtime.component.start()
            self._import_images()
            stack.callback(self.kubelet.stop)
            self.kubelet.start()
            self.await_node()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self._stack.close()

    def await_node(self) -> None:
        """Wait until the node is Ready."""
        self.wait_for("/api/v1/nodes", lambda nodes: _is_ready(nodes.get(self.node_name)), what="node Ready")

    @contextlib.contextmanager
    def stopped(self, component: Component) -> Iterator[None]:
        """Stop a component for a while; it serves again afterwards."""
        component.stop()
        try:
            yield
        finally:
            component.start()

    def restart_kubelet(self) -> None:
        """Stop the kubelet and start it again."""
        self.kubelet.stop()
        self.kubelet.start()

    def reboot(self) -> None:
        """Let the node lose power and come up again: nothing survives but what is on its disk.

        Raises:
            ClusterUnavailable: something did.

        """
        self.kubelet.stop(signal.SIGKILL)
        self.runtime.component.stop(signal.SIGKILL)
        lose_power(self.layout, self._cgroup)
        install_driver()
        self.runtime.component.start()
        self.kubelet.start()
        self.await_node()

    def controller_rights(self) -> Rights:
        """Return what the controller complained of in its log."""
        return rights_in(self.installation.controller_log())

    def pod_cgroups(self) -> set[str]:
        """Return the cgroups that the node has for pods."""
        return cgroups.pod_cgroups(self._cgroup)

    def _import_images(self) -> None:
        wanted = self.options.images
        for name, archive in self.artifacts.images.items():
            if wanted is None or name in wanted or name == PAUSE_IMAGE:
                self.runtime.import_image(archive)


def _is_ready(node: Json | None) -> bool | None:
    conditions = (node or {}).get("status", {}).get("conditions", [])
    return True if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions) else None
