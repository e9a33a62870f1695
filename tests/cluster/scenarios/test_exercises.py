"""The lab's five exercises, unchanged, on real components: who passes them in the lab has to pass them here.

They build on each other, as they do in the lab, so they share a namespace and run in order: once with our controller,
once with kube-scheduler. `.ci/run` has the controller pass them again with DRAConsumableCapacity off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fracgpu.sim.lab import e5_mechanism, report
from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.lab.evidence import Evidence
from fracgpu.sim.lab.node import NodeUnderTest
from fracgpu.sim.lab.run import EXERCISES, run_exercise
from fracgpu.sim.lab.stage import Stage
from fracgpu.sim.node.api import Json
from tests.cluster import fixtures
from tests.cluster.cluster import Cluster
from tests.cluster.node import ClusterNode


@pytest.fixture(scope="module", params=fixtures.EACH_ALLOCATOR)
def stage(
    any_cluster: ClusterUnderTest, any_node: NodeUnderTest | None, request: pytest.FixtureRequest
) -> Iterator[Stage]:
    with any_cluster.namespace(fixtures.namespace_name("exercises")) as name:
        prepared = Stage.prepare(any_cluster, node=any_node, namespace=name)
        assert prepared.allocator == request.param
        if not fixtures.KUBECONFIG:
            assert prepared.keeps_capacity == fixtures.GATES.get("DRAConsumableCapacity", True)
        yield prepared


@pytest.mark.parametrize("number", range(1, len(EXERCISES) + 1))
def test_exercise(stage: Stage, number: int) -> None:
    outcome = run_exercise(number, stage)
    assert outcome.passed, report.details([outcome])
    assert len(outcome.evidence.checks) >= 4


def test_what_the_plugin_is_refused_would_fail_the_fifth_exercise(cluster: Cluster, namespace: str) -> None:
    """It logs every refusal, so a right that deploy/ forgot to give could not go unnoticed here."""
    node = ClusterNode(cluster)
    stage = Stage.prepare(cluster, node=node, namespace=namespace)
    with without_rule(cluster, "resourceclaims"):
        cluster.apply(stage.manifest("waiting", 1024), namespace)
        cluster.wait_for(f"/api/v1/namespaces/{namespace}/events", _refused, what="a Prepare that fails")
        evidence = Evidence()
        e5_mechanism.check_rights("the plugin", node.plugin_rights(), evidence)
    assert [check.held for check in evidence.checks] == [False]
    assert "resourceclaims" in evidence.checks[0].seen


def _refused(events: dict[str, Json]) -> bool | None:
    messages = [event["message"] for event in events.values() if event["reason"] == "FailedPrepareDynamicResources"]
    return True if any("forbidden" in message for message in messages) else None


@contextmanager
def without_rule(cluster: Cluster, resource: str) -> Iterator[None]:
    """Take the plugin's rule about one resource away for a while."""
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/fracgpu-kubeletplugin"
    role = cluster.api.get(path)
    del role["metadata"]["resourceVersion"]
    rules = [rule for rule in role["rules"] if rule["resources"] != [resource]]
    assert len(rules) == len(role["rules"]) - 1
    cluster.api.replace(path, role | {"rules": rules})
    try:
        yield
    finally:
        cluster.api.replace(path, role)
