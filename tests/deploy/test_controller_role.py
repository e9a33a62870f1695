"""The controller's roles are exactly sufficient: all that it asks for, and nothing else."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from fracgpu.controller.api.kubernetes_api import KubernetesApi
from fracgpu.driver.kube.errors import Refused
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.identity import service_account
from fracgpu.sim.api.rbac import Permission
from fracgpu.sim.api.server import ApiServer
from tests.deploy.controller_rights import (
    ACCOUNT,
    NAMESPACE,
    ROLE_FILE,
    ControllerScene,
    controller_cells,
    controller_journey,
    controller_objects_without,
    make_controller_world,
)
from tests.deploy.rights import refusal_names
from tests.deploy.servers import Requests

SCENE = ControllerScene()


def travel(access: Access, tmp_path: Path) -> set[str]:
    token = tmp_path / "token"
    token.write_text(access.tokens.issue(service_account(NAMESPACE, ACCOUNT)))
    with ApiServer(access=access) as server:
        make_controller_world(Requests(server.url), SCENE)
        transport = KubernetesTransport(
            server.write_kubeconfig(tmp_path / "kubeconfig", token_file=token), user_agent="test"
        )
        try:
            return controller_journey(transport, SCENE)
        finally:
            transport.close()


def test_the_roles_allow_everything_that_the_controller_asks_and_nothing_else(tmp_path: Path) -> None:
    access = Access(manifests.load(manifests.shipped(ROLE_FILE)))
    called = travel(access, tmp_path)
    methods = {name for name, _ in inspect.getmembers(KubernetesApi, inspect.isfunction) if not name.startswith("_")}
    assert called == methods, "the journey must know every method of the client"
    assert access.refused == []
    assert access.used == access.rules.permissions()


@pytest.mark.parametrize("cell", controller_cells(), ids=lambda cell: f"{cell.resource} {cell.verb}")
def test_each_cell_of_the_roles_is_needed(cell: Permission, tmp_path: Path) -> None:
    access = Access(controller_objects_without(cell))
    with pytest.raises(Refused) as caught:
        travel(access, tmp_path)
    if cell.resource == "resourceclaims/binding":
        assert 'requires resource="resourceclaims/binding"' in str(caught.value)
    else:
        assert refusal_names(cell, str(caught.value))
    assert access.refused


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", {}),
        ("DELETE", "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/c", None),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/fracgpu-controller", None),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/fracgpu-system/leases/other", None),
        ("DELETE", "/api/v1/namespaces/default/pods/p", None),
        ("PUT", "/api/v1/nodes/n1", {}),
        ("GET", "/api/v1/namespaces/default/pods/p", None),
        ("PUT", "/api/v1/namespaces/default/pods/p/status", {}),
    ],
)
def test_what_is_not_the_controllers_business_is_refused(method: str, path: str, body: object) -> None:
    access = Access(manifests.load(manifests.shipped(ROLE_FILE)))
    token = access.tokens.issue(service_account(NAMESPACE, ACCOUNT))
    with ApiServer(access=access) as server:
        user = Requests(server.url, headers={"Authorization": f"Bearer {token}"})
        assert user.send(method, path, body).code == 403
