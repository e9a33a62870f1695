"""The embedded cluster as one context manager.

API server, control plane, a machine with model GPUs, the shipped controller and the shipped plugin as processes of
their own, a node. Leaving it, normally or not, leaves nothing behind: no process and no file.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

from kubernetes import client, config

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.native.fake_gpu import FakeGpuSpec
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim import manifests
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.control import ControlPlane
from fracgpu.sim.lab.cluster import RESOURCE_API, ClusterUnderTest, CommandResult
from fracgpu.sim.lab.controller_process import controller_of, leader
from fracgpu.sim.lab.credentials import (
    CONTROLLER_ACCOUNT,
    SERVICE_ACCOUNT,
    AccountToken,
    PluginToken,
    lab_access,
)
from fracgpu.sim.lab.driver_process import DriverProcess
from fracgpu.sim.lab.errors import LabUnavailable
from fracgpu.sim.lab.image import IMAGE, image_environment
from fracgpu.sim.lab.kubectl_describe import describe
from fracgpu.sim.lab.layout import Layout
from fracgpu.sim.lab.machine import make_driver_root, make_gpus
from fracgpu.sim.lab.node import Rights
from fracgpu.sim.lab.options import LabOptions
from fracgpu.sim.lab.plugin_process import plugin_of
from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.container import ContainerProcess
from fracgpu.sim.node.isolation import Isolation, probe_isolation, standalone
from fracgpu.sim.node.node import Node, NodeOptions
from fracgpu.sim.node.runtime import ContainerRuntime

__all__ = ["RESOURCE_API", "CommandResult", "Lab"]

_COMMAND_S = 30.0
_LOOK_S = 0.05
# What an installation brings for the API, in the order in which it has to come.
_INSTALLED = ("namespace.yaml", "deviceclasses.yaml", "quota-crd.yaml")


class Lab(ClusterUnderTest):
    """A running embedded cluster; see `LabOptions` for what can be asked of it.

    Plugin and controller have the rights that deploy/ gives them; `access` tells which they used and which they lacked.
    The processes of the lab end with the thread that entered it, at the latest.

    Raises:
        LabUnavailable: something is missing on this machine; nothing has been left behind.
        NativeLibrariesMissing: the native parts are not built.

    """

    def __init__(self, options: LabOptions | None = None) -> None:
        self.options = options or LabOptions()
        self.deadline_s = self.options.deadline_s
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start everything; wait until the plugin has registered and published its GPUs, and the controller leads."""
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything and remove every file."""
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        options = self.options
        libraries = NativeLibraries.locate()
        self.isolation = self._choose_isolation()
        self.layout = Layout.create(options.base_dir)
        stack.callback(_remove, self.layout.base)
        self.libraries = libraries
        self.gpus: tuple[FakeGpuSpec, ...] = make_gpus(options.cards, self.layout.machine)
        make_driver_root(self.layout.driver_root, libraries, gpus=len(self.gpus))
        self._start_control_plane(stack)
        # Entered before the node: the kubelet wipes slices at its start, and containers end before their driver.
        self.controller = controller_of(self.layout, options)
        self.plugin = plugin_of(self.layout, options)
        self.node = Node(self._node_options())
        if options.controller:
            stack.enter_context(self.controller)
        if options.plugin:
            stack.enter_context(self.plugin)
        stack.enter_context(self.node)
        if options.plugin:
            self._await_plugin()
        if options.controller:
            self._await(self.controller, lambda: bool(leader(self.api)), "did not become the leader")

    def _start_control_plane(self, stack: contextlib.ExitStack) -> None:
        """Start the API server, with what an installation puts into it, and the stand-ins for Kubernetes' own parts."""
        layout = self.layout
        self.access = lab_access()
        server = stack.enter_context(ApiServer(access=self.access))
        server.write_kubeconfig(layout.kubeconfig)
        server.write_kubeconfig(layout.plugin_kubeconfig, token_file=layout.plugin_token)
        server.write_kubeconfig(layout.controller_kubeconfig, token_file=layout.controller_token)
        self.plugin_token = PluginToken(self.access, layout.plugin_token, node=self.options.node_name)
        self.controller_token = AccountToken(self.access, layout.controller_token, account=CONTROLLER_ACCOUNT)
        self._url = server.url
        self.api = KubeApi(server.url)
        for name in _INSTALLED:
            # Roles are not served: they are in the access control.
            objects = [one for one in manifests.load(manifests.shipped(name)) if one["kind"] != "ClusterRole"]
            manifests.apply(server.url, objects)
        stack.enter_context(ControlPlane(server.url))

    def _choose_isolation(self) -> Isolation:
        return standalone("asked for") if self.options.fallback else probe_isolation()

    def _node_options(self) -> NodeOptions:
        runtime = ContainerRuntime(
            cdi=self.options.cdi([self.layout.cdi_dir]),
            isolation=self.isolation,
            libraries=self.libraries,
            machine=self.layout.machine,
            work_dir=self.layout.pods,
            image_env=image_environment(self.libraries),
        )
        return NodeOptions(
            name=self.options.node_name,
            api_url=self._url,
            registry_dir=self.layout.registry_dir,
            state_dir=self.layout.node_state,
            runtime=runtime,
            timings=self.options.timings,
        )

    def _await_plugin(self) -> None:
        def registered() -> bool:
            return self.node.wait_for_driver(DRIVER_NAME, _LOOK_S)

        self._await(self.plugin, registered, "did not register")
        self.wait_for(
            f"{RESOURCE_API}/resourceslices",
            lambda slices: slices if any(item["spec"]["driver"] == DRIVER_NAME for item in slices.values()) else None,
            what="ResourceSlice of the plugin",
        )

    def _await(self, process: DriverProcess, holds: Callable[[], bool], otherwise: str) -> None:
        """Wait until a process of the driver has done what is expected of it. Raises LabUnavailable with its log."""
        end = time.monotonic() + self.options.deadline_s
        while not holds():
            ended = process.exit_code is not None
            if ended or time.monotonic() > end:
                state = "ended" if ended else f"runs but {otherwise}"
                what = f"it {state}; the end of its log:\n{process.log_tail()}"
                raise LabUnavailable(process.subject, what, remedy="correct what the log says")
            time.sleep(_LOOK_S)

    @cached_property
    def kube(self) -> client.ApiClient:
        """The official client, configured for this cluster."""
        loaded: client.ApiClient = config.new_client_from_config(str(self.layout.kubeconfig))
        return loaded

    @property
    def image(self) -> str:
        """Any name will do: containers of the lab see this machine's files, as if its image had them."""
        return IMAGE

    @property
    def run_dir(self) -> Path:
        """The plugin's volatile state: config pages and state files."""
        return self.layout.run_dir

    @property
    def cdi_dir(self) -> Path:
        """Where the container runtime reads CDI specs."""
        return self.layout.cdi_dir

    @property
    def machine_file(self) -> Path:
        """The file that models the GPUs of the machine."""
        return self.layout.machine

    def interceptor_digest(self, build: str, library: str) -> str:
        """Return the SHA-256 of a library of the interceptor as the plugin was installed with it."""
        return hashlib.sha256((self.libraries.directory / build / library).read_bytes()).hexdigest()

    def plugin_rights(self) -> Rights:
        """Return what the plugin was allowed and what was refused to it, as the API server remembers it."""
        controller = self.controller_token.user
        return self._rights(SERVICE_ACCOUNT, [text for text in self.access.refused if controller not in text])

    def controller_rights(self) -> Rights:
        """Return the same of the controller."""
        controller = self.controller_token.user
        return self._rights(CONTROLLER_ACCOUNT, [text for text in self.access.refused if controller in text])

    def _rights(self, role: str, refused: Sequence[str]) -> Rights:
        # Roles are named after the accounts that have them.
        used = [f"{one.verb} {one.resource}" for one in sorted(self.access.used) if one.role == role]
        return Rights(", ".join(used), tuple(refused))

    def plugin_log(self) -> str:
        """Return what the plugin has logged."""
        return self.layout.plugin_log.read_text(errors="replace")

    def controller_log(self) -> str:
        """Return what the controller has logged."""
        return self.layout.controller_log.read_text(errors="replace")

    def apply(self, manifest: str, namespace: str = "default") -> list[Json]:
        """Apply every object of a YAML manifest; return them as the API server stored them. Raises ManifestError."""
        return list(manifests.apply(self._url, manifests.load(manifest), namespace=namespace))

    def logs(self, name: str, container: str | None = None, namespace: str = "default") -> str:
        """Return what a container has written, stdout and stderr together."""
        return self.node.log(self.pod(name, namespace), container).decode(errors="replace")

    def spawn(
        self, name: str, argv: list[str], *, container: str | None = None, namespace: str = "default"
    ) -> ContainerProcess:
        """Start a command inside a running container; its stdout and stderr are pipes.

        The command ends with the thread that started it, at the latest.

        Raises:
            ContainerStartError: the container does not run, or the command cannot be started.

        """
        pod = self.pod(name, namespace)
        return self.node.execute(pod, tuple(argv), container=container, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def execute(
        self, name: str, argv: list[str], *, container: str | None = None, namespace: str = "default"
    ) -> CommandResult:
        """Run a command inside a running container to its end, as ``kubectl exec`` does; raises as `spawn`."""
        process = self.spawn(name, argv, container=container, namespace=namespace)
        timer = threading.Timer(_COMMAND_S, process.kill)
        timer.start()
        try:
            exit_code, stdout, stderr = process.communicate()
        finally:
            timer.cancel()
        return CommandResult(exit_code, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def describe_claim(self, name: str, namespace: str = "default") -> str:
        """Return what ``kubectl describe resourceclaim`` would print."""
        return describe(self.claim(name, namespace), self.events(namespace))


def _remove(directory: Path) -> None:
    """Remove a directory, even if Ctrl-C is pressed again meanwhile."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
