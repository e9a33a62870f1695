"""Claims and pods as scenarios combine them, and what one asks a program inside a pod."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.driver.names import CLASS_FRACTION
from fracgpu.sim.lab.cluster import RESOURCE_API, ClusterUnderTest, RunningCommand
from fracgpu.sim.lab.describe import pod_condition
from fracgpu.sim.node.api import Json

MIB: Final = 1 << 20
STEP_MIB: Final = 64
# What each program that uses the GPU takes of its slice before it has allocated anything: the model's context.
CONTEXT_MIB: Final = 64
OUT_OF_MEMORY: Final = 2
SLEEP: Final = ("sleep", "infinity")
_API: Final = "resource.k8s.io/v1"


def exactly(memory: str | None = None, cores: int = 0, **members: Any) -> Json:
    """Return the part of a request that names class and amounts; without memory no amounts."""
    amounts = {"memory": memory, "cores": str(cores)} if memory else None
    capacity = {"capacity": {"requests": amounts}} if amounts else {}
    return {"deviceClassName": CLASS_FRACTION, **capacity, **members}


def request(name: str = "gpu", memory: str | None = None, **members: Any) -> Json:
    """Return a request."""
    return {"name": name, "exactly": exactly(memory, **members)}


def spec(*requests: Json, **devices: Any) -> Json:
    """Return the spec of a claim."""
    return {"devices": {"requests": list(requests), **devices}}


def claim(name: str, *requests: Json, **devices: Any) -> Json:
    """Return a claim."""
    return {"apiVersion": _API, "kind": "ResourceClaim", "metadata": {"name": name}, "spec": spec(*requests, **devices)}


def template(name: str, *requests: Json, **devices: Any) -> Json:
    """Return a template of claims."""
    inner = {"spec": spec(*requests, **devices)}
    return {"apiVersion": _API, "kind": "ResourceClaimTemplate", "metadata": {"name": name}, "spec": inner}


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody with a namespace on a cluster."""

    cluster: ClusterUnderTest
    namespace: str

    def container(self, name: str, *uses: str, command: Sequence[str] = SLEEP, **members: Any) -> Json:
        """Return a container; each of `uses` is `claim` or `claim/request`, by the names that the pod gives."""
        claims = [dict(zip(("name", "request"), use.split("/"), strict=False)) for use in uses]
        resources = {"resources": {"claims": claims}} if claims else {}
        return {"name": name, "image": self.cluster.image, "command": list(command), **resources, **members}

    def pod_spec(self, *containers: Json, templates: Sequence[str] = (), **members: Any) -> Json:
        """Return the spec of a pod. Its claims have the names that its containers use; `templates` are generated."""
        everyone = [*containers, *members.get("initContainers", ())]
        uses = sorted({use["name"] for one in everyone for use in one.get("resources", {}).get("claims", ())})
        claims = [
            {"name": use, "resourceClaimTemplateName" if use in templates else "resourceClaimName": use} for use in uses
        ]
        named = {"resourceClaims": claims} if claims else {}
        policy = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
        return {**policy, **named, "containers": list(containers), **members}

    def pod(self, name: str, *containers: Json, **members: Any) -> Json:
        """Return a pod."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": self.pod_spec(*containers, **members),
        }

    def user(self, name: str, *uses: str, **members: Any) -> Json:
        """Return a pod with one container that does nothing, `main`."""
        return self.pod(name, self.container("main", *uses), **members)

    def apply(self, *objects: Json) -> None:
        """Apply objects."""
        # JSON, because YAML 1.1 has more words for true and false than one knows.
        manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=1)
        self.cluster.apply(manifest, self.namespace)

    def run(self, *objects: Json) -> None:
        """Apply objects and wait until the pods among them run."""
        self.apply(*objects)
        for obj in objects:
            if obj["kind"] == "Pod":
                self.cluster.wait_pod(obj["metadata"]["name"], namespace=self.namespace)

    def view(self, pod: str, container: str | None = None) -> dict[str, int]:
        """Return the MiB of each GPU, by UUID, that a container sees; CUDA and NVML must say the same."""
        text = self.cluster.output_of(pod, ["fracgpu-view"], container=container, namespace=self.namespace)
        seen = json.loads(text)
        cuda = {one["uuid"]: one["total_bytes"] // MIB for one in seen["cuda"].get("devices", [])}
        nvml = {one["uuid"]: one["v2"]["total_bytes"] // MIB for one in seen["nvml"].get("devices", [])}
        assert cuda == nvml
        return cuda

    def climb(self, pod: str, container: str | None = None) -> int:
        """Allocate in steps until it is refused for want of memory; return the MiB that were taken in all."""
        command = ["fracgpu-climb", "driver", str(STEP_MIB)]
        result = self.cluster.execute(pod, command, container=container, namespace=self.namespace)
        return given(result.stdout)

    @contextmanager
    def climbing(self, *places: tuple[str, str | None]) -> Iterator[list[int]]:
        """Climb in several containers at once and keep everything; yield the MiB that each of them took."""
        command = ["fracgpu-climb", "driver", str(STEP_MIB), "--hold"]
        running: list[RunningCommand] = []
        try:
            for pod, container in places:
                running.append(self.cluster.spawn(pod, command, container=container, namespace=self.namespace))
            yield [given(_until_refused(one)) for one in running]
        finally:
            for one in running:
                one.terminate()
                one.communicate()

    def hold(self, pod: str, mib: int, container: str | None = None) -> RunningCommand:
        """Start a program that takes so much, its context included, and keeps it; it has it."""
        command = ["fracgpu-hold", "driver", str(mib - CONTEXT_MIB)]
        process = self.cluster.spawn(pod, command, container=container, namespace=self.namespace)
        line = next(iter(process.lines()), b"")
        assert b'"ready": true' in line, line
        return process

    def results(self, name: str) -> list[Json]:
        """Return the results of a claim's allocation."""
        allocation = self.cluster.claim(name, self.namespace)["status"]["allocation"]
        return list(allocation["devices"]["results"])

    def wait_unschedulable(self, name: str) -> str:
        """Wait until a pod is told that it cannot be scheduled; return what it is told."""

        def told(pods: dict[str, Json]) -> str | None:
            condition = pod_condition(pods.get(name, {}), "PodScheduled")
            return str(condition["message"]) if condition.get("status") == "False" else None

        return self.cluster.wait_for(self.pods_path, told, what=f"pod {name} that waits")

    def pods(self, **labels: str) -> list[Json]:
        """Return the pods of the namespace that have these labels."""
        items: list[Json] = self.cluster.api.get(self.pods_path)["items"]
        return [pod for pod in items if labels.items() <= (pod["metadata"].get("labels") or {}).items()]

    @property
    def pods_path(self) -> str:
        """Where the pods of the namespace are."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    @property
    def claims_path(self) -> str:
        """Where the claims of the namespace are."""
        return f"{RESOURCE_API}/namespaces/{self.namespace}/resourceclaims"


def given(output: str) -> int:
    """Return the MiB that a climbing program took before it was refused for want of memory, its context included."""
    assert output, "the climbing program wrote nothing"
    last = json.loads(output.splitlines()[-1])
    assert last["code"] == OUT_OF_MEMORY, output
    if last["event"] == "error":
        # Not even its context: others had taken everything.
        return 0
    assert last["event"] == "refused", output
    return int(last["allocated_bytes"]) // MIB + CONTEXT_MIB


def _until_refused(process: RunningCommand) -> str:
    line = b""
    for line in process.lines():
        if b'"refused"' in line or b'"error"' in line:
            break
    return line.decode()
