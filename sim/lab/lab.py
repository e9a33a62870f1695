"""The embedded cluster as one context manager.

API server, control plane, a machine with model GPUs, the shipped plugin as a process of its own, a node. Leaving it,
normally or not, leaves nothing behind: no process and no file.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Self

from kubernetes import client, config

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.native.fake_gpu import MACHINE_ENV, FakeGpuSpec
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim import manifests
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.control import ControlPlane
from fracgpu.sim.lab.cluster import RESOURCE_API, ClusterUnderTest, CommandResult
from fracgpu.sim.lab.credentials import PluginToken, shipped_access
from fracgpu.sim.lab.errors import LabUnavailable
from fracgpu.sim.lab.image import IMAGE, image_environment
from fracgpu.sim.lab.kubectl_describe import describe
from fracgpu.sim.lab.layout import Layout
from fracgpu.sim.lab.machine import make_driver_root, make_gpus
from fracgpu.sim.lab.node import PluginRights
from fracgpu.sim.lab.options import LabOptions
from fracgpu.sim.lab.plugin_process import PluginProcess
from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.container import ContainerProcess
from fracgpu.sim.node.isolation import Isolation, probe_isolation, standalone
from fracgpu.sim.node.node import Node, NodeOptions
from fracgpu.sim.node.runtime import ContainerRuntime

__all__ = ["RESOURCE_API", "CommandResult", "Lab"]

_COMMAND_S = 30.0
_PLUGIN_LOOK_S = 0.2


class Lab(ClusterUnderTest):
    """A running embedded cluster; see `LabOptions` for what can be asked of it.

    The plugin has the rights that deploy/ gives it, on this node; `access` tells which it used and which it lacked.
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
        """Start everything and wait until the plugin is registered and has published its GPUs."""
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
        self.access = shipped_access()
        server = stack.enter_context(ApiServer(access=self.access))
        server.write_kubeconfig(self.layout.kubeconfig)
        server.write_kubeconfig(self.layout.plugin_kubeconfig, token_file=self.layout.plugin_token)
        self.plugin_token = PluginToken(self.access, self.layout.plugin_token, node=options.node_name)
        self._url = server.url
        self.api = KubeApi(server.url)
        manifests.apply(server.url, manifests.load(manifests.shipped()))
        stack.enter_context(ControlPlane(server.url))
        # Entered before the plugin: the kubelet wipes slices at its start, and containers end before their driver.
        self.plugin = PluginProcess(self._plugin_arguments(), env=self._plugin_env(), log=self.layout.plugin_log)
        self.node = Node(self._node_options(server.url))
        if options.plugin:
            stack.enter_context(self.plugin)
        stack.enter_context(self.node)
        if options.plugin:
            self._await_plugin()

    def _choose_isolation(self) -> Isolation:
        return standalone("asked for") if self.options.fallback else probe_isolation()

    def _node_options(self, url: str) -> NodeOptions:
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
            api_url=url,
            registry_dir=self.layout.registry_dir,
            state_dir=self.layout.node_state,
            runtime=runtime,
            timings=self.options.timings,
        )

    def _plugin_arguments(self) -> list[str]:
        layout = self.layout
        return [
            f"--node-name={self.options.node_name}",
            f"--kubeconfig={layout.plugin_kubeconfig}",
            f"--allocator={self.options.allocator}",
            f"--driver-root={layout.driver_root}",
            f"--dev-root={layout.driver_root}",
            f"--plugin-dir={layout.plugin_dir}",
            f"--registry-dir={layout.registry_dir}",
            f"--cdi-dir={layout.cdi_dir}",
            f"--state-dir={layout.state_dir}",
            f"--run-dir={layout.run_dir}",
            f"--log-level={self.options.log_level}",
        ]

    def _plugin_env(self) -> dict[str, str]:
        return {MACHINE_ENV: str(self.layout.machine)}

    def _await_plugin(self) -> None:
        end = time.monotonic() + self.options.deadline_s
        registered = False
        while not registered and self.plugin.exit_code is None and time.monotonic() < end:
            registered = self.node.wait_for_driver(DRIVER_NAME, _PLUGIN_LOOK_S)
        if not registered:
            state = "ended" if self.plugin.exit_code is not None else "runs but did not register"
            what = f"it {state}; the end of its log:\n{self.plugin.log_tail()}"
            raise LabUnavailable("kubelet plugin", what, remedy="correct what the log says")
        self.wait_for(
            f"{RESOURCE_API}/resourceslices",
            lambda slices: slices if any(item["spec"]["driver"] == DRIVER_NAME for item in slices.values()) else None,
            what="ResourceSlice of the plugin",
        )

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

    def plugin_rights(self) -> PluginRights:
        """Return what the plugin was allowed and what was refused to it, as the API server remembers it."""
        used = ", ".join(f"{one.verb} {one.resource}" for one in sorted(self.access.used))
        return PluginRights(used, tuple(self.access.refused))

    def plugin_log(self) -> str:
        """Return what the plugin has logged."""
        return self.layout.plugin_log.read_text(errors="replace")

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
