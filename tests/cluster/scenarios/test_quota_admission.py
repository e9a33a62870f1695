"""Quotas where kube-scheduler allocates: the shipped controller counts, the shipped policy refuses, a real API server.

What a policy compares with was written a moment ago, so claims that come all at once can get in beyond the quota. How
many is measured here and told in docs/user/quota.md; that it ends, and that it is told, is asserted.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from fracgpu.driver.quantity import quantity_bytes
from tests.cluster import fixtures
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.controller_stage import CLAIMS, ControllerStage, bare_stage, claim_body, pod_body
from tests.cluster.hollow import HollowNode, card
from tests.cluster.lone_controller import LoneController, lone_controller
from tests.cluster.machine.layout import Layout

Json = dict[str, Any]
GIB = 1024**3
QUOTAS = "/apis/gpu.fracgpu.dev/v1alpha1/namespaces/{}/fractionquotas"
LIMIT = 5
"""Claims that fit."""


@pytest.fixture(scope="module")
def stage(artifacts: Artifacts, layout: Layout) -> Iterator[ControllerStage]:
    with (
        bare_stage(artifacts, layout, "quota-admission", number=11, gate=True) as running,
        running.nodes(HollowNode(name="big", gpus=[card(1), card(2), card(3)], allocator="scheduler")),
    ):
        yield running


@pytest.fixture(scope="module")
def controller(stage: ControllerStage) -> Iterator[LoneController]:
    with lone_controller(stage.plane, "quota-controller", allocator="scheduler") as running:
        yield running


@pytest.fixture
def namespace(stage: ControllerStage, controller: LoneController, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace with a quota of `LIMIT` claims of 1Gi, which the controller has looked at."""
    assert controller.pid
    quota = {
        "apiVersion": "gpu.fracgpu.dev/v1alpha1",
        "kind": "FractionQuota",
        "metadata": {"name": "team"},
        "spec": {"hard": {"memory": f"{LIMIT}Gi"}},
    }
    with stage.namespace(fixtures.namespace_name(request.node.name)) as name:
        stage.create(name, quota)
        wait_used(stage, name, 0)
        # The API server takes a moment to know it, too.
        stage.plane.wait(lambda: "too little left" in ask(stage, name, "probe", LIMIT + 1), what="a quota in force")
        yield name


def status(stage: ControllerStage, namespace: str) -> Json:
    found: Json = stage.api.get(f"{QUOTAS.format(namespace)}/team").get("status", {})
    return found


def exceeded(stage: ControllerStage, namespace: str) -> Json:
    return next((one for one in status(stage, namespace).get("conditions", []) if one["type"] == "Exceeded"), {})


def wait_used(stage: ControllerStage, namespace: str, gib: int) -> None:
    def reached() -> bool:
        used = status(stage, namespace).get("used", {}).get("memory")
        return used is not None and quantity_bytes(used) == gib * GIB

    stage.plane.wait(reached, what=f"status.used of {gib}Gi")


def ask(stage: ControllerStage, namespace: str, name: str, gib: int = 1) -> str:
    """Create a claim that no pod uses; return why it was refused, empty if it was not."""
    body = claim_body(name, f"{gib}Gi", keeps_capacity=True)
    return stage.plane.admin.send("POST", CLAIMS.format(namespace), body).verdict[2]


def claims(stage: ControllerStage, namespace: str) -> list[Json]:
    found: list[Json] = stage.api.get(CLAIMS.format(namespace))["items"]
    return found


def test_claims_count_while_they_wait_and_when_they_are_allocated(stage: ControllerStage, namespace: str) -> None:
    assert status(stage, namespace)["enforcedAt"] == "Admission"
    for number in range(LIMIT - 1):
        assert ask(stage, namespace, f"c{number}") == ""
    wait_used(stage, namespace, LIMIT - 1)
    refusal = ask(stage, namespace, "large", 2)
    numbers = f"memory: asked 2048Mi, used {1024 * (LIMIT - 1)}Mi of {1024 * LIMIT}Mi"
    assert f"FractionQuota team has too little left: {numbers}" in refusal
    # An allocation changes nothing of the sum: what was asked for is what is granted.
    stage.create(namespace, pod_body("p", "c0"))
    stage.wait_pod("p", namespace=namespace)
    assert stage.claim("c0", namespace)["status"]["allocation"]
    wait_used(stage, namespace, LIMIT - 1)
    # Gone, there is room for others.
    stage.api.delete(f"{CLAIMS.format(namespace)}/c1")
    wait_used(stage, namespace, LIMIT - 2)
    stage.plane.wait(lambda: ask(stage, namespace, "large", 2) == "", what="a claim for what became free")
    wait_used(stage, namespace, LIMIT)
    assert exceeded(stage, namespace)["status"] == "False"


def tell(capsys: pytest.CaptureFixture[str], measured: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{measured}\n")


def check_the_end(stage: ControllerStage, namespace: str) -> int:
    """Wait until the status has caught up; return how many claims got in."""
    stage.plane.wait(
        lambda: status(stage, namespace).get("used", {}).get("memory") == f"{len(claims(stage, namespace))}Gi",
        what="a status that counts every claim",
    )
    stage.plane.wait(lambda: "too little left" in ask(stage, namespace, "late"), what="the end of the window")
    admitted = len(claims(stage, namespace))
    wait_used(stage, namespace, admitted)
    assert admitted >= LIMIT
    found = exceeded(stage, namespace)
    assert found["status"] == ("True" if admitted > LIMIT else "False")
    if admitted > LIMIT:
        assert found["message"] == f"memory: {admitted}Gi of {LIMIT}Gi used"
        stage.wait_event(namespace, "team", "QuotaExceeded", f"of {LIMIT}Gi used")
    return admitted


def test_a_deployment_scaled_at_once_soon_meets_the_quota(
    stage: ControllerStage, namespace: str, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = claim_body("t", "1Gi", keeps_capacity=True)["spec"]
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "t"},
        "spec": {"spec": spec},
    }
    pod = pod_body("p", template="t", restartPolicy="Always")["spec"]
    labels = {"app": "burst"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "burst"},
        "spec": {
            "replicas": 100,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    stage.create(namespace, template, deployment)
    refused = f"/api/v1/namespaces/{namespace}/events?fieldSelector=reason%3DFailedResourceClaimCreation"
    stage.plane.wait(lambda: stage.api.get(refused)["items"], what="a pod whose claim is refused")
    admitted = check_the_end(stage, namespace)
    times = sorted(one["metadata"]["creationTimestamp"] for one in claims(stage, namespace))
    record_property("admitted", admitted)
    tell(capsys, f"Deployment of 100: {admitted} claims where {LIMIT} fit; first {times[0]}, last {times[-1]}")
    assert admitted < 100


def test_claims_created_as_fast_as_can_be_soon_meet_the_quota(
    stage: ControllerStage, namespace: str, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    began = datetime.now(UTC)
    over = threading.Event()

    def hammer(worker: int) -> float:
        last = 0.0
        for number in range(1000):
            if over.is_set():
                break
            if ask(stage, namespace, f"w{worker}-{number}"):
                over.set()
            else:
                last = (datetime.now(UTC) - began).total_seconds()
        return last

    with ThreadPoolExecutor(8) as pool:
        last = max(pool.map(hammer, range(8)))
    admitted = check_the_end(stage, namespace)
    record_property("admitted", admitted)
    tell(capsys, f"8 clients: {admitted} claims where {LIMIT} fit, within {last:.2f} s")
    assert over.is_set()
