"""Our controller on a control plane without a node, with hollow nodes: what the scenarios of controller mode use.

Claims are written as users of that cluster have to write them: with DRAConsumableCapacity amounts are
capacity.requests, without it the API server drops those and amounts are FractionConfig.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.driver.names import API_VERSION, CLASS_FRACTION, CONFIG_KIND, DRIVER_NAME, GRANT_KIND
from fracgpu.sim.lab.errors import LabTimeout
from fracgpu.sim.node.pod_claims import pod_claims
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.client import ClusterClient
from tests.cluster.hollow import HollowKubelet, HollowNode, create_node, remove_node
from tests.cluster.lone_controller import LoneController, lone_controller
from tests.cluster.lone_plane import LonePlane, lone_plane
from tests.cluster.machine.layout import Layout

Json = dict[str, Any]
CLAIMS: Final = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims"
IMAGE: Final = "registry.example.com/none"
GATE: Final = "DRAConsumableCapacity"


@dataclass(frozen=True)
class Share:
    """What a claim was given of one GPU, in bytes and percent."""

    node: str
    device: str
    memory: int
    cores: int


class ControllerStage(ClusterClient):
    """The plane as administrator; `keeps_capacity` is whether the gate is on."""

    def __init__(self, plane: LonePlane, kubelet: HollowKubelet, *, keeps_capacity: bool) -> None:
        """Use a running plane."""
        super().__init__(plane.plane.api, plane.kubectl, deadline_s=60.0)
        self.plane, self.kubelet, self.keeps_capacity = plane, kubelet, keeps_capacity

    @contextlib.contextmanager
    def nodes(self, *nodes: HollowNode) -> Iterator[None]:
        """Have these nodes for a while. Their kubelet stays, so that their pods end when they are deleted."""
        for node in nodes:
            create_node(self.api, node)
            self.kubelet.add(node.name)
        try:
            yield
        finally:
            for node in nodes:
                remove_node(self.api, node.name)

    def claim_body(self, name: str, memory: str = "", *, cores: int | None = None, count: int = 1, **more: Any) -> Json:
        """Return a claim for shares of `memory` and `cores`; `more` are fields of its FractionConfig."""
        return claim_body(name, memory, cores=cores, count=count, keeps_capacity=self.keeps_capacity, **more)

    def create(self, namespace: str, *objects: Json) -> None:
        """Create objects as a user does."""
        self.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}), namespace)

    def run(self, namespace: str, name: str, memory: str = "", **asks: Any) -> list[Share]:
        """Create a claim and a pod of the same name, wait until the pod runs, and return what it was given."""
        self.create(namespace, self.claim_body(name, memory, **asks), pod_body(name, name))
        self.wait_pod(name, namespace=namespace)
        return shares(self.claim(name, namespace))

    def wait_event(self, namespace: str, name: str, reason: str, text: str = "") -> Json:
        """Wait for an event about an object of that name and return it; raises LabTimeout."""

        def found(events: dict[str, Json]) -> Json | None:
            about = [one for one in events.values() if one["involvedObject"].get("name") == name]
            return next((one for one in about if one["reason"] == reason and text in one["message"]), None)

        try:
            return self.wait_for(
                f"/api/v1/namespaces/{namespace}/events", found, what=f"{reason} {text!r} about {name}"
            )
        except LabTimeout as error:
            told = [
                f"{one['involvedObject']['kind']} {one['reason']}: {one['message']}" for one in self.events(namespace)
            ]
            raise LabTimeout(error.subject, f"{error.what}; told is {told}", remedy=error.remedy) from error

    def node_of(self, name: str, namespace: str) -> str:
        """Return the node of a pod, empty if it has none."""
        return str(self.pod(name, namespace)["spec"].get("nodeName", ""))

    def claims_of_pod(self, name: str, namespace: str) -> list[Json]:
        """Return the claims of a pod, those from templates, too."""
        return [self.claim(one.claim, namespace) for one in pod_claims(self.pod(name, namespace)) if one.claim]


@contextlib.contextmanager
def bare_stage(
    artifacts: Artifacts, layout: Layout, name: str, *, number: int, gate: bool
) -> Iterator[ControllerStage]:
    """Start a plane and what plays kubelets, without a controller; `number` as for lone_plane."""
    with (
        lone_plane(artifacts, layout, name, number=number, gates={GATE: gate}) as plane,
        HollowKubelet(plane.plane.api, []) as kubelet,
    ):
        yield ControllerStage(plane, kubelet, keeps_capacity=gate)


@contextlib.contextmanager
def controller_stage(
    artifacts: Artifacts, layout: Layout, name: str, *, number: int, gate: bool, arguments: Sequence[str] = ()
) -> Iterator[tuple[ControllerStage, LoneController]]:
    """Start a plane with one replica of the controller."""
    with (
        bare_stage(artifacts, layout, name, number=number, gate=gate) as stage,
        lone_controller(stage.plane, arguments=arguments) as controller,
    ):
        yield stage, controller


def claim_body(
    name: str,
    memory: str = "",
    *,
    cores: int | None = None,
    count: int = 1,
    keeps_capacity: bool = True,
    device_class: str = CLASS_FRACTION,
    selector: str = "",
    **config: Any,
) -> Json:
    """Return a claim with one request, `gpu`; `config` are further fields of its FractionConfig."""
    exactly: Json = {"deviceClassName": device_class}
    if count != 1:
        exactly["count"] = count
    if selector:
        exactly["selectors"] = [{"cel": {"expression": selector}}]
    amounts: Json = {**({"memory": memory} if memory else {}), **({"cores": cores} if cores is not None else {})}
    if amounts and keeps_capacity:
        exactly["capacity"] = {"requests": {key: str(value) for key, value in amounts.items()}}
    else:
        config |= amounts
    devices: Json = {"requests": [{"name": "gpu", "exactly": exactly}]}
    if config:
        parameters = {"apiVersion": API_VERSION, "kind": CONFIG_KIND, **config}
        devices["config"] = [{"opaque": {"driver": DRIVER_NAME, "parameters": parameters}}]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": devices},
    }


def template_body(claim: Json) -> Json:
    """Return a template of the same name that makes such claims."""
    return {**claim, "kind": "ResourceClaimTemplate", "spec": {"spec": claim["spec"]}}


def pod_body(
    name: str, *claims: str, template: str = "", cpu: str = "", labels: Json | None = None, **spec: Any
) -> Json:
    """Return a pod with one container that uses existing claims, or one from a template; `spec` are further fields."""
    entries = [{"name": f"c{at}", "resourceClaimName": claim} for at, claim in enumerate(claims)]
    if template:
        entries.append({"name": "made", "resourceClaimTemplateName": template})
    resources: Json = {"claims": [{"name": entry["name"]} for entry in entries]}
    if cpu:
        resources["requests"] = {"cpu": cpu}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "resourceClaims": entries,
            "containers": [{"name": "main", "image": IMAGE, "resources": resources}],
            **spec,
        },
    }


def shares(claim: Json) -> list[Share]:
    """Return what a claim was given, from its grant; where consumedCapacity is kept as well it must say the same."""
    devices = claim["status"]["allocation"]["devices"]
    (grant,) = [
        entry["opaque"]["parameters"]
        for entry in devices["config"]
        if entry["source"] == "FromClass" and entry["opaque"]["parameters"]["kind"] == GRANT_KIND
    ]
    found = []
    for result, granted in zip(devices["results"], grant["results"], strict=True):
        assert [granted[key] for key in ("request", "pool", "device")] == [
            result[key] for key in ("request", "pool", "device")
        ]
        found.append(Share(result["pool"], result["device"], granted["memoryBytes"], granted["cores"]))
    return found


def affinity_to(*nodes: str) -> Json:
    """Return `affinity` of a pod that may only run on nodes with these names."""
    fields = [{"key": "metadata.name", "operator": "In", "values": list(nodes)}]
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": fields}]}
        }
    }
