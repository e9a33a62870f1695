"""One deadline for all that a call waits for, looked at before the first change."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from fracgpu.driver.kube.errors import Unavailable
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.errors import DeadlineExceeded
from fracgpu.kubeletplugin.prepare.deadline import CALL_SECONDS, Deadline
from fracgpu.kubeletplugin.prepare.plan import plan_prepare


def test_a_deadline_runs_down_and_says_what_took_so_long(world: Any) -> None:
    deadline = Deadline(40, clock=world.clock)
    assert deadline.remaining_seconds == 40
    world.clock.seconds += 39.5
    assert deadline.remaining_seconds == 0.5
    deadline.check("claim ns/a", "the API server")
    world.clock.seconds += 0.5
    with pytest.raises(DeadlineExceeded) as error:
        deadline.check("claim ns/a", "the API server")
    assert str(error.value) == (
        "claim ns/a: took longer than 40 s, the last of it for the API server; "
        "it is tried again; look at what is slow on this node if it lasts"
    )
    world.clock.seconds += 100
    assert deadline.remaining_seconds == 0


@pytest.mark.parametrize(
    ("remaining", "seconds"), [(None, 40), (45.0, 40), (60.0, 40), (30.0, 25), (4.0, 0), (-1.0, 0)]
)
def test_what_the_kubelet_waits_for_limits_a_call(remaining: float | None, seconds: float) -> None:
    left = Deadline.of_call(remaining).remaining_seconds
    assert seconds - 5 < left <= seconds if seconds else left == 0


def slow(world: Any, what: str, seconds: float) -> None:
    """Make one of the things that Prepare waits for take so long."""
    if what == "the API server":
        get = world.cluster.get_claim

        def get_claim(*arguments: Any, **options: Any) -> Any:
            world.clock.seconds += seconds
            return get(*arguments, **options)

        world.cluster.get_claim = get_claim
    else:
        list_gpus = world.inventory.list_gpus

        def slow_list() -> Any:
            world.clock.seconds += seconds
            return list_gpus()

        world.inventory.list_gpus = slow_list


@pytest.mark.parametrize("what", ["the API server", "the list of GPUs"])
def test_a_call_that_is_too_late_changes_nothing(world: Any, what: str) -> None:
    ref, preparer = world.claim(), world.preparer()
    slow(world, what, 41)
    with pytest.raises(DeadlineExceeded, match=f"claim ns/c1: took longer than 40 s, the last of it for {what}"):
        preparer.prepare(ref, Deadline(clock=world.clock))
    assert world.residue() == []
    assert world.entries() == {}


def test_a_call_that_waited_too_long_for_its_thread_does_nothing(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    with pytest.raises(DeadlineExceeded, match="took longer than 0 s, the last of it for waiting for its turn"):
        preparer.prepare(ref, Deadline.of_call(3.0))
    preparer.prepare(ref)
    with pytest.raises(DeadlineExceeded, match="the last of it for the node lock"):
        preparer.unprepare(ref, Deadline.of_call(3.0))
    assert set(world.entries()) == {ref.uid}


def test_the_time_after_planning_counts_too(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look is directly before the first change."""
    from fracgpu.kubeletplugin.prepare import preparer as module

    ref, preparer = world.claim(), world.preparer()

    def slow_plan(*arguments: Any) -> Any:
        world.clock.seconds += 41
        return plan_prepare(*arguments)

    monkeypatch.setattr(module, "plan_prepare", slow_plan)
    with pytest.raises(DeadlineExceeded, match="the last of it for planning"):
        preparer.prepare(ref, Deadline(clock=world.clock))
    assert world.residue() == []
    assert world.entries() == {}


def test_the_api_server_gets_the_time_that_is_left(world: Any) -> None:
    given: list[float | None] = []
    get = world.cluster.get_claim

    def get_claim(namespace: str, name: str, *, timeout_seconds: float | None = None) -> Any:
        given.append(timeout_seconds)
        return get(namespace, name)

    world.cluster.get_claim = get_claim
    deadline = Deadline(clock=world.clock)
    world.clock.seconds += 30
    world.preparer().prepare(world.claim(), deadline)
    assert given == [CALL_SECONDS - 30]


def test_an_api_server_that_does_not_answer_costs_no_more_than_that(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kubeconfig = tmp_path / "kubeconfig"
        server = {"server": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        context = {"cluster": "c", "user": "u"}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": server}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": context}],
            "current-context": "x",
        }
        kubeconfig.write_text(json.dumps(document))
        cluster = KubernetesCluster(kubeconfig)
        with pytest.raises(Unavailable, match="timed out"):
            cluster.get_claim("ns", "c1", timeout_seconds=0.05)
        cluster.close()


def test_unprepare_asks_neither_the_driver_nor_the_api_server(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked")

    world.inventory.list_gpus = world.cluster.get_claim = never
    assert preparer.unprepare(ref).known
