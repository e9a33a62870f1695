"""An emulated API server with nodes, GPUs and claims made by hand, and the commands that look at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fracgpu.cli.main import main
from fracgpu.sim import manifests
from fracgpu.sim.api import resources as r
from fracgpu.sim.api.resources import Resource
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.control.client import ApiClient

Json = dict[str, Any]
MIB = 1024 * 1024
NAMES = {"L40S": "NVIDIA L40S", "L4": "NVIDIA L4"}


def gpu(name: str, memory_mib: int, *, product: str = "L40S", allocator: str = "controller", **more: Any) -> Json:
    policy = {"default": f"{memory_mib}Mi", "validRange": {"min": "0", "max": f"{memory_mib}Mi", "step": "1Mi"}}
    return {
        "name": name,
        "allowMultipleAllocations": True,
        "attributes": {
            "uuid": {"string": f"GPU-{name}"},
            "productName": {"string": NAMES[product]},
            "allocator": {"string": allocator},
            "physicalMemoryMiB": {"int": memory_mib},
            "numaNode": {"int": 0},
            "oversubscribed": {"bool": False},
        },
        "capacity": {
            "memory": {"value": f"{memory_mib}Mi", "requestPolicy": policy},
            "cores": {"value": "100"},
            "slots": {"value": "10"},
        },
        **more,
    }


class Cluster:
    """The cluster under test; `kubeconfig` leads to it."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.client = ApiClient(server.url)
        self.kubeconfig = server.write_kubeconfig(directory / "kubeconfig")
        self._directory = directory
        self.apply(manifests.shipped())

    def apply(self, *objects: Json | str) -> None:
        for item in objects:
            manifests.apply(self.client, manifests.load(item) if isinstance(item, str) else [item])

    def node(
        self,
        name: str,
        *gpus: Json,
        ready: bool = True,
        driver: str = "gpu.fracgpu.dev",
        allocatable: Json | None = None,
    ) -> None:
        """Create a node as a kubelet would, and publish its GPUs as the plugin does."""
        status = {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110", **(allocatable or {})},
        }
        body = {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": status}
        self.client.create(r.NODES, "", body)
        self.slice(name, driver, *gpus)

    def slice(self, node: str, driver: str, *gpus: Json) -> None:
        pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": driver, "nodeName": node, "pool": pool, "devices": list(gpus)}
        self.client.create(r.RESOURCE_SLICES, "", {"metadata": {"name": f"{node}-{driver}"}, "spec": spec})

    def edit(self, resource: Resource, name: str, status: Json) -> None:
        """Lay members over an object's status."""
        obj = self.client.get(resource, "default", name)
        obj["status"] = {**(obj.get("status") or {}), **status}
        self.client.update(resource, obj, subresource="status")

    def allocate(self, claim: str, node: str, device: str, memory: str, cores: int, *pods: str) -> None:
        """Write an allocation as our controller does, reserved for pods."""
        share = "0a1b2c3d-0000-4000-8000-000000000001"
        result = {
            "request": "gpu",
            "driver": "gpu.fracgpu.dev",
            "pool": node,
            "device": device,
            "shareID": share,
            "consumedCapacity": {"memory": memory, "cores": str(cores), "slots": "1"},
        }
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        allocation = {"devices": {"results": [result]}, "nodeSelector": {"nodeSelectorTerms": [term]}}
        stored = self.client.get(r.RESOURCE_CLAIMS, "default", claim)
        stored["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
        self.client.update(r.RESOURCE_CLAIMS, stored)
        self.edit(r.RESOURCE_CLAIMS, claim, {"allocation": allocation})
        users = [
            {"resource": "pods", "name": pod, "uid": self.client.get(r.PODS, "default", pod)["metadata"]["uid"]}
            for pod in pods
        ]
        if users:
            self.edit(r.RESOURCE_CLAIMS, claim, {"reservedFor": users})

    def observed(self, claim: str, enforced: str, reason: str, used_mib: int) -> None:
        """Write what the node's plugin says of the only share of a claim."""
        result = self.client.get(r.RESOURCE_CLAIMS, "default", claim)["status"]["allocation"]["devices"]["results"][0]
        condition = {
            "type": "Enforced",
            "status": enforced,
            "reason": reason,
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        entry = {key: result[key] for key in ("driver", "pool", "device", "shareID")}
        entry |= {"conditions": [condition], "data": {"memoryUsedBytes": used_mib * MIB}}
        self.edit(r.RESOURCE_CLAIMS, claim, {"devices": [entry]})

    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
        """Run a command; a text with a line break is a manifest. Returns status and the lines of both outputs."""
        words = []
        for number, argument in enumerate(arguments):
            if "\n" in argument:
                path = self._directory / f"manifest-{number}.yaml"
                path.write_text(argument)
                words += ["-f", str(path)]
            else:
                words.append(argument)
        status = main([*words, "--kubeconfig", str(self.kubeconfig)])
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err.replace(f"{self._directory}/", "").splitlines()

    def json(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
        return json.loads("\n".join(self.run(capsys, *arguments, "-o", "json")[1]))


def claim(name: str, **config: Any) -> Json:
    """A claim that states its amounts in its configuration."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": _spec(config),
    }


def template(name: str, **config: Any) -> Json:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": _spec(config)},
    }


def _spec(config: Json) -> Json:
    parameters = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig", **config}
    requests = [{"name": "gpu", "exactly": {"deviceClassName": "gpu.fracgpu.dev"}}]
    opaque = {"driver": "gpu.fracgpu.dev", "parameters": parameters}
    return {"devices": {"requests": requests, "config": [{"opaque": opaque}]}}


def pod(name: str, claim_name: str = "", template_name: str = "", **spec: Any) -> Json:
    source = {"resourceClaimTemplateName": template_name} if template_name else {"resourceClaimName": claim_name}
    own = {"resourceClaims": [{"name": "gpu", **source}]} if claim_name or template_name else {}
    container: Json = {"name": "c", "image": "x", "resources": {"claims": [{"name": "gpu"}]} if own else {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container], **own, **spec},
    }
