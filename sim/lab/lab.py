"""The embedded cluster as one context manager.

API server, control plane, a machine with model GPUs, the shipped plugin as a process of its own, a node. Leaving it,
normally or not, leaves nothing behind: no process and no file.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

from kubernetes import client, config

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.native.fake_gpu import MACHINE_ENV, FakeGpuSpec
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim import manifests
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.control import ControlPlane
from fracgpu.sim.lab.credentials import PluginToken, shipped_access
from fracgpu.sim.lab.describe import pod_story
from fracgpu.sim.lab.errors import CommandFailed, LabTimeout, LabUnavailable
from fracgpu.sim.lab.image import image_environment
from fracgpu.sim.lab.layout import Layout
from fracgpu.sim.lab.machine import make_driver_root, make_gpus
from fracgpu.sim.lab.options import LabOptions
from fracgpu.sim.lab.plugin_process import PluginProcess
from fracgpu.sim.lab.waiting import wait_for_collection
from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.claims import claim_names
from fracgpu.sim.node.container import ContainerProcess
from fracgpu.sim.node.isolation import Isolation, probe_isolation, standalone
from fracgpu.sim.node.node import Node, NodeOptions
from fracgpu.sim.node.runtime import ContainerRuntime

T = TypeVar("T")

RESOURCE_API = "/apis/resource.k8s.io/v1"
_COMMAND_S = 30.0
# Logs are files; nothing tells when one grows.
_LOG_POLL_S = 0.05
_PLUGIN_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command inside a pod ended and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


class Lab:
    """A running embedded cluster; see `LabOptions` for what can be asked of it.

    The plugin has the rights that deploy/ gives it, on this node; `access` tells which it used and which it lacked.
    The processes of the lab end with the thread that entered it, at the latest.

    Raises:
        LabUnavailable: something is missing on this machine; nothing has been left behind.
        NativeLibrariesMissing: the native parts are not built.

    """

    def __init__(self, options: LabOptions | None = None) -> None:
        self.options = options or LabOptions()
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

    def apply(self, manifest: str, namespace: str = "default") -> list[Json]:
        """Apply every object of a YAML manifest; return them as the API server stored them. Raises ManifestError."""
        return list(manifests.apply(self._url, manifests.load(manifest), namespace=namespace))

    def wait_for(self, path: str, until: Callable[[dict[str, Json]], T | None], *, what: str) -> T:
        """Wait until ``until``, given the objects of a collection by name, returns something; raises LabTimeout."""
        return wait_for_collection(self.api, path, until, deadline_s=self.options.deadline_s, what=what)

    def wait_pod(self, name: str, phase: str = "Running", namespace: str = "default") -> Json:
        """Wait until a pod is in ``phase`` and return it.

        Raises:
            LabTimeout: it is not in time; the text says how far it came.

        """
        seen: list[Json] = []

        def reached(pods: dict[str, Json]) -> Json | None:
            if name in pods:
                seen[:] = [pods[name]]
            pod = pods.get(name)
            return pod if pod and pod.get("status", {}).get("phase") == phase else None

        try:
            return self.wait_for(f"/api/v1/namespaces/{namespace}/pods", reached, what=f"pod {namespace}/{name}")
        except LabTimeout as error:
            story = pod_story(seen[0], self.events(namespace)) if seen else "the pod does not exist"
            raise LabTimeout(error.subject, f"is not {phase}: {story}", remedy=error.remedy) from error

    def pod(self, name: str, namespace: str = "default") -> Json:
        """Return a pod; raises ApiRefusedError."""
        return self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")

    def claims_of(self, pod: Json) -> list[Json]:
        """Return the claims of a pod, in the order of its spec."""
        base = f"{RESOURCE_API}/namespaces/{pod['metadata']['namespace']}/resourceclaims"
        return [self.api.get(f"{base}/{name}") for name in claim_names(pod).values() if name]

    def events(self, namespace: str = "default") -> list[Json]:
        """Return the events of a namespace."""
        items: list[Json] = self.api.get(f"/api/v1/namespaces/{namespace}/events")["items"]
        return items

    def delete_pod(self, name: str, namespace: str = "default") -> None:
        """Delete a pod and wait until it is gone."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        self.api.delete(f"{path}/{name}")
        self.wait_for(path, lambda pods: True if name not in pods else None, what=f"end of pod {namespace}/{name}")

    def logs(self, name: str, container: str | None = None, namespace: str = "default") -> str:
        """Return what a container has written, stdout and stderr together."""
        return self.node.log(self.pod(name, namespace), container).decode(errors="replace")

    def wait_log(self, name: str, text: str, container: str | None = None, namespace: str = "default") -> str:
        """Wait until a container has written ``text`` and return all it wrote; raises LabTimeout."""
        end = time.monotonic() + self.options.deadline_s
        while text not in (log := self.logs(name, container, namespace)):
            if time.monotonic() > end:
                raise LabTimeout(f"pod {namespace}/{name}", f"never wrote {text!r}: {log!r}", remedy="see its log")
            time.sleep(_LOG_POLL_S)
        return log

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

    def output_of(self, name: str, argv: list[str], *, container: str | None = None) -> str:
        """Return the stdout of a command inside a pod; raises CommandFailed when it does not succeed."""
        result = self.execute(name, argv, container=container)
        if result.exit_code != 0:
            what = f"{' '.join(argv)} ended with {result.exit_code}: {result.stderr.strip() or result.stdout.strip()}"
            raise CommandFailed(f"pod {name}", what, remedy="see its output")
        return result.stdout


def _remove(directory: Path) -> None:
    """Remove a directory, even if Ctrl-C is pressed again meanwhile."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
