"""A cluster as its users see it: manifests in, pods, claims, events, logs and commands out.

The embedded cluster and the real ones that `make e2e` uses are this class, so exercises and scenarios are written once
and cannot know which of them they run on. What only somebody on the node can look at is `fracgpu.sim.lab.node`.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final, Protocol, TypeVar

from fracgpu.sim.lab.describe import pod_story
from fracgpu.sim.lab.errors import CommandFailed, LabTimeout
from fracgpu.sim.lab.node import Rights
from fracgpu.sim.lab.waiting import wait_for_collection
from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.pod_claims import pod_claims
from fracgpu.sim.transport import ApiRefusedError

T = TypeVar("T")

RESOURCE_API: Final = "/apis/resource.k8s.io/v1"
# Logs are files; nothing tells when one grows.
_LOG_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command inside a pod ended and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


class RunningCommand(Protocol):
    """A command inside a container that was started and may still run."""

    @property
    def stderr(self) -> IO[bytes] | None:
        """What the command writes to stderr."""

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of stdout as they come."""

    def communicate(self) -> tuple[int, bytes, bytes]:
        """Wait for the end; return exit code and what is left of stdout and stderr."""

    def wait(self) -> int:
        """Wait for the end and return the exit code."""

    @property
    def exit_code(self) -> int | None:
        """Exit code, None while it runs."""

    def terminate(self) -> None:
        """Ask the command to end."""

    def kill(self) -> None:
        """End the command; harmless when it has ended."""


class ClusterUnderTest(ABC):
    """A running cluster with the driver installed. `api` has an administrator's rights, `deadline_s` bounds each wait.

    Whoever derives from it sets `api` and `deadline_s` before the first call.
    """

    api: KubeApi
    deadline_s: float

    @property
    @abstractmethod
    def image(self) -> str:
        """An image with a shell, coreutils, our probes, and a Python that has NVIDIA's pynvml and cuda-bindings."""

    @abstractmethod
    def apply(self, manifest: str, namespace: str = "default") -> list[Json]:
        """Apply every object of a YAML manifest; return them as the API server stored them. Raises FracgpuError."""

    @abstractmethod
    def logs(self, name: str, container: str | None = None, namespace: str = "default") -> str:
        """Return what a container has written, stdout and stderr together; empty before it started."""

    @abstractmethod
    def spawn(
        self, name: str, argv: list[str], *, container: str | None = None, namespace: str = "default"
    ) -> RunningCommand:
        """Start a command inside a running container; its stdout and stderr are pipes. Raises FracgpuError."""

    @abstractmethod
    def execute(
        self, name: str, argv: list[str], *, container: str | None = None, namespace: str = "default"
    ) -> CommandResult:
        """Run a command inside a running container to its end, as ``kubectl exec`` does."""

    @abstractmethod
    def describe_claim(self, name: str, namespace: str = "default") -> str:
        """Return what ``kubectl describe resourceclaim`` prints."""

    def controller_rights(self) -> Rights | None:
        """Return what fracgpu's controller was allowed and what was refused to it; None where that is not known."""
        return None

    def wait_for(self, path: str, until: Callable[[dict[str, Json]], T | None], *, what: str) -> T:
        """Wait until ``until``, given the objects of a collection by name, returns something; raises LabTimeout."""
        return wait_for_collection(self.api, path, until, deadline_s=self.deadline_s, what=what)

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

    def claim(self, name: str, namespace: str = "default") -> Json:
        """Return a claim; raises ApiRefusedError."""
        return self.api.get(f"{RESOURCE_API}/namespaces/{namespace}/resourceclaims/{name}")

    def claims_of(self, pod: Json) -> list[Json]:
        """Return the claims of a pod, in the order of its spec; raises ClaimNotNamed before a template made one."""
        return [self.claim(one.claim, pod["metadata"]["namespace"]) for one in pod_claims(pod) if one.claim]

    def events(self, namespace: str = "default") -> list[Json]:
        """Return the events of a namespace."""
        items: list[Json] = self.api.get(f"/api/v1/namespaces/{namespace}/events")["items"]
        return items

    def slices(self, driver: str) -> list[Json]:
        """Return the ResourceSlices of a driver."""
        items: list[Json] = self.api.get(f"{RESOURCE_API}/resourceslices")["items"]
        return [item for item in items if item["spec"]["driver"] == driver]

    def delete_pod(self, name: str, namespace: str = "default", *, grace_s: int = 1) -> None:
        """Delete a pod and wait until it is gone."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        self.api.delete(f"{path}/{name}", {"gracePeriodSeconds": grace_s})
        self.wait_for(path, lambda pods: True if name not in pods else None, what=f"end of pod {namespace}/{name}")

    @contextlib.contextmanager
    def namespace(self, name: str, labels: dict[str, str] | None = None) -> Iterator[str]:
        """Make a namespace, and remove it with all that is in it."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}
        self.api.create("/api/v1/namespaces", body)
        try:
            yield name
        finally:
            self.delete_namespace(name)

    def delete_namespace(self, name: str) -> None:
        """Remove a namespace and wait until its pods and claims are gone; pods have a second to end by themselves.

        The namespace itself follows: Kubernetes looks into it after five seconds, and only then removes what is left.
        """
        with contextlib.suppress(ApiRefusedError):
            self.api.delete(f"/api/v1/namespaces/{name}")
        collections = (f"/api/v1/namespaces/{name}/pods", f"{RESOURCE_API}/namespaces/{name}/resourceclaims")
        for path in collections:
            with contextlib.suppress(ApiRefusedError):
                for item in self.api.get(path)["items"]:
                    with contextlib.suppress(ApiRefusedError):
                        self.api.delete(f"{path}/{item['metadata']['name']}", {"gracePeriodSeconds": 1})
        for path in collections:
            self.wait_for(path, lambda left: None if left else True, what=f"end of all in namespace {name}")

    def wait_log(self, name: str, text: str, container: str | None = None, namespace: str = "default") -> str:
        """Wait until a container has written ``text`` and return all it wrote; raises LabTimeout."""
        end = time.monotonic() + self.deadline_s
        while text not in (log := self.logs(name, container, namespace)):
            if time.monotonic() > end:
                raise LabTimeout(f"pod {namespace}/{name}", f"never wrote {text!r}: {log!r}", remedy="see its log")
            time.sleep(_LOG_POLL_S)
        return log

    def output_of(self, name: str, argv: list[str], *, container: str | None = None, namespace: str = "default") -> str:
        """Return the stdout of a command inside a pod; raises CommandFailed when it does not succeed."""
        result = self.execute(name, argv, container=container, namespace=namespace)
        if result.exit_code != 0:
            what = f"{' '.join(argv)} ended with {result.exit_code}: {result.stderr.strip() or result.stdout.strip()}"
            raise CommandFailed(f"pod {namespace}/{name}", what, remedy="see its output")
        return result.stdout
