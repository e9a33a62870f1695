"""A cluster on the emulated API server with whatever a controller needs to allocate, and controllers to do it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fracgpu.driver.names import ALLOCATOR_CONTROLLER, CLASS_FRACTION
from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.server import ApiServer
from tests.controller.allocator.simulation import cluster
from tests.deploy.servers import Requests

Json = dict[str, Any]
GENEROUS_SECONDS = 60.0
NAMESPACE = "fracgpu-system"
_DRA = "/apis/resource.k8s.io/v1"
CLAIMS = f"{_DRA}/namespaces/default/resourceclaims"
PODS = "/api/v1/namespaces/default/pods"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/fracgpu-controller"


def until(wanted: Callable[[], Any], what: str = "", *, seconds: float = GENEROUS_SECONDS) -> Any:
    """Return what `wanted` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := wanted()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.05)
    return found


class Setting:
    """An API server with one node of one 10 GiB GPU."""

    def __init__(self, server: ApiServer) -> None:
        self.admin = Requests(server.url)
        self.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for obj in manifests.load(manifests.shipped()):
            self.create(f"{_DRA}/deviceclasses", dict(obj))
        node = cluster.node("n1")
        status = node.pop("status", {})
        stored = self.create("/api/v1/nodes", node)
        assert self.admin.send("PUT", "/api/v1/nodes/n1/status", {**stored, "status": status}).code == 200
        device = cluster.device(0, 10)
        device["attributes"]["allocator"] = {"string": ALLOCATOR_CONTROLLER}
        self.create(f"{_DRA}/resourceslices", cluster.slice_of("n1", [device]))

    def create(self, path: str, body: Json) -> Json:
        answer = self.admin.send("POST", path, body)
        assert answer.code == 201, answer.raw
        return answer.body

    def get(self, path: str) -> Json:
        answer = self.admin.send("GET", path)
        assert answer.code in (200, 404), answer.raw
        return answer.body if answer.code == 200 else {}

    def ask(self, name: str, memory: str) -> None:
        """Create a claim and a pod that uses it."""
        exactly = {"deviceClassName": CLASS_FRACTION, "capacity": {"requests": {"memory": memory}}}
        self.create(
            CLAIMS,
            {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceClaim",
                "metadata": {"name": name},
                "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
            },
        )
        container = {"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}]}}
        spec = {"containers": [container], "resourceClaims": [{"name": "gpu", "resourceClaimName": name}]}
        self.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

    def allocation(self, name: str) -> Json:
        found: Json = (self.get(f"{CLAIMS}/{name}").get("status") or {}).get("allocation") or {}
        return found

    def events(self, name: str) -> dict[tuple[str, str], str]:
        """Return the messages about a pod and its claim, by kind and reason."""
        items = self.get("/api/v1/namespaces/default/events")["items"]
        about = [(item["involvedObject"], item) for item in items]
        return {(ref["kind"], item["reason"]): item["message"] for ref, item in about if ref["name"] == name}

    @property
    def holder(self) -> str:
        return str((self.get(LEASE).get("spec") or {}).get("holderIdentity") or "")


class Controller:
    """A controller as a process of its own."""

    def __init__(self, kubeconfig: Path, log: Path, *arguments: str, identity: str = "pod-a") -> None:
        self._log = log
        command = [sys.executable, "-m", "fracgpu.cli.main", "controller", f"--kubeconfig={kubeconfig}"]
        options = [f"--identity={identity}", "--http-address=127.0.0.1", "--http-port=0", "--log-json", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        with log.open("wb") as stream:
            self.process = subprocess.Popen([*command, *options], stderr=stream, stdout=stream, env=environment)

    def lines(self) -> list[Json]:
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.endswith("}")]

    def said(self, text: str) -> Json | None:
        return next((line for line in self.lines() if line["msg"] == text), None)

    def port(self) -> int:
        return int(until(lambda: self.said("metrics and health served"), "a port")["port"])

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(GENEROUS_SECONDS)


def shipped_access() -> Access:
    """Return access control with the shipped admission policies for claims and parameters."""
    names = ("claims-policy.yaml", "parameters-policy.yaml")
    return Access(obj for name in names for obj in manifests.load(manifests.shipped(name)))
