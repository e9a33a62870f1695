"""Stateful sets: names that stay, one pod after the other, replaced from the last."""

from __future__ import annotations

from typing import Any

from fracgpu.sim.api import resources as r


def _set(**spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "s"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    base = {"replicas": 3, "selector": {"matchLabels": {"app": "s"}}, "serviceName": "s", "template": template}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"}, "spec": base | spec}


def _names(world: Any) -> list[str]:
    return sorted(pod["metadata"]["name"] for pod in world.all(r.PODS))


def _ready(world: Any, name: str) -> None:
    world.until(lambda: name in _names(world))
    world.bound(name)
    world.phase(name, "Running")


def _all_ready(world: Any) -> None:
    for name in ("s-0", "s-1", "s-2"):
        _ready(world, name)


def test_pods_come_one_after_the_other(world: Any) -> None:
    world.node("n1")
    world.apply(_set())
    for count in (1, 2, 3):
        world.until(lambda count=count: len(_names(world)) == count)
        world.quiet()
        assert _names(world) == [f"s-{index}" for index in range(count)]
        _ready(world, f"s-{count - 1}")
    world.until(lambda: world.get(r.STATEFUL_SETS, "s")["status"].get("readyReplicas") == 3)
    pod = world.get(r.PODS, "s-1")
    assert pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "1"
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("s-1", "s")


def test_in_parallel_they_come_at_once(world: Any) -> None:
    world.apply(_set(podManagementPolicy="Parallel"))
    world.until(lambda: _names(world) == ["s-0", "s-1", "s-2"])


def test_a_pod_comes_back_under_its_name(world: Any) -> None:
    world.node("n1")
    world.apply(_set())
    _all_ready(world)
    uid = world.get(r.PODS, "s-1")["metadata"]["uid"]
    world.kill("s-1")
    world.until(lambda: (pod := world.get(r.PODS, "s-1")) and pod["metadata"]["uid"] != uid)


def test_fewer_replicas_leave_from_the_last(world: Any) -> None:
    world.node("n1")
    world.apply(_set())
    _all_ready(world)
    world.change(r.STATEFUL_SETS, "s", lambda one: one["spec"].update(replicas=1))
    for name in ("s-2", "s-1"):
        world.until(lambda name=name: "deletionTimestamp" in world.get(r.PODS, name)["metadata"])
        others = [pod for pod in world.all(r.PODS) if pod["metadata"]["name"] != name]
        assert not any("deletionTimestamp" in pod["metadata"] for pod in others)
        world.kill(name)
    world.until(lambda: _names(world) == ["s-0"])


def test_another_template_replaces_them_from_the_last(world: Any) -> None:
    world.node("n1")
    world.apply(_set())
    _all_ready(world)
    containers = [{"name": "c", "image": "y"}]
    world.change(r.STATEFUL_SETS, "s", lambda one: one["spec"]["template"]["spec"].update(containers=containers))
    for name in ("s-2", "s-1", "s-0"):
        world.until(lambda name=name: "deletionTimestamp" in world.get(r.PODS, name)["metadata"])
        world.kill(name)
        world.until(lambda name=name: (pod := world.get(r.PODS, name)) and pod["spec"]["containers"][0]["image"] == "y")
        _ready(world, name)


def test_in_parallel_they_are_replaced_one_at_a_time_too(world: Any) -> None:
    world.node("n1")
    world.apply(_set(podManagementPolicy="Parallel"))
    _all_ready(world)
    containers = [{"name": "c", "image": "y"}]
    world.change(r.STATEFUL_SETS, "s", lambda one: one["spec"]["template"]["spec"].update(containers=containers))
    world.until(lambda: "deletionTimestamp" in world.get(r.PODS, "s-2")["metadata"])
    world.kill("s-2")
    world.until(lambda: (pod := world.get(r.PODS, "s-2")) and pod["spec"]["containers"][0]["image"] == "y")
    world.quiet()
    assert not any("deletionTimestamp" in pod["metadata"] for pod in world.all(r.PODS))
    _ready(world, "s-2")
    world.until(lambda: "deletionTimestamp" in world.get(r.PODS, "s-1")["metadata"])


def test_a_partition_keeps_those_before_it(world: Any) -> None:
    world.node("n1")
    world.apply(_set(updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}))
    _all_ready(world)
    containers = [{"name": "c", "image": "y"}]
    world.change(r.STATEFUL_SETS, "s", lambda one: one["spec"]["template"]["spec"].update(containers=containers))
    world.quiet()
    assert not any("deletionTimestamp" in pod["metadata"] for pod in world.all(r.PODS))
