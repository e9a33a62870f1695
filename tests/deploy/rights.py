"""Everything that the plugin's client asks of an API server, in one journey, and the cells of the role it needs for it.

The journey is the same on the emulator and on a real server: with the shipped role it succeeds, without any one cell
of it something is refused. So the role is neither too small nor too large.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.api.cluster import ClaimStatusApi, ClusterApi
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.sim import manifests
from fracgpu.sim.api.rbac import Permission, RbacRules
from tests.deploy.servers import Requests

Json = dict[str, Any]
ROLE_FILE: Final = "kubelet-plugin-rbac.yaml"
_DRA: Final = "/apis/resource.k8s.io/v1"
_NAMESPACE: Final = "default"


@dataclass(frozen=True)
class Scene:
    """Where one journey takes place: names of its own, so that journeys share a server."""

    node: str = "n1"
    claim: str = "c"

    @property
    def slice(self) -> str:
        """Name of the slice that is written on the way."""
        return f"{self.node}-slice"


def allocation(node: str, **changes: Any) -> Json:
    """Return what the scheduler writes to status.allocation for one device of ours on a node."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "devices": {"results": [{"request": "gpu", "driver": DRIVER_NAME, "pool": node, "device": "gpu-1"}]},
        "nodeSelector": {"nodeSelectorTerms": [term]},
        **changes,
    }


def entry(node: str, **changes: Any) -> Json:
    """Return an entry of status.devices for that device."""
    return {"driver": DRIVER_NAME, "pool": node, "device": "gpu-1", **changes}


def make_claim(name: str) -> Json:
    """Return a claim with one request."""
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.fracgpu.dev"}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": [request]}},
    }


def allocate(admin: Requests, name: str, status: Json) -> Json:
    """Make a claim in the namespace `default` and write its status, as the scheduler would; return it."""
    path = f"{_DRA}/namespaces/{_NAMESPACE}/resourceclaims"
    created = admin.send("POST", path, make_claim(name))
    assert created.code == 201, created.raw
    written = admin.send("PUT", f"{path}/{name}/status", {**created.body, "status": status})
    assert written.code == 200, written.raw
    return written.body


def make_slice(name: str, node: str | None, driver: str = DRIVER_NAME) -> Json:
    """Return a slice without devices; of all nodes if `node` is None."""
    where: Json = {"nodeName": node} if node else {"allNodes": True}
    pool = {"name": node or "all", "generation": 1, "resourceSliceCount": 1}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name},
        "spec": {"driver": driver, "pool": pool, "devices": [], **where},
    }


def make_node(admin: Requests, name: str) -> None:
    """Make a Node object that nothing is scheduled to; one that is there already stays."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"unschedulable": True}}
    answer = admin.send("POST", "/api/v1/nodes", body)
    assert answer.code in (201, 409), answer.raw


def make_world(admin: Requests, scene: Scene) -> None:
    """Write what an administrator and the scheduler have written before the plugin comes."""
    make_node(admin, scene.node)
    allocate(admin, scene.claim, {"allocation": allocation(scene.node)})


def journey(cluster: KubernetesCluster, scene: Scene) -> set[str]:
    """Call every method that the plugin has for the API server; return their names. Raises Refused."""
    cluster.get_node(scene.node)
    wanted = make_slice(scene.slice, scene.node)
    cluster.create_slice(wanted, dry_run=True)
    created = cluster.create_slice(wanted)
    replaced = cluster.replace_slice({**created, "metadata": {**created["metadata"], "labels": {"a": "b"}}})
    listed = cluster.list_slices(scene.node)
    assert [item["metadata"]["name"] for item in listed.items] == [scene.slice]
    watch = cluster.watch_slices(scene.node, created["metadata"]["resourceVersion"])
    assert next(watch).item["metadata"]["labels"] == replaced["metadata"]["labels"]
    watch.close()  # type: ignore[attr-defined]
    cluster.delete_slice(scene.slice)
    cluster.get_claim(_NAMESPACE, scene.claim)
    cluster.patch_claim_status(_NAMESPACE, scene.claim, {"status": {"devices": [entry(scene.node)]}})
    message = cluster.get_claim_message(_NAMESPACE, scene.claim)
    message.status.devices[0].data.raw = b'{"a":1}'
    cluster.replace_claim_status_message(message)
    involved = {"kind": "ResourceClaim", "namespace": _NAMESPACE, "name": scene.claim, "uid": message.metadata.uid}
    event = {
        "metadata": {"name": f"{scene.claim}.e", "namespace": _NAMESPACE},
        "involvedObject": involved,
        "reason": "R",
    }
    cluster.create_event(_NAMESPACE, event)
    return {
        *("get_node", "create_slice", "replace_slice", "list_slices", "watch_slices", "delete_slice", "get_claim"),
        *("patch_claim_status", "get_claim_message", "replace_claim_status_message", "create_event"),
    }


def client_methods() -> set[str]:
    """Return the names of all methods that the plugin's client has."""
    protocols: tuple[type, ...] = (ClusterApi, ClaimStatusApi)
    return {name for protocol in protocols for name in vars(protocol) if not name.startswith("_")}


def cells() -> list[Permission]:
    """Return the cells of the shipped role: one verb on one resource each."""
    return sorted(RbacRules(_shipped()).permissions())


def objects_without(cell: Permission | None) -> list[Json]:
    """Return the objects of the shipped manifest, the role without one of its cells."""
    objects = _shipped()
    if cell is not None:
        (rule,) = [rule for rule in _role(objects)["rules"] if rule["resources"] == [cell.resource]]
        rule["verbs"].remove(cell.verb)
    return objects


def rules_without(cell: Permission | None) -> list[Json]:
    """Return the rules of the shipped role, without one of its cells; a rule without verbs is left out."""
    return [rule for rule in _role(objects_without(cell))["rules"] if rule["verbs"]]


def refusal_names(cell: Permission, message: str) -> bool:
    """Tell whether the message of a refusal is about what the cell allows."""
    if cell.resource == "resourceclaims/driver":
        # Found by validation, which asks for either of two verbs and names both.
        return f'requires resource="{cell.resource}"' in message and cell.verb in message
    return f'cannot {cell.verb} resource "{cell.resource}" in API group "{cell.group}"' in message


def _shipped() -> list[Json]:
    return [copy.deepcopy(dict(obj)) for obj in manifests.load(manifests.shipped(ROLE_FILE))]


def _role(objects: list[Json]) -> Json:
    (role,) = [obj for obj in objects if obj["kind"] == "ClusterRole"]
    return role
