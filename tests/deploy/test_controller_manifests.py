"""The controller's Deployment fits the code that it starts, and its mode is one for the whole cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fracgpu.controller.options import DEFAULT_LEASE, DEFAULT_NAMESPACE, ControllerOptions
from fracgpu.sim import manifests
from tests.deploy.controller_rights import ACCOUNT, NAMESPACE

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
Json = dict[str, Any]


def documents(name: str) -> dict[str, Json]:
    return {str(obj["kind"]): dict(obj) for obj in manifests.load(manifests.shipped(name))}


@pytest.fixture
def deployment() -> Json:
    return documents("controller.yaml")["Deployment"]


@pytest.fixture
def pod(deployment: Json) -> Json:
    spec: Json = deployment["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: Json) -> Json:
    (found,) = pod["containers"]
    return dict(found)


@pytest.fixture
def options(container: Json, monkeypatch: pytest.MonkeyPatch) -> ControllerOptions:
    """What the controller makes of the arguments and variables that the manifest gives it."""
    for entry in container["env"]:
        field = entry["valueFrom"]["fieldRef"]["fieldPath"]
        monkeypatch.setenv(entry["name"], {"metadata.name": "pod-1", "metadata.namespace": "ns-1"}[field])
    command, *arguments = container["args"]
    assert (container["command"], command) == (["fracgpu"], "controller")
    return ControllerOptions.from_argv(arguments)


def test_the_controller_starts_with_these_arguments(options: ControllerOptions) -> None:
    assert (options.identity, options.namespace) == ("pod-1", "ns-1")
    assert options.kubeconfig is None
    assert options.log_json
    assert options.allocator == "controller"


def test_the_port_is_the_one_that_is_probed(container: Json, options: ControllerOptions) -> None:
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("http", options.http_port)
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


def test_it_has_no_rights_on_the_node(pod: Json, container: Json) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostPID", "hostNetwork", "hostIPC", "volumes"} & set(pod)


def test_there_is_one_to_take_over(deployment: Json, pod: Json) -> None:
    assert deployment["spec"]["replicas"] == 2
    budget = documents("controller.yaml")["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == deployment["spec"]["selector"]
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    # The Lease is given back only by who is given the time to.
    assert pod["terminationGracePeriodSeconds"] >= 30


def test_the_account_is_the_one_that_the_roles_name(pod: Json) -> None:
    assert pod["serviceAccountName"] == ACCOUNT
    rbac = documents("controller-rbac.yaml")
    account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    for kind in ("ClusterRole", "Role"):
        binding = rbac[f"{kind}Binding"]
        assert binding["subjects"] == [account]
        assert binding["roleRef"]["name"] == rbac[kind]["metadata"]["name"]
    assert NAMESPACE == DEFAULT_NAMESPACE
    names = [rule.get("resourceNames") for rule in rbac["Role"]["rules"]]
    assert [name for name in names if name] == [[DEFAULT_LEASE]]


def workloads() -> dict[str, Json]:
    return {
        "Deployment": documents("controller.yaml")["Deployment"],
        "DaemonSet": documents("kubelet-plugin.yaml")["DaemonSet"],
    }


def allocator_of(workload: Json) -> str:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    (flag,) = [argument for argument in container["args"] if argument.startswith("--allocator=")]
    return str(flag.partition("=")[2])


def test_plugin_and_controller_agree_who_allocates() -> None:
    assert {allocator_of(workload) for workload in workloads().values()} == {"controller"}


def test_scheduler_mode_changes_both() -> None:
    component = yaml.safe_load((DEPLOY / "scheduler-mode" / "kustomization.yaml").read_text())
    assert component["kind"] == "Component"
    changed = workloads()
    for patch in component["patches"]:
        workload = changed[patch["target"]["kind"]]
        assert workload["metadata"]["name"] == patch["target"]["name"]
        for operation in yaml.safe_load(patch["patch"]):
            *way, last = [int(part) if part.isdigit() else part for part in operation["path"].split("/")[1:]]
            place: Any = workload
            for part in way:
                place = place[part]
            if operation["op"] == "test":
                assert place[last] == operation["value"]
            else:
                assert operation["op"] == "replace"
                place[last] = operation["value"]
    assert {allocator_of(workload) for workload in changed.values()} == {"scheduler"}


def test_scheduler_mode_is_off_until_somebody_asks_for_it() -> None:
    text = (DEPLOY / "kustomization.yaml").read_text()
    assert "components" not in yaml.safe_load(text)
    asked = yaml.safe_load(text.replace("# components:\n# - ", "components:\n- "))
    assert asked["components"] == ["scheduler-mode"]
