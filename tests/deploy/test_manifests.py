"""The manifests of deploy/ fit the code that they start: flags, directories, names, probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fracgpu.driver.names import CLASS_FRACTION, CLASS_WHOLE, DRIVER_NAME
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.sim import manifests
from fracgpu.sim.lab.credentials import NAMESPACE, SERVICE_ACCOUNT

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FILES = sorted(DEPLOY.glob("*.yaml"))
NAMESPACED = ("ServiceAccount", "DaemonSet", "Deployment", "PodDisruptionBudget", "Role", "RoleBinding")
Json = dict[str, Any]


def documents(name: str) -> list[Json]:
    return [dict(obj) for obj in manifests.load(manifests.shipped(name))]


@pytest.fixture
def daemon_set() -> Json:
    (found,) = documents("kubelet-plugin.yaml")
    return found


@pytest.fixture
def pod(daemon_set: Json) -> Json:
    spec: Json = daemon_set["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: Json) -> Json:
    (found,) = pod["containers"]
    return dict(found)


@pytest.fixture
def options(container: Json, monkeypatch: pytest.MonkeyPatch) -> PluginOptions:
    """What the plugin makes of the arguments and variables that the manifest gives it."""
    for entry in container["env"]:
        monkeypatch.setenv(entry["name"], entry.get("value", "as-the-field-says"))
    command, *arguments = container["args"]
    assert (container["command"], command) == (["fracgpu"], "kubeletplugin")
    return PluginOptions.from_argv(arguments)


def test_kustomize_takes_every_manifest() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [path.name for path in FILES if path.name != "kustomization.yaml"]
    assert [image["name"] for image in kustomization["images"]] == ["fracgpu"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_object_has_a_kind_a_name_and_the_namespace(path: Path) -> None:
    if path.name == "kustomization.yaml":
        return
    found = documents(path.name)
    assert found
    for obj in found:
        if obj["kind"] in NAMESPACED:
            assert obj["metadata"]["namespace"] == NAMESPACE
        if obj["kind"] == "Namespace":
            assert obj["metadata"]["name"] == NAMESPACE


def test_the_classes_have_the_names_that_the_code_knows() -> None:
    assert [obj["metadata"]["name"] for obj in documents("deviceclasses.yaml")] == [CLASS_FRACTION, CLASS_WHOLE]


def test_the_plugin_starts_with_these_arguments(options: PluginOptions) -> None:
    assert options.node_name == options.pod_uid == "as-the-field-says"
    assert options.kubeconfig is None
    assert options.log_json


def test_node_and_pod_come_from_the_fields(container: Json) -> None:
    fields = {
        entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in container["env"] if "valueFrom" in entry
    }
    assert fields == {"NODE_NAME": "spec.nodeName", "POD_UID": "metadata.uid"}


def test_the_port_is_the_one_that_is_probed(container: Json, options: PluginOptions) -> None:
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("http", options.http_port)
    paths = {name: container[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert paths == {
        "livenessProbe": {"path": "/healthz", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }


def test_directories_have_one_path_inside_and_outside(pod: Json, container: Json, options: PluginOptions) -> None:
    hosts = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    same = [mounts[name]["mountPath"] for name, path in hosts.items() if mounts[name]["mountPath"] == path]
    written = (options.plugin_dir, options.registry_dir, options.cdi_dir, options.state_dir, options.run_dir)
    for directory in (*written, options.dev_root / "dev"):
        (holder,) = [path for path in same if directory.is_relative_to(path)]
        (mount,) = [mount for mount in mounts.values() if mount["mountPath"] == holder]
        assert not mount.get("readOnly")
    assert {name for name, path in hosts.items() if path not in same} == {"host"}
    assert (hosts["host"], mounts["host"]["mountPath"]) == ("/", str(options.host_root))
    assert mounts["host"]["readOnly"]
    # A driver that a container mounts later must become visible.
    assert mounts["host"]["mountPropagation"] == mounts["dev"]["mountPropagation"] == "HostToContainer"


def test_it_runs_everywhere_and_overlaps_with_its_successor(daemon_set: Json, pod: Json) -> None:
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    assert daemon_set["spec"]["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    # A host port would let no two of them run on a node.
    assert "hostNetwork" not in pod
    assert all("hostPort" not in port for port in pod["containers"][0]["ports"])
    # NVML's process ids are the host's.
    assert pod["hostPID"] is True


def test_the_account_is_the_one_that_role_and_policy_name(pod: Json) -> None:
    assert pod["serviceAccountName"] == SERVICE_ACCOUNT
    assert pod["automountServiceAccountToken"] is True
    rbac = {obj["kind"]: obj for obj in documents("kubelet-plugin-rbac.yaml")}
    account = {"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": NAMESPACE}
    assert rbac["ClusterRoleBinding"]["subjects"] == [account]
    assert rbac["ClusterRoleBinding"]["roleRef"]["name"] == rbac["ClusterRole"]["metadata"]["name"]
    policy, binding = documents("kubelet-plugin-policy.yaml")
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    texts = [entry["expression"] for entry in (*policy["spec"]["matchConditions"], *policy["spec"]["validations"])]
    assert any(f"'system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}'" in text for text in texts)
    assert any(f"'{DRIVER_NAME}'" in text for text in texts)
    names = [rule.get("resourceNames") for rule in rbac["ClusterRole"]["rules"]]
    assert [name for name in names if name] == [[DRIVER_NAME]]


def test_labels_select_the_pods(daemon_set: Json) -> None:
    spec = daemon_set["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
