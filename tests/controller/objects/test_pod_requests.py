"""What a pod takes of its node. The expected numbers follow Kubernetes' own rules (KEP-753, KEP-2837, KEP-1287)."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.objects.pod_requests import amount_of, pod_requests

GIB = 1024**3


@pytest.mark.parametrize(
    ("resource", "value", "amount"),
    [
        ("cpu", "1", 1000),
        ("cpu", "250m", 250),
        ("cpu", "0.0001", 1),
        ("cpu", 2, 2000),
        ("memory", "1Gi", GIB),
        ("memory", "1.5", 2),
        ("memory", "100m", 1),
        ("example.com/widget", "3", 3),
        ("memory", "junk", 0),
        ("memory", None, 0),
        ("memory", [1], 0),
    ],
)
def test_amounts_are_whole_and_rounded_up(resource: str, value: Any, amount: int) -> None:
    assert amount_of(resource, value) == amount


def _cpu(spec: Any, status: Any = None) -> int:
    return pod_requests({"spec": spec, "status": status or {}})["cpu"]


def test_containers_add_up(container: Any) -> None:
    first, second = container("a", cpu="1", memory="1Gi"), container("b", cpu="500m", **{"example.com/x": "2"})
    pod = {"spec": {"containers": [first, second]}}
    assert pod_requests(pod) == {"cpu": 1500, "memory": GIB, "example.com/x": 2}


@pytest.mark.parametrize(
    ("init", "cpu"),
    [
        # (requests, sidecar) of the init containers in order, beside containers of 1 CPU.
        ([("3", False)], 3000),
        ([("500m", False)], 1000),
        ([("2", False), ("3", False)], 3000),
        ([("1", True)], 2000),
        ([("1", True), ("3", False)], 4000),
        ([("3", False), ("1", True)], 3000),
        ([("3", True), ("1", True), ("500m", False)], 5000),
        ([("1", True), ("1", False), ("4", True)], 6000),
    ],
)
def test_init_containers_run_one_by_one_and_sidecars_stay(container: Any, init: Any, cpu: int) -> None:
    inits = [container(f"i{at}", cpu=amount, always=always) for at, (amount, always) in enumerate(init)]
    assert _cpu({"containers": [container(cpu="1")], "initContainers": inits}) == cpu


def test_overhead_is_added_after_all(container: Any) -> None:
    spec = {
        "containers": [container(cpu="1")],
        "initContainers": [container("i", cpu="3")],
        "overhead": {"cpu": "250m"},
    }
    assert _cpu(spec) == 3250


def test_pod_level_requests_replace_those_of_containers(container: Any) -> None:
    level = {"requests": {"cpu": "500m", "hugepages-2Mi": "4Mi", "example.com/x": "9"}}
    pod = {"spec": {"containers": [container(cpu="1", memory="1Gi")], "resources": level, "overhead": {"cpu": "1"}}}
    assert pod_requests(pod) == {"cpu": 1500, "memory": GIB, "hugepages-2Mi": 4 * 1024**2}


def test_limit_is_the_default_of_a_request(container: Any) -> None:
    spec = {"containers": [container(cpu="1", limits={"cpu": "2", "memory": "1Gi"})]}
    assert pod_requests({"spec": spec}) == {"cpu": 1000, "memory": GIB}


def _status(**fields: Any) -> Any:
    return {"containerStatuses": [{"name": "c", **fields}]}


@pytest.mark.parametrize(
    ("status", "cpu"),
    [
        (_status(), 2000),
        # Growing: not given yet, but promised. Shrinking: promised less, still there.
        (_status(resources={"requests": {"cpu": "1"}}, allocatedResources={"cpu": "1"}), 2000),
        (_status(resources={"requests": {"cpu": "3"}}, allocatedResources={"cpu": "2"}), 3000),
        (_status(resources={"requests": {"cpu": "2"}}, allocatedResources={"cpu": "4"}), 4000),
        # What a node will never give does not count.
        (
            _status(resources={"requests": {"cpu": "1"}}, allocatedResources={"cpu": "1"})
            | {"conditions": [{"type": "PodResizePending", "reason": "Infeasible"}]},
            1000,
        ),
        (
            _status(resources={"requests": {"cpu": "1"}}, allocatedResources={"cpu": "1"})
            | {"conditions": [{"type": "PodResizePending", "reason": "Deferred"}]},
            2000,
        ),
    ],
)
def test_resized_pod_counts_with_the_most_that_it_may_have(container: Any, status: Any, cpu: int) -> None:
    assert _cpu({"containers": [container(cpu="2")]}, status) == cpu


def test_pod_without_requests_takes_nothing() -> None:
    assert pod_requests({}) == {}
    assert pod_requests({"spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}}) == {}
