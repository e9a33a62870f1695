"""The parts of the driver have the rights of an installation in the lab, which notices when they do not suffice."""

from __future__ import annotations

import http.client
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml

from fracgpu.driver.kube.errors import Unavailable
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.objects import name_of
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.lab import e5_mechanism
from fracgpu.sim.lab.credentials import PluginToken, shipped_access
from fracgpu.sim.lab.errors import LabTimeout, LabUnavailable
from fracgpu.sim.lab.evidence import Evidence
from fracgpu.sim.lab.lab import Lab
from fracgpu.sim.lab.options import LabOptions
from fracgpu.sim.lab.stage import Stage


class Role(NamedTuple):
    """Where the rights of a part of the driver are."""

    file: str
    role: str


ROLES = {
    "plugin": Role("kubelet-plugin-rbac.yaml", "fracgpu-kubeletplugin"),
    "controller": Role("controller-rbac.yaml", "fracgpu-controller"),
}


def status_of(server: ApiServer, token: str, path: str = "/apis/resource.k8s.io/v1/resourceslices") -> int:
    parts = urlsplit(server.url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_renewed_token_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    access = shipped_access()
    path = tmp_path / "token"
    with ApiServer(access=access) as server:
        token = PluginToken(access, path, node="n1")
        first = path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert status_of(server, first) == 200
        token.renew()
        assert (status_of(server, first), status_of(server, path.read_text())) == (401, 200)
    assert list(tmp_path.iterdir()) == [path]


def test_the_plugins_client_goes_on_with_a_renewed_token(tmp_path: Path) -> None:
    access = shipped_access()
    with ApiServer(access=access) as server:
        token = PluginToken(access, tmp_path / "token", node="n1")
        cluster = KubernetesCluster(server.write_kubeconfig(tmp_path / "kubeconfig", token_file=tmp_path / "token"))
        for _ in range(3):
            assert cluster.list_slices("n1").items == ()
            token.renew()
        # Without any valid token it waits for one, and is not for ever without.
        valid = (tmp_path / "token").read_text()
        (tmp_path / "token").write_text("expired")
        with pytest.raises(Unavailable, match="401"):
            cluster.list_slices("n1")
        (tmp_path / "token").write_text(valid)
        assert cluster.list_slices("n1").items == ()
        cluster.close()


def test_the_kubeconfig_of_the_plugin_names_the_token_file(tmp_path: Path) -> None:
    with ApiServer() as server:
        plugin = server.write_kubeconfig(tmp_path / "plugin", token_file=tmp_path / "token")
        administrator = server.write_kubeconfig(tmp_path / "administrator")
    users = [yaml.safe_load(path.read_text())["users"][0]["user"] for path in (plugin, administrator)]
    assert users == [{"tokenFile": str(tmp_path / "token")}, {}]


def test_the_plugin_uses_its_token_and_lacks_nothing(native_build: NativeLibraries) -> None:
    with Lab() as lab:
        stage = Stage.prepare(lab)
        lab.apply(stage.manifest("one", 1024))
        lab.wait_pod("one")
        used = {(one.verb, one.resource) for one in lab.access.used}
        assert {("get", "nodes"), ("create", "resourceslices"), ("get", "resourceclaims")} <= used
        assert lab.access.refused == []
        assert "forbidden" not in lab.layout.plugin_log.read_text().lower()


def test_the_controller_uses_its_token_and_lacks_nothing(native_build: NativeLibraries) -> None:
    with Lab() as lab:
        stage = Stage.prepare(lab)
        lab.apply(stage.manifest("one", 1024))
        lab.wait_pod("one")
        rights = lab.controller_rights()
        used = set(rights.used.split(", "))
        assert {"create leases", "update resourceclaims/status", "update resourceclaims/binding"} <= used
        assert rights.refused == ()
        assert "create resourceslices" in lab.plugin_rights().used.split(", ")
        assert "forbidden" not in lab.controller_log().lower()


def test_without_a_right_of_the_controller_the_lab_does_not_start(
    native_build: NativeLibraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = without("nodes", "list", who="controller")
    monkeypatch.setattr("fracgpu.sim.lab.lab.lab_access", lambda: access)
    said = r"(?s)fracgpu-controller: it runs but did not become the leader.*forbidden"
    with pytest.raises(LabUnavailable, match=said), Lab(LabOptions(deadline_s=6.0)):
        pass


def test_a_right_of_the_controller_that_is_missing_later_fails_the_exercise(
    native_build: NativeLibraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = without("resourceclaims/binding", "update", who="controller")
    monkeypatch.setattr("fracgpu.sim.lab.lab.lab_access", lambda: access)
    with Lab(LabOptions(deadline_s=5.0)) as lab:
        stage = Stage.prepare(lab)
        lab.apply(stage.manifest("one", 1024))
        with pytest.raises(LabTimeout, match="cannot allocate all claims"):
            lab.wait_pod("one")
        evidence = Evidence()
        e5_mechanism.check_rights("the controller", lab.controller_rights(), evidence)
    (check,) = evidence.checks
    assert not check.held
    assert 'cannot update resource "resourceclaims/binding"' in check.seen


@pytest.mark.parametrize(
    ("resource", "verb"), [("nodes", "get"), ("resourceslices", "create"), ("resourceslices", "list")]
)
def test_without_a_right_to_publish_the_lab_does_not_start(
    native_build: NativeLibraries, monkeypatch: pytest.MonkeyPatch, resource: str, verb: str
) -> None:
    access = without(resource, verb)
    monkeypatch.setattr("fracgpu.sim.lab.lab.lab_access", lambda: access)
    with pytest.raises((LabTimeout, LabUnavailable)), Lab(LabOptions(deadline_s=6.0)):
        pass
    assert any(f'cannot {verb} resource "{resource}"' in text for text in access.refused)


def test_a_right_that_is_missing_later_fails_the_exercise(
    native_build: NativeLibraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = without("resourceclaims", "get")
    monkeypatch.setattr("fracgpu.sim.lab.lab.lab_access", lambda: access)
    with Lab(LabOptions(deadline_s=5.0)) as lab:
        stage = Stage.prepare(lab)
        lab.apply(stage.manifest("one", 1024))
        with pytest.raises(LabTimeout, match="FailedPrepareDynamicResources"):
            lab.wait_pod("one")
        evidence = Evidence()
        e5_mechanism.check_rights("the plugin", lab.plugin_rights(), evidence)
    (check,) = evidence.checks
    assert not check.held
    assert 'cannot get resource "resourceclaims"' in check.seen


def without(resource: str, verb: str, *, who: str = "plugin") -> Access:
    """Return the shipped roles with one verb less in that of `who`."""
    objects = [dict(obj) for one in ROLES.values() for obj in manifests.load(manifests.shipped(one.file))]
    (role,) = [obj for obj in objects if obj["kind"] == "ClusterRole" and name_of(obj) == ROLES[who].role]
    (rule,) = [rule for rule in role["rules"] if resource in rule["resources"]]
    rule["verbs"].remove(verb)
    return Access(objects)
