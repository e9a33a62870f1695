"""The driver in the cluster, installed as a user installs it: the manifests of deploy/ with the name of an image.

The only changes to them are those that deploy/README.md asks for: the image and, for the other mode, a component.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import fracgpu.sim
from fracgpu.driver.amounts import Allocator
from fracgpu.driver.names import ATTR_ALLOCATOR, DRIVER_NAME
from fracgpu.sim.lab.node import Rights
from fracgpu.sim.node.api import Json
from tests.cluster.client import ClusterClient
from tests.cluster.node_state import processes_of

NAMESPACE: Final = "fracgpu-system"
DAEMON_SET: Final = "fracgpu-kubeletplugin"
DEPLOYMENT: Final = "fracgpu-controller"
SERVICE_ACCOUNT: Final = "fracgpu-kubeletplugin"
PLUGIN_IMAGE: Final = "fracgpu.test/plugin"
IMAGE_TAG: Final = "e2e"
SLICES: Final = "/apis/resource.k8s.io/v1/resourceslices"
_HTTP_PORT: Final = 8080
_METRICS_S: Final = 30.0
_LABELS: Final = "app.kubernetes.io/name=fracgpu,app.kubernetes.io/component=kubelet-plugin"
_CONTROLLER_LABELS: Final = "app.kubernetes.io/name=fracgpu,app.kubernetes.io/component=controller"
# How the API server begins to say no: status 403.
_REFUSAL: Final = "forbidden"


@dataclass(frozen=True, slots=True)
class Installation:
    """The manifests of deploy/ in `directory`, and what one does with them."""

    client: ClusterClient
    directory: Path

    def install(self, allocator: Allocator = "controller") -> None:
        """Apply everything and wait until plugin and controller serve and the node's GPUs are published.

        For `scheduler` with the component that turns both. An installation that is there may be turned so; no GPU may
        be in use then.
        """
        self._write(allocator)
        self.client.kubectl.output("apply", "--kustomize", self.directory / "overlay")
        self.await_ready()
        self.client.kubectl.output(*_rollout("deployment", DEPLOYMENT))
        self.client.wait_for(
            SLICES,
            lambda slices: True if owners(slices.values()) == {allocator} else None,
            what=f"GPUs that are allocated by {allocator}",
        )

    @property
    def allocator(self) -> Allocator:
        """Who allocates the GPUs that are published; there are some."""
        (found,) = owners(self.client.slices(DRIVER_NAME))
        return "scheduler" if found == "scheduler" else "controller"

    def await_ready(self) -> None:
        """Wait for the DaemonSet's rollout and the ResourceSlice of the node."""
        self.client.kubectl.output(*_rollout("daemonset", DAEMON_SET))
        self.client.wait_for(
            SLICES,
            lambda slices: True if any(item["spec"]["driver"] == DRIVER_NAME for item in slices.values()) else None,
            what=f"ResourceSlice of {DRIVER_NAME}",
        )

    def plugin_pods(self) -> list[Json]:
        """Return the plugin's pods, oldest first."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={_LABELS}"
        pods: list[Json] = self.client.api.get(path)["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def plugin_process(self) -> int:
        """Return the process id of the newest plugin on this node."""
        (process,) = processes_of(self.plugin_pods()[-1], "kubeletplugin")
        return process

    @contextlib.contextmanager
    def hung_plugin(self) -> Iterator[None]:
        """Let the plugin hang as a program on a dying disk does: its sockets accept, and nothing answers.

        Its probes give it a minute.
        """
        process = self.plugin_process()
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # what the test wanted to know failed in another way
                os.kill(process, signal.SIGCONT)

    def remove_plugin(self) -> None:
        """Delete the DaemonSet, everything else stays; wait until its pods are gone."""
        self.client.kubectl.output("delete", "daemonset", DAEMON_SET, "--namespace", NAMESPACE, "--wait=true")
        self.client.wait_for(
            f"/api/v1/namespaces/{NAMESPACE}/pods",
            lambda pods: None if any(name.startswith(DAEMON_SET) for name in pods) else True,
            what="end of the plugin's pods",
        )

    @contextlib.contextmanager
    def removed(self) -> Iterator[None]:
        """Remove the plugin for a while."""
        allocator = self.allocator
        self.remove_plugin()
        try:
            yield
        finally:
            self.install(allocator)

    def replace_pods(self) -> None:
        """Delete the plugin's pods and wait until new ones serve."""
        for pod in self.plugin_pods():
            self.client.delete_pod(pod["metadata"]["name"], NAMESPACE, grace_s=30)
        self.await_ready()

    def set_image(self, tag: str) -> None:
        """Roll the plugin to another tag of its image and wait until it serves."""
        image = f"kubelet-plugin={PLUGIN_IMAGE}:{tag}"
        self.client.kubectl.output("set", "image", f"daemonset/{DAEMON_SET}", image, "--namespace", NAMESPACE)
        self.await_ready()

    def metrics(self) -> list[str]:
        """Return the samples that the newest plugin's metrics have, without the comments."""
        address = self.plugin_pods()[-1]["status"]["podIP"]
        with urllib.request.urlopen(f"http://{address}:{_HTTP_PORT}/metrics", timeout=_METRICS_S) as response:
            lines: list[str] = response.read().decode().splitlines()
        return [line for line in lines if not line.startswith("#")]

    def log(self, *, since: datetime | None = None) -> str:
        """Return what the plugins have logged; `since` leaves out what is older, to the second."""
        return self._log(_LABELS, [f"--since-time={since:%Y-%m-%dT%H:%M:%SZ}"] if since else [])

    def controller_log(self) -> str:
        """Return what all replicas of the controller have logged that are there."""
        return self._log(_CONTROLLER_LABELS, [])

    def _log(self, labels: str, window: Sequence[str]) -> str:
        return self.client.kubectl.run(
            "logs", "--namespace", NAMESPACE, "--selector", labels, "--tail=-1", "--prefix", *window
        ).stdout

    def _write(self, allocator: Allocator) -> None:
        shipped, overlay = self.directory / "deploy", self.directory / "overlay"
        overlay.mkdir(parents=True, exist_ok=True)
        manifests = Path(fracgpu.sim.__path__[0]).parent / "deploy"
        shutil.copytree(manifests, shipped, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["../deploy"],
            "components": ["../deploy/scheduler-mode"] if allocator == "scheduler" else [],
            "images": [{"name": "registry.example.com/fracgpu", "newName": PLUGIN_IMAGE, "newTag": IMAGE_TAG}],
        }
        (overlay / "kustomization.yaml").write_text(json.dumps(kustomization))


def rights_in(log: str) -> Rights:
    """Return what a part of the driver complained of in its log: it logs every refusal of the API server."""
    lines = log.splitlines()
    refused = tuple(line for line in lines if _REFUSAL in line.lower())
    return Rights(f"its {len(lines)} lines of log tell of no refusal" if lines else "", refused)


def _rollout(kind: str, name: str) -> list[str]:
    return ["rollout", "status", f"{kind}/{name}", "--namespace", NAMESPACE, "--timeout=90s"]


def owners(slices: Iterable[Json]) -> set[str]:
    """Return who allocates the GPUs of our driver in these slices."""
    return {
        str(device["attributes"][ATTR_ALLOCATOR]["string"])
        for item in slices
        if item["spec"]["driver"] == DRIVER_NAME
        for device in item["spec"]["devices"]
    }
