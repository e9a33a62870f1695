"""Whether a pod may run on a node: a table of kube-scheduler's rules."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.objects.node_fit import PodNeeds, host_ports, node_facts, selects

TAINT = {"key": "k", "value": "v", "effect": "NoSchedule"}
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
AFFINITY = "node(s) didn't match Pod's node affinity/selector"


def _pod(**spec: Any) -> Any:
    return {"metadata": {"name": "p"}, "spec": spec}


def _rejects(pod: Any, node: Any, *, claims: Any = (), used: Any = None, count: int = 0, ports: Any = ()) -> str | None:
    return PodNeeds.of(pod, claims).rejects(node_facts(node), used or {}, count, ports)


def test_ready_node_with_room_takes_a_pod(node: Any, container: Any) -> None:
    assert _rejects(_pod(containers=[container(cpu="4", memory="8Gi")]), node()) is None


def test_name_is_wanted_exactly(node: Any) -> None:
    assert _rejects(_pod(nodeName="n2"), node()) == "node(s) didn't match the requested node name"
    assert _rejects(_pod(nodeName="n1"), node()) is None


@pytest.mark.parametrize(
    ("tolerations", "tolerated"),
    [
        ([], False),
        ([{"key": "k", "value": "v", "effect": "NoSchedule"}], True),
        ([{"key": "k", "operator": "Equal", "value": "v"}], True),
        ([{"key": "k", "operator": "Exists"}], True),
        ([{"operator": "Exists"}], True),
        ([{"key": "k", "operator": "Exists", "effect": "NoExecute"}], False),
        ([{"key": "k", "value": "other"}], False),
        ([{"key": "k"}], False),
        ([{"key": "other", "operator": "Exists"}], False),
        ([{"key": "k", "operator": "Gt", "value": "v"}], False),
        ([{"key": "other"}, {"key": "k", "operator": "Exists", "tolerationSeconds": 0}], True),
    ],
)
@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_taints_and_tolerations(node: Any, tolerations: Any, tolerated: bool, effect: str) -> None:
    if effect == "NoExecute":
        swap = {"NoSchedule": "NoExecute", "NoExecute": "NoSchedule"}
        tolerations = [item | {"effect": swap[item["effect"]]} if "effect" in item else item for item in tolerations]
    found = _rejects(_pod(tolerations=tolerations), node(taints=[TAINT | {"effect": effect}]))
    assert found == (None if tolerated else "node(s) had untolerated taint {k: v}")


def test_every_taint_has_to_be_tolerated_but_preferences_do_not_count(node: Any) -> None:
    pod = _pod(tolerations=[{"key": "k", "operator": "Exists"}])
    assert _rejects(pod, node(taints=[TAINT, {"key": "soft", "effect": "PreferNoSchedule"}])) is None
    assert "{other: }" in str(_rejects(pod, node(taints=[TAINT, {"key": "other", "effect": "NoExecute"}])))


def test_cordoned_node(node: Any) -> None:
    cordoned = "node(s) were unschedulable"
    key = "node.kubernetes.io/unschedulable"
    assert _rejects(_pod(), node(unschedulable=True)) == cordoned
    assert _rejects(_pod(), node(unschedulable=True, taints=[TAINT, {"key": key, "effect": "NoSchedule"}])) == cordoned
    assert _rejects(_pod(tolerations=[{"key": key, "operator": "Exists"}]), node(unschedulable=True)) is None


@pytest.mark.parametrize(
    ("ready", "taints", "key"),
    [
        ("False", [], "node.kubernetes.io/not-ready"),
        (None, [], "node.kubernetes.io/not-ready"),
        ("Unknown", [], "node.kubernetes.io/unreachable"),
        ("False", [NOT_READY], "node.kubernetes.io/not-ready"),
        ("True", [NOT_READY], "node.kubernetes.io/not-ready"),
    ],
)
def test_node_that_is_not_ready_is_as_good_as_tainted(node: Any, ready: Any, taints: Any, key: str) -> None:
    there = node(ready=ready, taints=taints)
    assert _rejects(_pod(), there) == "node(s) were not ready"
    # What every pod has: it stays for a while, it does not come.
    stays = [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]
    assert _rejects(_pod(tolerations=stays), there) == "node(s) were not ready"
    comes = [{"key": key, "operator": "Exists", "effect": "NoSchedule"}]
    assert _rejects(_pod(tolerations=comes), there) is None


def test_deleted_node(node: Any) -> None:
    assert _rejects(_pod(tolerations=[{"operator": "Exists"}]), node(deleting=True)) == "node(s) were being deleted"


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ({}, True),
        ({"zone": "a"}, True),
        ({"zone": "b"}, False),
        ({"zone": "a", "disk": "ssd"}, False),
        ({"x": ""}, False),
    ],
)
def test_node_selector_of_a_pod(node: Any, wanted: Any, holds: bool) -> None:
    assert _rejects(_pod(nodeSelector=wanted), node(labels={"zone": "a"})) == (None if holds else AFFINITY)


def _label(key: str, operator: str, *values: str) -> Any:
    return {"matchExpressions": [{"key": key, "operator": operator} | ({"values": list(values)} if values else {})]}


def _name(operator: str, *values: str, key: str = "metadata.name") -> Any:
    return {"matchFields": [{"key": key, "operator": operator, "values": list(values)}]}


TERMS: Any = [
    ([_label("zone", "In", "a", "b")], True),
    ([_label("zone", "In", "b")], False),
    ([_label("none", "In", "a")], False),
    ([_label("zone", "In")], False),
    ([_label("zone", "NotIn", "b")], True),
    ([_label("zone", "NotIn", "a")], False),
    ([_label("none", "NotIn", "a")], True),
    ([_label("zone", "NotIn")], False),
    ([_label("zone", "Exists")], True),
    ([_label("none", "Exists")], False),
    ([_label("zone", "Exists", "a")], False),
    ([_label("none", "DoesNotExist")], True),
    ([_label("zone", "DoesNotExist")], False),
    ([_label("gpus", "Gt", "3")], True),
    ([_label("gpus", "Gt", "4")], False),
    ([_label("gpus", "Lt", "5")], True),
    ([_label("gpus", "Lt", "4")], False),
    ([_label("gpus", "Gt", "3", "2")], False),
    ([_label("gpus", "Gt", "3.5")], False),
    ([_label("zone", "Gt", "3")], False),
    ([_label("none", "Lt", "3")], False),
    ([_label("zone", "Near", "a")], False),
    ([_name("In", "n1")], True),
    ([_name("In", "n2")], False),
    ([_name("NotIn", "n2")], True),
    ([_name("NotIn", "n1")], False),
    ([_name("In", "n1", "n2")], False),
    ([_name("Exists", "n1")], False),
    ([_name("In", "n1", key="metadata.uid")], False),
    ([_label("zone", "In", "a") | _name("In", "n1")], True),
    ([_label("zone", "In", "a") | _name("In", "n2")], False),
    ([_label("zone", "In", "b") | _name("In", "n1")], False),
    ([_label("zone", "In", "b"), _name("In", "n1")], True),
    ([{}], False),
    ([{"matchExpressions": [], "matchFields": []}], False),
    ([], False),
    ([{"matchExpressions": "junk", **_name("In", "n1")}], False),
    ([{"matchExpressions": [None], **_name("In", "n1")}], False),
    ("junk", False),
]


@pytest.mark.parametrize(("terms", "holds"), TERMS)
def test_node_selector_terms(node: Any, terms: Any, holds: bool) -> None:
    there = node(labels={"zone": "a", "gpus": "4"})
    selector = {"nodeSelectorTerms": terms}
    assert selects(selector, node_facts(there)) is holds
    required = {"requiredDuringSchedulingIgnoredDuringExecution": selector}
    found = _rejects(_pod(affinity={"nodeAffinity": required}), there)
    assert found == (None if holds else AFFINITY)


def test_no_selector_takes_every_node_and_preferences_do_not_count(node: Any) -> None:
    assert selects(None, node_facts(node()))
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": _name("In", "n2")}]}
    assert _rejects(_pod(affinity={"nodeAffinity": preferred}), node()) is None


def test_selector_and_affinity_both_have_to_hold(node: Any) -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_name("In", "n1")]}}
    pod = _pod(nodeSelector={"zone": "b"}, affinity={"nodeAffinity": required})
    assert _rejects(pod, node(labels={"zone": "a"})) == AFFINITY
    assert _rejects(pod, node(labels={"zone": "b"})) is None


@pytest.mark.parametrize(
    ("requests", "used", "missing"),
    [
        ({"cpu": "4"}, {}, None),
        ({"cpu": "4001m"}, {}, "Insufficient cpu"),
        ({"cpu": "1"}, {"cpu": 3000}, None),
        ({"cpu": "1"}, {"cpu": 3001}, "Insufficient cpu"),
        ({"memory": "8Gi"}, {"memory": 1}, "Insufficient memory"),
        ({"cpu": "5", "memory": "9Gi"}, {}, "Insufficient cpu, Insufficient memory"),
        ({"ephemeral-storage": "1"}, {}, "Insufficient ephemeral-storage"),
        ({"example.com/x": "1"}, {}, "Insufficient example.com/x"),
        ({"example.com/x": "0"}, {}, None),
        # A node that is overfull already still takes a pod that asks for nothing of it.
        ({"memory": "1Gi"}, {"cpu": 9000}, None),
        ({"cpu": "0"}, {"cpu": 9000}, None),
    ],
)
def test_resources(node: Any, container: Any, requests: Any, used: Any, missing: str | None) -> None:
    assert _rejects(_pod(containers=[container(**requests)]), node(), used=used) == missing


def test_number_of_pods(node: Any) -> None:
    assert _rejects(_pod(), node(), count=9) is None
    assert _rejects(_pod(), node(), count=10) == "Too many pods"
    assert _rejects(_pod(), node(allocatable={})) == "Too many pods"


def test_pod_that_names_its_node_meets_only_the_kubelet(node: Any, container: Any) -> None:
    pod = _pod(nodeName="n1", nodeSelector={"zone": "a"}, containers=[container(cpu="64")])
    # It is among the pods there already, and nobody asks whether the node takes more.
    full = node(unschedulable=True, taints=[TAINT], labels={"zone": "a"})
    assert _rejects(pod, full, used={"cpu": 64000}, count=10) is None
    assert _rejects(pod, node(labels={"zone": "b"})) == AFFINITY
    evicts = node(labels={"zone": "a"}, taints=[TAINT | {"effect": "NoExecute"}])
    assert _rejects(pod, evicts) == "node(s) had untolerated taint {k: v}"


def _port(number: int, **more: Any) -> Any:
    return {"containerPort": number, "hostPort": number, **more}


@pytest.mark.parametrize(
    ("taken", "collides"),
    [
        ([], False),
        ([("0.0.0.0", "TCP", 80)], True),
        ([("10.0.0.1", "TCP", 80)], True),
        ([("0.0.0.0", "UDP", 80)], False),
        ([("0.0.0.0", "TCP", 81)], False),
    ],
)
def test_host_ports(node: Any, taken: Any, collides: bool) -> None:
    pod = _pod(containers=[{"ports": [_port(80), {"containerPort": 81}]}])
    found = _rejects(pod, node(), ports=taken)
    assert found == ("node(s) didn't have free ports for the requested pod ports" if collides else None)


def test_which_ports_are_the_hosts() -> None:
    containers = [{"ports": [_port(80, hostIP="10.0.0.1", protocol="UDP"), {"containerPort": 81}]}]
    sidecar = {"restartPolicy": "Always", "ports": [_port(90)]}
    pod = _pod(containers=containers, initContainers=[{"ports": [_port(70)]}, sidecar])
    assert host_ports(pod) == {("10.0.0.1", "UDP", 80), ("0.0.0.0", "TCP", 90)}
    assert host_ports(_pod(containers=containers, hostNetwork=True)) == {
        ("10.0.0.1", "UDP", 80),
        ("0.0.0.0", "TCP", 81),
    }
    one, other = ("10.0.0.1", "TCP", 80), ("10.0.0.2", "TCP", 80)
    needs = PodNeeds.of(_pod(containers=[{"ports": [_port(80, hostIP=one[0])]}]))
    facts = node_facts({"status": {"allocatable": {"pods": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}})
    assert needs.rejects(facts, {}, 0, [other]) is None
    assert needs.rejects(facts, {}, 0, [one]) is not None


def test_allocated_claims_of_any_driver_bind_the_pod(node: Any) -> None:
    def allocated(*nodes: str) -> Any:
        return {
            "status": {"allocation": {"nodeSelector": {"nodeSelectorTerms": [_name("In", name) for name in nodes]}}}
        }

    assert _rejects(_pod(), node(), claims=[{}, {"status": {"allocation": {}}}, allocated("n2", "n1")]) is None
    found = _rejects(_pod(), node(), claims=[allocated("n1"), allocated("n2")])
    assert found == "resourceclaim not available on the node"


def test_cause_that_comes_first_is_told(node: Any, container: Any) -> None:
    pod = _pod(nodeSelector={"zone": "b"}, containers=[container(cpu="9")])
    assert "taint" in str(_rejects(pod, node(taints=[TAINT])))
    assert _rejects(pod, node()) == AFFINITY
    assert _rejects(pod, node(labels={"zone": "b"})) == "Insufficient cpu"
