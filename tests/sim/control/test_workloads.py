"""Deployments and jobs."""

from __future__ import annotations

import copy
from typing import Any

from fracgpu.sim.api import resources as r
from fracgpu.sim.api.objects import name_of
from fracgpu.sim.control.cluster import Cluster
from fracgpu.sim.control.replicas import DeploymentController

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "d"},
    "spec": {
        "replicas": 3,
        "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}},
    },
}


def _job(**spec: Any) -> dict[str, Any]:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template, **spec}}


def _pods(world: Any, image: str = "x") -> list[dict[str, Any]]:
    pods = [pod for pod in world.all(r.PODS) if "deletionTimestamp" not in pod["metadata"]]
    return [pod for pod in pods if pod["spec"]["containers"][0]["image"] == image]


def _scale(world: Any, **changes: Any) -> None:
    world.change(r.DEPLOYMENTS, "d", lambda deployment: deployment["spec"].update(changes))


def _run_all(world: Any) -> None:
    for pod in _pods(world):
        world.bound(pod["metadata"]["name"])
        world.phase(pod["metadata"]["name"], "Running")


def test_deployment_makes_replicas_and_reports_them(world: Any) -> None:
    world.node("n1")
    world.apply(DEPLOYMENT)
    world.until(lambda: len(_pods(world)) == 3)
    _run_all(world)
    status = world.until(lambda: (found := world.get(r.DEPLOYMENTS, "d")["status"]).get("readyReplicas") == 3 and found)
    assert (status["replicas"], status["availableReplicas"], status["observedGeneration"]) == (3, 3, 1)
    assert status["conditions"][0]["type"] == "Available"
    replica_set = world.all(r.REPLICA_SETS)[0]
    pod = _pods(world)[0]
    digest = pod["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"d-{digest}"
    assert pod["metadata"]["name"].startswith(f"d-{digest}-")
    assert pod["metadata"]["ownerReferences"][0]["uid"] == replica_set["metadata"]["uid"]
    before = world.quiet()
    assert world.quiet() == before


def test_deployment_scales_both_ways(world: Any) -> None:
    world.node("n1")
    world.apply(DEPLOYMENT)
    world.until(lambda: len(_pods(world)) == 3)
    _scale(world, replicas=5)
    world.until(lambda: len(_pods(world)) == 5)
    _scale(world, replicas=1)
    world.until(lambda: len(_pods(world)) == 1)


def test_ended_and_deleted_pods_are_replaced(world: Any) -> None:
    world.node("n1")
    world.apply(DEPLOYMENT)
    world.until(lambda: len(_pods(world)) == 3)
    _run_all(world)
    first, second = (pod["metadata"]["name"] for pod in _pods(world)[:2])
    world.phase(first, "Failed")
    world.kill(second)
    world.until(lambda: len([pod for pod in _pods(world) if pod["status"]["phase"] != "Failed"]) == 3)
    assert world.get(r.PODS, second) is None


def test_new_template_replaces_the_pods(world: Any) -> None:
    world.apply(DEPLOYMENT)
    world.until(lambda: len(_pods(world)) == 3)
    template = DEPLOYMENT["spec"]["template"]
    changed = template | {"spec": {"containers": [{"name": "c", "image": "y"}]}}
    _scale(world, template=changed)
    world.until(lambda: len(_pods(world, "y")) == 3 and not _pods(world))
    assert sorted(item["spec"]["replicas"] for item in world.all(r.REPLICA_SETS)) == [0, 3]


def test_deleting_a_deployment_takes_everything_along(world: Any, make_claim: Any) -> None:
    world.apply(DEPLOYMENT)
    world.until(lambda: len(_pods(world)) == 3)
    world.client.delete(r.DEPLOYMENTS, world.get(r.DEPLOYMENTS, "d"))
    world.until(lambda: not world.all(r.PODS) and not world.all(r.REPLICA_SETS))


def test_job_completes(world: Any) -> None:
    world.node("n1")
    world.apply(_job(completions=2))
    done: set[str] = set()
    for _ in range(2):
        pod = world.until(lambda: [pod for pod in _pods(world) if pod["metadata"]["name"] not in done])[0]
        world.bound(pod["metadata"]["name"])
        assert len(_pods(world)) == len(done) + 1, "parallelism is 1"
        world.phase(pod["metadata"]["name"], "Succeeded")
        done.add(pod["metadata"]["name"])
    status = world.until(lambda: (found := world.get(r.JOBS, "j")["status"]).get("completionTime") and found)
    assert (status["succeeded"], status["conditions"][0]["type"]) == (2, "Complete")
    assert "active" not in status
    world.quiet()
    assert len(_pods(world)) == 2


def test_job_gives_up_after_its_backoff_limit(world: Any) -> None:
    world.node("n1")
    world.apply(_job(backoffLimit=1))
    failed: set[str] = set()
    for _ in range(2):
        pod = world.until(lambda: [pod for pod in _pods(world) if pod["metadata"]["name"] not in failed])[0]
        world.bound(pod["metadata"]["name"])
        world.phase(pod["metadata"]["name"], "Failed")
        failed.add(pod["metadata"]["name"])
    conditions = world.until(lambda: world.get(r.JOBS, "j")["status"].get("conditions"))
    assert (conditions[0]["type"], conditions[0]["reason"]) == ("Failed", "BackoffLimitExceeded")
    world.quiet()
    assert len(world.all(r.PODS)) == 2


def test_deleting_a_job_takes_its_pods_along(world: Any) -> None:
    world.apply(_job())
    world.until(lambda: _pods(world))
    world.client.delete(r.JOBS, world.get(r.JOBS, "j"))
    world.until(lambda: not world.all(r.PODS))


def test_an_update_rolls_as_far_as_new_pods_are_ready(world: Any) -> None:
    world.node("n1")
    world.apply(DEPLOYMENT)
    world.until(lambda: len(_pods(world)) == 3)
    _run_all(world)
    containers = [{"name": "c", "image": "y"}]
    world.change(r.DEPLOYMENTS, "d", lambda one: one["spec"]["template"]["spec"].update(containers=containers))
    # One more than wanted, as a quarter of three is rounded up, and none of the old ones fewer: rounded down.
    world.until(lambda: len(_pods(world, "y")) == 1)
    world.quiet()
    assert (len(_pods(world, "y")), len(_pods(world, "x"))) == (1, 3)
    for old_left in (2, 1, 0):
        (fresh,) = [pod for pod in _pods(world, "y") if pod["status"].get("phase") != "Running"]
        world.bound(fresh["metadata"]["name"])
        world.phase(fresh["metadata"]["name"], "Running")
        world.until(lambda old_left=old_left: len(_pods(world, "x")) == old_left)
        world.quiet()
    assert len(_pods(world, "y")) == 3


def test_to_recreate_is_to_remove_first(world: Any) -> None:
    world.node("n1")
    world.apply(DEPLOYMENT | {"spec": DEPLOYMENT["spec"] | {"strategy": {"type": "Recreate"}}})
    world.until(lambda: len(_pods(world)) == 3)
    _run_all(world)
    names = [pod["metadata"]["name"] for pod in _pods(world)]
    containers = [{"name": "c", "image": "y"}]
    world.change(r.DEPLOYMENTS, "d", lambda one: one["spec"]["template"]["spec"].update(containers=containers))
    world.until(lambda: not _pods(world))
    assert _pods(world, "y") == []
    for name in names:
        world.kill(name)
    world.until(lambda: len(_pods(world, "y")) == 3)


def test_old_pods_are_not_counted_twice_while_a_status_is_behind(start: Any) -> None:
    cluster = Cluster(start(control_plane=False).server.url)
    controller = DeploymentController(cluster)
    cluster.start()
    try:
        cluster.create(r.DEPLOYMENTS, "default", DEPLOYMENT)
        controller.reconcile()
        (old,) = cluster.all(r.REPLICA_SETS)
        cluster.change_status(r.REPLICA_SETS, old, replicas=3, readyReplicas=3)
        (deployment,) = copy.deepcopy(cluster.all(r.DEPLOYMENTS))
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "y"
        cluster.update(r.DEPLOYMENTS, deployment)
        controller.reconcile()
        (fresh,) = (one for one in cluster.all(r.REPLICA_SETS) if name_of(one) != name_of(old))
        cluster.change_status(r.REPLICA_SETS, fresh, replicas=1, readyReplicas=1)
        # Nobody is there who would report that an old one is gone.
        for _ in range(3):
            controller.reconcile()
        left = cluster.get(r.REPLICA_SETS, "default", name_of(old))
        assert left is not None
        assert (left["spec"]["replicas"], left["status"]["readyReplicas"]) == (2, 3)
    finally:
        cluster.stop()
