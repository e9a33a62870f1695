"""Two replicas, one of which is killed or hangs while it writes: no share is given away twice, and no pod is forgotten.

How much is given away is counted after every change of a claim by something that shares no code with the controller.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.cluster import fixtures
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.controller_stage import CLAIMS, ControllerStage, bare_stage, pod_body
from tests.cluster.eventually import eventually
from tests.cluster.hollow import HollowNode, card
from tests.cluster.lone_controller import LoneController, start_controller
from tests.cluster.machine.layout import Layout
from tests.cluster.oracle import Oracle

Json = dict[str, Any]
LEADER = "fracgpu_allocator_leader"
FAST = ("--lease-seconds=4", "--renew-seconds=3", "--retry-seconds=0.5")
# Three shares of a GPU each: 24 fit, the others wait.
NODES = [HollowNode(name=f"full-{at}", gpus=[card(2 * at + 1), card(2 * at + 2)]) for at in range(4)]
FIT, ASKED, SHARE = 24, 40, "15000Mi"


@pytest.fixture(scope="module", params=[True, False], ids=["gate-on", "gate-off"])
def stage(request: pytest.FixtureRequest, artifacts: Artifacts, layout: Layout) -> Iterator[ControllerStage]:
    name = "replicas-on" if request.param else "replicas-off"
    with bare_stage(artifacts, layout, name, number=9, gate=request.param) as running, running.nodes(*NODES):
        yield running


@pytest.fixture
def namespace(stage: ControllerStage, request: pytest.FixtureRequest) -> Iterator[str]:
    with stage.namespace(fixtures.namespace_name(request.node.name)) as name:
        yield name


class Replicas:
    """Two of them; one that is gone is started again under another name, as a Deployment does."""

    def __init__(self, stage: ControllerStage) -> None:
        self._stage = stage
        self._number = 0
        self.running = [self._start(), self._start()]

    def leader(self) -> LoneController:
        """Wait until one leads, and return it."""
        return eventually(lambda: [one for one in self.running if one.metric(LEADER) == 1], what="a leader")[0]

    def kill_leader(self) -> None:
        """Kill the one that leads, and start another."""
        leader = self.leader()
        leader.kill()
        self.running.remove(leader)
        self.running.append(self._start())

    def stop(self) -> None:
        """Stop both."""
        for one in self.running:
            one.component.stop()

    def _start(self) -> LoneController:
        self._number += 1
        return start_controller(
            self._stage.plane,
            f"replica-{self._stage.keeps_capacity}-{self._number}".lower(),
            allocator="controller",
            arguments=FAST,
        )


@pytest.fixture
def replicas(stage: ControllerStage) -> Iterator[Replicas]:
    started = Replicas(stage)
    with contextlib.ExitStack() as stack:
        stack.callback(started.stop)
        started.leader()
        yield started
    assert not any('"level":"error"' in one.log() for one in started.running)


def ask(stage: ControllerStage, namespace: str, names: list[str]) -> None:
    """Create claims and pods, more than fit."""
    bodies = [body for name in names for body in (stage.claim_body(name, SHARE), pod_body(name, name))]
    stage.create(namespace, *bodies)


def allocated(stage: ControllerStage, namespace: str) -> set[str]:
    items = stage.api.get(CLAIMS.format(namespace))["items"]
    return {item["metadata"]["name"] for item in items if "allocation" in item.get("status", {})}


def running(stage: ControllerStage, namespace: str) -> set[str]:
    items = stage.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return {item["metadata"]["name"] for item in items if item["status"]["phase"] == "Running"}


def await_full(stage: ControllerStage, namespace: str) -> None:
    """Wait until as many pods run as fit; the others wait, and have nothing."""
    eventually(lambda: len(running(stage, namespace)) == FIT, what=f"{FIT} running pods")
    assert allocated(stage, namespace) == running(stage, namespace)


@pytest.mark.parametrize("moment", [1, 5, 12, 20])
def test_the_leader_is_killed_while_it_writes(
    stage: ControllerStage, namespace: str, replicas: Replicas, moment: int
) -> None:
    names = [f"pod-{number}" for number in range(ASKED)]
    with Oracle(stage.api):
        leader = replicas.leader()
        ask(stage, namespace, names)
        eventually(lambda: len(allocated(stage, namespace)) >= moment, what=f"{moment} allocations")
        leader.kill()
        replicas.running.remove(leader)
        await_full(stage, namespace)


def _has_moved_on(oracle: Oracle, changes: int) -> bool:
    return oracle.changes >= changes


def test_leaders_are_killed_again_and_again_while_pods_come_and_go(
    stage: ControllerStage, namespace: str, replicas: Replicas
) -> None:
    choice = random.Random(5)  # noqa: S311 (moments, not secrets)
    with Oracle(stage.api) as oracle:
        for turn in range(4):
            seen, moment = oracle.changes, choice.randrange(1, 50)
            there = sorted(running(stage, namespace))
            ask(stage, namespace, [f"pod-{turn}-{number}" for number in range(ASKED // 2)])
            for name in choice.sample(there, k=len(there) // 2):
                stage.api.delete(f"/api/v1/namespaces/{namespace}/pods/{name}", {"gracePeriodSeconds": 0})
            eventually(partial(_has_moved_on, oracle, seen + moment), what=f"{moment} changes of claims")
            replicas.kill_leader()
        await_full(stage, namespace)


def test_a_leader_that_hung_and_wakes_up_gives_away_nothing_more(
    stage: ControllerStage, namespace: str, replicas: Replicas
) -> None:
    names = [f"pod-{number}" for number in range(ASKED)]
    with Oracle(stage.api):
        leader = replicas.leader()
        ask(stage, namespace, names[: ASKED // 2])
        eventually(lambda: len(allocated(stage, namespace)) >= 3, what="some allocations")
        with leader.stopped():
            # It believes that it leads when it wakes up; by then the other one has given away all there was.
            ask(stage, namespace, names[ASKED // 2 :])
            (other,) = [one for one in replicas.running if one is not leader]
            eventually(lambda: other.metric(LEADER) == 1, what="the other one leads")
            await_full(stage, namespace)
            gone = sorted(running(stage, namespace))[:6]
            for name in gone:
                stage.delete_pod(name, namespace)
        await_full(stage, namespace)
        eventually(lambda: leader.metric(LEADER) == 0, what="it has learnt that it does not lead")
        assert other.metric(LEADER) == 1
