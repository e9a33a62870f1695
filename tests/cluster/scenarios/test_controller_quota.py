"""A namespace's quota in controller mode: held at allocation, told in numbers, readable in the object's status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import fixtures
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.controller_stage import ControllerStage, controller_stage, pod_body
from tests.cluster.hollow import HollowNode, card
from tests.cluster.machine.layout import Layout
from tests.cluster.oracle import amount

Json = dict[str, Any]
QUOTAS = "/apis/gpu.fracgpu.dev/v1alpha1/namespaces/{}/fractionquotas"


@pytest.fixture(scope="module", params=[True, False], ids=["gate-on", "gate-off"])
def stage(request: pytest.FixtureRequest, artifacts: Artifacts, layout: Layout) -> Iterator[ControllerStage]:
    name = "quota-on" if request.param else "quota-off"
    with (
        controller_stage(artifacts, layout, name, number=8, gate=request.param) as (running, _),
        running.nodes(HollowNode(name="big", gpus=[card(1), card(2), card(3)])),
    ):
        yield running


@pytest.fixture
def namespace(stage: ControllerStage, request: pytest.FixtureRequest) -> Iterator[str]:
    with stage.namespace(fixtures.namespace_name(request.node.name)) as name:
        yield name


def quota(**hard: str) -> Json:
    return {
        "apiVersion": "gpu.fracgpu.dev/v1alpha1",
        "kind": "FractionQuota",
        "metadata": {"name": "team"},
        "spec": {"hard": hard},
    }


def wait_used(stage: ControllerStage, namespace: str, **used: str) -> None:
    def reached(quotas: dict[str, Json]) -> bool | None:
        shown = quotas.get("team", {}).get("status", {}).get("used", {})
        return True if all(key in shown and amount(shown[key]) == amount(one) for key, one in used.items()) else None

    stage.wait_for(QUOTAS.format(namespace), reached, what=f"status.used {used}")


def ask(stage: ControllerStage, namespace: str, name: str, memory: str, cores: int = 0) -> None:
    stage.create(namespace, stage.claim_body(name, memory, cores=cores), pod_body(name, name))


def test_memory_beyond_the_quota_waits_until_there_is_some(stage: ControllerStage, namespace: str) -> None:
    stage.create(namespace, quota(memory="20Gi"))
    wait_used(stage, namespace, memory="0")
    for name in ("one", "two"):
        stage.run(namespace, name, "8Gi")
    wait_used(stage, namespace, memory="16Gi", slots="2")
    ask(stage, namespace, "three", "8Gi")
    event = stage.wait_event(namespace, "three", "ClaimUnschedulable", "ResourceQuotaNotFit")
    assert "8192Mi" in event["message"]
    assert "4096Mi" in event["message"]
    # What is left may be had.
    stage.run(namespace, "four", "4Gi")
    wait_used(stage, namespace, memory="20Gi", slots="3")
    stage.delete_pod("one", namespace)
    stage.wait_pod("three", namespace=namespace)
    wait_used(stage, namespace, memory="20Gi")


def test_a_quota_that_is_raised_lets_pods_run(stage: ControllerStage, namespace: str) -> None:
    stage.create(namespace, quota(cores="100"))
    stage.run(namespace, "one", "1Gi", cores=60)
    ask(stage, namespace, "two", "1Gi", 60)
    stage.wait_event(namespace, "two", "ClaimUnschedulable", "ResourceQuotaNotFit")
    stage.create(namespace, quota(cores="120"))
    stage.wait_pod("two", namespace=namespace)
    wait_used(stage, namespace, cores="120")


def test_sharers_are_counted_and_other_namespaces_are_not(stage: ControllerStage, namespace: str) -> None:
    stage.create(namespace, quota(slots="1"))
    stage.run(namespace, "one", "1Gi")
    ask(stage, namespace, "two", "1Gi")
    stage.wait_event(namespace, "two", "ClaimUnschedulable", "ResourceQuotaNotFit")
    with stage.namespace(f"{namespace}-other") as other:
        stage.run(other, "one", "1Gi")
        stage.run(other, "two", "1Gi")
    shown = stage.kubectl.output("get", "fractionquotas", "--namespace", namespace)
    assert "team" in shown
