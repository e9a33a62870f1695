"""The plugin's role on a real API server: sufficient, and every cell of it needed; and whom the server takes for whom.

The plugin's own client makes the same journey as on the emulator (tests/deploy/test_role.py).
"""

from __future__ import annotations

import pytest

from fracgpu.driver.kube.errors import Refused
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.sim.api.rbac import Permission
from tests.cluster.lone_plane import LonePlane
from tests.deploy.rights import (
    Scene,
    cells,
    client_methods,
    journey,
    make_slice,
    make_world,
    refusal_names,
    rules_without,
)

CELLS = cells()
ACCOUNTS = "rights"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"


def make_account(plane: LonePlane, account: str, cell: Permission | None) -> None:
    """Make an account whose role is the shipped one without a cell, and wait until the API server knows it."""
    plane.admin.send("POST", "/api/v1/namespaces", {"metadata": {"name": ACCOUNTS}})
    plane.create(f"/api/v1/namespaces/{ACCOUNTS}/serviceaccounts", {"metadata": {"name": account}})
    plane.create(f"{_RBAC}/clusterroles", {"metadata": {"name": account}, "rules": rules_without(cell)})
    binding = {
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account},
        "subjects": [{"kind": "ServiceAccount", "namespace": ACCOUNTS, "name": account}],
    }
    plane.create(f"{_RBAC}/clusterrolebindings", binding)
    expected = [other != cell for other in CELLS]
    plane.wait(lambda: [is_allowed(plane, account, other) for other in CELLS] == expected, what=f"role of {account}")


def is_allowed(plane: LonePlane, account: str, cell: Permission) -> bool:
    resource, _, subresource = cell.resource.partition("/")
    attributes = {"verb": cell.verb, "group": cell.group, "resource": resource, "subresource": subresource}
    if subresource == "driver":
        attributes["name"] = "gpu.fracgpu.dev"
    user = f"system:serviceaccount:{ACCOUNTS}:{account}"
    review = plane.create(_REVIEWS, {"spec": {"user": user, "resourceAttributes": attributes}})
    return bool(review["status"]["allowed"])


def test_the_shipped_role_is_sufficient(plane: LonePlane) -> None:
    scene = Scene("rights-node", "rights")
    make_world(plane.admin, scene)
    cluster = KubernetesCluster(plane.kubeconfig("plugin", node=scene.node))
    try:
        assert journey(cluster, scene) == client_methods(), "the journey must know every method of the client"
    finally:
        cluster.close()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.resource} {cell.verb}")
def test_each_cell_of_the_role_is_needed(plane: LonePlane, cell: Permission) -> None:
    account = f"cell-{CELLS.index(cell)}"
    make_account(plane, account, cell)
    scene = Scene(f"{account}-node", account)
    make_world(plane.admin, scene)
    kubeconfig = plane.kubeconfig(account, account=account, namespace=ACCOUNTS, node=scene.node)
    cluster = KubernetesCluster(kubeconfig)
    try:
        with pytest.raises(Refused) as caught:
            journey(cluster, scene)
    finally:
        cluster.close()
    assert refusal_names(cell, str(caught.value))


def test_a_kubelet_has_the_slices_of_its_own_node_only(plane: LonePlane) -> None:
    """Node authorizer and NodeRestriction know kubelets, not plugins: hence our own policy for those."""
    make_world(plane.admin, Scene("kubelet-1", "kubelet-1"))
    kubelet = plane.kubelet("kubelet-1")

    own = kubelet.send("POST", SLICES, make_slice("own-slice", "kubelet-1"))
    foreign = kubelet.send("POST", SLICES, make_slice("foreign-slice", "kubelet-2"))

    assert own.code == 201
    assert (foreign.code, foreign.body["reason"]) == (403, "Forbidden")
    plane.create(SLICES, make_slice("foreign-slice", "kubelet-2"))
    assert kubelet.send("DELETE", f"{SLICES}/foreign-slice").code == 403
    assert kubelet.send("GET", f"{SLICES}?fieldSelector=spec.nodeName%3Dkubelet-2").code == 403
    assert kubelet.send("DELETE", f"{SLICES}/own-slice").code == 200
