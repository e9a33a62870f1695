"""The plugin's role is exactly sufficient: all that its client asks for, and nothing else.

tests/cluster says the same of a real API server.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fracgpu.driver.kube.errors import Refused
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.rbac import Permission
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.lab.credentials import PluginToken, shipped_access
from tests.deploy.rights import Scene, cells, client_methods, journey, make_world, objects_without, refusal_names
from tests.deploy.servers import Requests

SCENE = Scene()


def travel(access: Access, tmp_path: Path) -> set[str]:
    with ApiServer(access=access) as server:
        make_world(Requests(server.url), SCENE)
        PluginToken(access, tmp_path / "token", node=SCENE.node)
        cluster = KubernetesCluster(server.write_kubeconfig(tmp_path / "kubeconfig", token_file=tmp_path / "token"))
        try:
            return journey(cluster, SCENE)
        finally:
            cluster.close()


def test_the_role_allows_everything_that_the_plugin_asks_and_nothing_else(tmp_path: Path) -> None:
    access = shipped_access()
    called = travel(access, tmp_path)
    assert called == client_methods(), "the journey must know every method of the client"
    assert access.refused == []
    assert access.used == access.rules.permissions()


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: f"{cell.resource} {cell.verb}")
def test_each_cell_of_the_role_is_needed(cell: Permission, tmp_path: Path) -> None:
    access = Access(objects_without(cell))
    with pytest.raises(Refused) as caught:
        travel(access, tmp_path)
    assert refusal_names(cell, str(caught.value))
    assert access.refused
