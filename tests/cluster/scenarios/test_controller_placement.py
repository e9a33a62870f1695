"""Where our controller places claims, on a real API server and beside a real scheduler, with the gate on and off.

The nodes are hollow: what is shown is that controller, kube-scheduler and kube-controller-manager work together, not
that anything runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fracgpu.driver.quantity import MIB
from tests.cluster import fixtures
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.controller_stage import (
    CLAIMS,
    ControllerStage,
    affinity_to,
    controller_stage,
    pod_body,
    shares,
    template_body,
)
from tests.cluster.eventually import is_released, wait_gone
from tests.cluster.hollow import HollowNode, card
from tests.cluster.machine.layout import Layout
from tests.cluster.oracle import Oracle

Json = dict[str, Any]
GIB = 1 << 30


@pytest.fixture(scope="module", params=[True, False], ids=["gate-on", "gate-off"])
def stage(request: pytest.FixtureRequest, artifacts: Artifacts, layout: Layout) -> Iterator[ControllerStage]:
    name = "placement-on" if request.param else "placement-off"
    with controller_stage(artifacts, layout, name, number=5, gate=request.param) as (running, _):
        yield running


@pytest.fixture
def namespace(stage: ControllerStage, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own; in all that happens in it no GPU is given away twice."""
    with stage.namespace(fixtures.namespace_name(request.node.name)) as name:
        yield name


def node(name: str, *gpus: int, **more: Any) -> HollowNode:
    return HollowNode(name=name, gpus=[card(number) for number in gpus], **more)


def test_two_pods_on_a_node_with_two_gpus_get_one_each(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("pair", 1, 2)), Oracle(stage.api):
        (first,), (second,) = stage.run(namespace, "first", "8Gi"), stage.run(namespace, "second", "8Gi")
        assert {first.device, second.device} == {"gpu-00000001", "gpu-00000002"}
        (third,) = stage.run(namespace, "third", "30Gi", placement={"gpu": "Binpack"})
        assert third.memory == 30 * GIB


def test_gpu_binpack_fills_the_gpu_that_is_used_already(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("packed", 1, 2)), Oracle(stage.api):
        devices = {
            share.device
            for number in range(3)
            for share in stage.run(namespace, f"pod-{number}", "8Gi", placement={"gpu": "Binpack"})
        }
        assert len(devices) == 1


def test_one_node_is_filled_before_the_next_is_begun(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("a", 1), node("b", 2), node("c", 3)), Oracle(stage.api):
        places = [stage.run(namespace, f"pod-{number}", "20Gi")[0].node for number in range(4)]
        assert places[0] == places[1]
        assert places[2] == places[3]
        assert places[0] != places[2]
        (spread,) = stage.run(namespace, "spread", "1Gi", placement={"node": "Spread"})
        assert spread.node not in places


