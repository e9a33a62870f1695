"""Pods that kube-scheduler does not let run where our controller has put them, for reasons that we do not model."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pytest

from fracgpu.controller.allocator.claim_book import IMMEDIATE, IMMEDIATE_ANNOTATION
from tests.cluster import fixtures
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.controller_stage import (
    CLAIMS,
    ControllerStage,
    Share,
    affinity_to,
    controller_stage,
    pod_body,
    shares,
)
from tests.cluster.eventually import eventually, eventually_equal
from tests.cluster.hollow import HollowNode, card
from tests.cluster.lone_controller import LoneController
from tests.cluster.machine.layout import Layout
from tests.cluster.oracle import Oracle

Json = dict[str, Any]
LIMIT_S = 30.0
TAKEN_BACK = "fracgpu_allocator_scheduler_deallocations_total"
ANTI = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"noise": "loud"}}}
        ]
    }
}
SPREAD = [
    {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "spread"}},
    }
]


@pytest.fixture(scope="module", params=[True, False], ids=["gate-on", "gate-off"])
def running(
    request: pytest.FixtureRequest, artifacts: Artifacts, layout: Layout
) -> Iterator[tuple[ControllerStage, LoneController]]:
    name = "rejections-on" if request.param else "rejections-off"
    with controller_stage(artifacts, layout, name, number=7, gate=request.param) as both:
        yield both


@pytest.fixture
def namespace(running: tuple[ControllerStage, LoneController], request: pytest.FixtureRequest) -> Iterator[str]:
    with running[0].namespace(fixtures.namespace_name(request.node.name)) as name:
        yield name


def node(number: int, name: str) -> HollowNode:
    return HollowNode(name=name, gpus=[card(number, "NVIDIA H200", 143771)], labels={"zone": name}, cpu="32")


def volume(stage: ControllerStage, namespace: str, name: str, where: str) -> None:
    """Create a volume that is on one node, and a claim that is bound to it."""
    field = {"key": "kubernetes.io/hostname", "operator": "In", "values": [where]}
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    there = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{name}"},
        "spec": {
            **common,
            "capacity": {"storage": "1Gi"},
            "local": {"path": "/disk"},
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": namespace, "name": name},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [field]}]}},
        },
    }
    asked = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {**common, "volumeName": f"{namespace}-{name}", "resources": {"requests": {"storage": "1Gi"}}},
    }
    stage.create(namespace, there, asked)
    stage.wait_for(
        f"/api/v1/namespaces/{namespace}/persistentvolumeclaims",
        lambda found: True if found.get(name, {}).get("status", {}).get("phase") == "Bound" else None,
        what=f"volume {name}",
    )


def seconds_to_start(pod: Json) -> float:
    created, started = (
        datetime.datetime.fromisoformat(pod[part][key])
        for part, key in (("metadata", "creationTimestamp"), ("status", "startTime"))
    )
    return (started - created).total_seconds()


def wait_share(stage: ControllerStage, namespace: str, name: str) -> Share:
    """Wait until a claim is allocated; return what it has."""

    def found(claims: dict[str, Json]) -> Share | None:
        return shares(claims[name])[0] if "allocation" in claims[name].get("status", {}) else None

    return stage.wait_for(CLAIMS.format(namespace), found, what=f"allocation of {name}")


def test_ten_pods_run_elsewhere(running: tuple[ControllerStage, LoneController], namespace: str) -> None:
    stage, controller = running
    before = controller.metric(TAKEN_BACK)
    with stage.nodes(node(1, "preferred"), node(2, "other")), Oracle(stage.api) as oracle:
        # Binpack prefers the node that is used already; nothing of what the ten bring makes the other one fuller.
        stage.create(namespace, stage.claim_body("first", "100Gi"))
        labels = {"noise": "loud", "app": "spread"}
        stage.create(namespace, pod_body("first", "first", labels=labels, affinity=affinity_to("preferred")))
        # Four of what is to be spread are there, so that three more go elsewhere.
        for name in ("second", "third", "fourth"):
            stage.create(namespace, pod_body(name, labels=labels, affinity=affinity_to("preferred")))
        for name in ("first", "second", "third", "fourth"):
            stage.wait_pod(name, namespace=namespace)
        for number in range(3):
            volume(stage, namespace, f"disk-{number}", "other")

        bodies: dict[str, Json] = {}
        for number in range(4):
            bodies[f"anti-{number}"] = {"affinity": ANTI}
        for number in range(3):
            bodies[f"spread-{number}"] = {"topologySpreadConstraints": SPREAD, "labels": {"app": "spread"}}
            disk = {"name": "disk", "persistentVolumeClaim": {"claimName": f"disk-{number}"}}
            bodies[f"disk-{number}"] = {"volumes": [disk]}
        assert len(bodies) == 10
        for name, body in bodies.items():
            stage.create(namespace, stage.claim_body(name, "1Gi"), pod_body(name, name, **body))
        pods = [stage.wait_pod(name, namespace=namespace) for name in bodies]

        assert {pod["spec"]["nodeName"] for pod in pods} == {"other"}
        assert {share.node for name in bodies for share in shares(stage.claim(name, namespace))} == {"other"}
        assert max(seconds_to_start(pod) for pod in pods) <= LIMIT_S
        # kube-scheduler has taken each of them back at least once, and every time was counted.
        eventually(lambda: set(oracle.released) >= set(bodies), what="ten deallocations seen")
        eventually(
            lambda: controller.metric(TAKEN_BACK) - before == len(oracle.released),
            what=f"{len(oracle.released)} deallocations counted",
        )


def test_what_was_allocated_ahead_moves_when_its_place_is_taken(
    running: tuple[ControllerStage, LoneController], namespace: str
) -> None:
    """Between the allocation and the binding other pods take the CPU of that node, or it gets a taint."""
    stage, controller = running
    before = controller.metric(TAKEN_BACK)
    with stage.nodes(node(1, "preferred"), node(2, "other")), Oracle(stage.api) as oracle:
        stage.create(namespace, stage.claim_body("first", "100Gi"))
        stage.create(namespace, pod_body("first", "first", affinity=affinity_to("preferred")))
        stage.wait_pod("first", namespace=namespace)
        names = ["cpu-0", "cpu-1", "taint-0", "taint-1"]
        for name in names:
            ahead = stage.claim_body(name, "1Gi")
            ahead["metadata"]["annotations"] = {IMMEDIATE_ANNOTATION: IMMEDIATE}
            stage.create(namespace, ahead)
        for name in names:
            assert wait_share(stage, namespace, name).node == "preferred"

        stage.create(namespace, pod_body("hungry", cpu="31", affinity=affinity_to("preferred")))
        stage.wait_pod("hungry", namespace=namespace)
        for name in ("cpu-0", "cpu-1"):
            stage.create(namespace, pod_body(name, name, cpu="2"))
        pods = [stage.wait_pod(name, namespace=namespace) for name in ("cpu-0", "cpu-1")]
        stage.kubectl.output("taint", "node", "preferred", "busy=yes:NoSchedule")
        for name in ("taint-0", "taint-1"):
            stage.create(namespace, pod_body(name, name))
        pods += [stage.wait_pod(name, namespace=namespace) for name in ("taint-0", "taint-1")]

        assert {pod["spec"]["nodeName"] for pod in pods} == {"other"}
        assert {share.node for name in names for share in shares(stage.claim(name, namespace))} == {"other"}
        assert max(seconds_to_start(pod) for pod in pods) <= LIMIT_S
        # Each was taken back once: what is allocated ahead and then wanted by a pod is placed for that pod.
        eventually(lambda: sorted(oracle.released) == names, what="one deallocation of each")
        eventually_equal(lambda: controller.metric(TAKEN_BACK) - before, float(len(names)), deadline_s=30.0)
