"""The plugin's role is exactly sufficient: all that its client asks for, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.kubeletplugin.api.cluster import ClaimStatusApi, ClusterApi
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.errors import Refused
from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.rbac import Permission
from fracgpu.sim.api.resources import NODES, RESOURCE_CLAIMS
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.lab.credentials import PluginToken, shipped_access

Json = dict[str, Any]
NODE = "n1"
ENTRY = {"driver": "gpu.fracgpu.dev", "pool": NODE, "device": "gpu-1"}
ALLOCATION: Json = {
    "devices": {"results": [{"request": "gpu", **ENTRY}]},
    "nodeSelector": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [NODE]}]}]
    },
}


def make_world(server: ApiServer) -> None:
    """What an administrator and the scheduler have written before the plugin comes."""
    server.registry.create(NODES, "", {"metadata": {"name": NODE}})
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.fracgpu.dev"}}
    body = {"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}}
    claim = server.registry.create(RESOURCE_CLAIMS, "default", body)
    claim = {**claim, "status": {"allocation": ALLOCATION}}
    server.registry.update(RESOURCE_CLAIMS, "default", "c", claim, subresource="status")


def make_slice() -> Json:
    pool = {"name": NODE, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.fracgpu.dev", "nodeName": NODE, "pool": pool, "devices": []}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{NODE}-slice"},
        "spec": spec,
    }


def journey(cluster: KubernetesCluster) -> set[str]:
    """Call every method that the plugin has for the API server; return their names. Raises Refused."""
    cluster.get_node(NODE)
    cluster.create_slice(make_slice(), dry_run=True)
    created = cluster.create_slice(make_slice())
    replaced = cluster.replace_slice({**created, "metadata": {**created["metadata"], "labels": {"a": "b"}}})
    listed = cluster.list_slices(NODE)
    assert [item["metadata"]["name"] for item in listed.items] == [f"{NODE}-slice"]
    watch = cluster.watch_slices(NODE, created["metadata"]["resourceVersion"])
    assert next(watch).item["metadata"]["labels"] == replaced["metadata"]["labels"]
    watch.close()  # type: ignore[attr-defined]
    cluster.delete_slice(f"{NODE}-slice")
    cluster.get_claim("default", "c")
    cluster.patch_claim_status("default", "c", {"status": {"devices": [ENTRY]}})
    message = cluster.get_claim_message("default", "c")
    message.status.devices[0].data.raw = b'{"a":1}'
    cluster.replace_claim_status_message(message)
    involved = {"kind": "ResourceClaim", "namespace": "default", "name": "c", "uid": message.metadata.uid}
    event = {"metadata": {"name": "e", "namespace": "default"}, "involvedObject": involved, "reason": "R"}
    cluster.create_event("default", event)
    return {
        *("get_node", "create_slice", "replace_slice", "list_slices", "watch_slices", "delete_slice", "get_claim"),
        *("patch_claim_status", "get_claim_message", "replace_claim_status_message", "create_event"),
    }


def travel(access: Access, tmp_path: Path) -> set[str]:
    with ApiServer(access=access) as server:
        make_world(server)
        PluginToken(access, tmp_path / "token", node=NODE)
        cluster = KubernetesCluster(server.write_kubeconfig(tmp_path / "kubeconfig", token_file=tmp_path / "token"))
        try:
            return journey(cluster)
        finally:
            cluster.close()


def methods(*protocols: type) -> Iterator[str]:
    for protocol in protocols:
        yield from (name for name in vars(protocol) if not name.startswith("_"))


def test_the_role_allows_everything_that_the_plugin_asks_and_nothing_else(tmp_path: Path) -> None:
    access = shipped_access()
    called = travel(access, tmp_path)
    assert called == set(methods(ClusterApi, ClaimStatusApi)), "the journey must know every method of the client"
    assert access.refused == []
    assert access.used == access.rules.permissions()


@pytest.mark.parametrize(
    "cell", sorted(shipped_access().rules.permissions()), ids=lambda cell: f"{cell.resource} {cell.verb}"
)
def test_each_cell_of_the_role_is_needed(cell: Permission, tmp_path: Path) -> None:
    objects = [dict(obj) for obj in manifests.load(manifests.shipped("kubelet-plugin-rbac.yaml"))]
    (role,) = [obj for obj in objects if obj["kind"] == "ClusterRole"]
    (rule,) = [rule for rule in role["rules"] if rule["resources"] == [cell.resource]]
    rule["verbs"].remove(cell.verb)
    access = Access(objects)
    with pytest.raises(Refused):
        travel(access, tmp_path)
    assert access.refused