def test_percent_of_whichever_card_it_is(stage: ControllerStage, namespace: str) -> None:
    large, small = card(1, "NVIDIA A100", 81920), card(2, "NVIDIA T4", 15361)
    with stage.nodes(HollowNode(name="large", gpus=[large]), HollowNode(name="small", gpus=[small])), Oracle(stage.api):
        for name, mib in (("large", 81920), ("small", 15361)):
            asks = stage.claim_body(f"half-{name}", memoryPercent=50, cores=25)
            stage.create(namespace, asks, pod_body(f"half-{name}", f"half-{name}", affinity=affinity_to(name)))
            stage.wait_pod(f"half-{name}", namespace=namespace)
            (share,) = shares(stage.claim(f"half-{name}", namespace))
            assert (share.node, share.memory, share.cores) == (name, mib // 2 * MIB, 25)


def test_a_pod_with_node_affinity_gets_its_gpu_there(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("begun", 1), node("wanted", 2, labels={"zone": "b"})), Oracle(stage.api):
        stage.run(namespace, "filler", "8Gi", placement={"node": "Binpack"})
        begun = stage.node_of("filler", namespace)
        other = {"begun": "wanted", "wanted": "begun"}[begun]
        stage.create(
            namespace, stage.claim_body("picky", "8Gi"), pod_body("picky", "picky", affinity=affinity_to(other))
        )
        stage.wait_pod("picky", namespace=namespace)
        assert shares(stage.claim("picky", namespace))[0].node == other
        assert stage.node_of("picky", namespace) == other


def test_a_node_too_full_of_cpu_is_passed_over(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("busy", 1, cpu="4"), node("idle", 2, cpu="4")), Oracle(stage.api):
        stage.create(namespace, pod_body("hog", cpu="3", affinity=affinity_to("busy")))
        stage.wait_pod("hog", namespace=namespace)
        for name in ("one", "two"):
            stage.create(namespace, stage.claim_body(name, "8Gi"), pod_body(name, name, cpu="2"))
            stage.wait_pod(name, namespace=namespace)
            assert shares(stage.claim(name, namespace))[0].node == "idle"
        stage.create(namespace, stage.claim_body("three", "8Gi"), pod_body("three", "three", cpu="2"))
        stage.wait_event(namespace, "three", "ClaimUnschedulable", "Insufficient cpu")
        stage.delete_pod("hog", namespace)
        stage.wait_pod("three", namespace=namespace)
        assert stage.node_of("three", namespace) == "busy"


def test_a_cordoned_and_a_tainted_node_are_passed_over(stage: ControllerStage, namespace: str) -> None:
    taint = {"key": "example.com/team", "value": "vision", "effect": "NoSchedule"}
    nodes = (node("cordoned", 1, unschedulable=True), node("tainted", 2, taints=[taint]), node("plain", 3))
    with stage.nodes(*nodes), Oracle(stage.api):
        for number in range(2):
            assert stage.run(namespace, f"pod-{number}", "20Gi")[0].node == "plain"
        tolerations = [{"key": "example.com/team", "operator": "Exists"}]
        stage.create(namespace, stage.claim_body("may", "20Gi"), pod_body("may", "may", tolerations=tolerations))
        stage.wait_pod("may", namespace=namespace)
        assert stage.node_of("may", namespace) == "tainted"


def test_pods_that_share_a_claim_run_on_its_node(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("here", 1), node("there", 2)), Oracle(stage.api):
        stage.create(namespace, stage.claim_body("shared", "8Gi"))
        for name in ("first", "second", "third"):
            stage.create(namespace, pod_body(name, "shared"))
        for name in ("first", "second", "third"):
            stage.wait_pod(name, namespace=namespace)
        (share,) = shares(stage.claim("shared", namespace))
        assert {stage.node_of(name, namespace) for name in ("first", "second", "third")} == {share.node}
        assert len(stage.claim("shared", namespace)["status"]["reservedFor"]) == 3


def test_two_claims_of_a_pod_are_on_one_node_or_nowhere(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("single", 1), node("double", 2, 3)), Oracle(stage.api):
        stage.create(namespace, *(stage.claim_body(name, "40Gi") for name in ("left", "right")))
        stage.create(namespace, pod_body("both", "left", "right"))
        stage.wait_pod("both", namespace=namespace)
        found = [share.node for name in ("left", "right") for share in shares(stage.claim(name, namespace))]
        assert found == ["double", "double"]
        # The node that is left has room for one of the two.
        stage.create(namespace, *(stage.claim_body(name, "40Gi") for name in ("up", "down")))
        stage.create(namespace, pod_body("pair", "up", "down"))
        stage.wait_event(namespace, "pair", "ClaimUnschedulable", "each fits alone")
        assert not any("allocation" in stage.claim(name, namespace).get("status", {}) for name in ("up", "down"))


def test_claims_from_templates_come_and_go_with_their_pods(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("only", 1)), Oracle(stage.api):
        stage.create(namespace, template_body(stage.claim_body("slice", "40Gi")))
        stage.create(namespace, pod_body("first", template="slice"))
        stage.wait_pod("first", namespace=namespace)
        (claim,) = stage.claims_of_pod("first", namespace)
        assert shares(claim)[0].memory == 40 * GIB
        stage.create(namespace, pod_body("second", template="slice"))
        stage.wait_event(namespace, "second", "ClaimUnschedulable", "CardInsufficientMemory")
        # Done, not deleted: kube-controller-manager removes the claim, and the next pod gets the share.
        stage.kubelet.finish("first", namespace)
        wait_gone(stage, CLAIMS.format(namespace), claim["metadata"]["name"])
        stage.wait_pod("second", namespace=namespace)


def test_a_named_claim_is_deallocated_when_its_last_pod_is_gone(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("only", 1)), Oracle(stage.api):
        stage.run(namespace, "first", "40Gi")
        stage.delete_pod("first", namespace)
        stage.wait_for(
            CLAIMS.format(namespace),
            lambda claims: True if is_released(claims["first"]) else None,
            what="deallocation by kube-controller-manager",
        )
        stage.run(namespace, "second", "40Gi")
        # The named claim is allocated again when a pod wants it, which now has to wait.
        stage.create(namespace, pod_body("again", "first"))
        stage.wait_event(namespace, "again", "ClaimUnschedulable", "CardInsufficientMemory")
        stage.delete_pod("second", namespace)
        stage.wait_pod("again", namespace=namespace)


def test_a_whole_gpu_is_given_to_nobody_else(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(node("only", 1)), Oracle(stage.api):
        asks = {"device_class": "whole.gpu.fracgpu.dev"}
        (share,) = stage.run(namespace, "all", **asks)
        assert share.memory == 46068 * MIB
        stage.create(namespace, stage.claim_body("bit", "1Mi"), pod_body("bit", "bit"))
        stage.wait_event(namespace, "bit", "ClaimUnschedulable", "CardInsufficientMemory")


def test_a_gpu_that_falls_off_the_bus_gets_no_new_claims(stage: ControllerStage, namespace: str) -> None:
    nodes = HollowNode(name="only", gpus=[card(1, healthy=False), card(2)])
    with stage.nodes(nodes), Oracle(stage.api):
        assert {stage.run(namespace, name, "8Gi")[0].device for name in ("one", "two")} == {"gpu-00000002"}
        stage.create(namespace, stage.claim_body("large", "40Gi"), pod_body("large", "large"))
        stage.wait_event(namespace, "large", "ClaimUnschedulable", "CardNotHealth")
