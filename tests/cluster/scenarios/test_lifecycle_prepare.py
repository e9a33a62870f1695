"""Claims and pods that go away at the wrong moment: while the claim is prepared, and while the kubelet is down.

Whatever the order, nothing is left on the node, and no other claim notices.
"""

from __future__ import annotations

from fracgpu.sim.lab.describe import pod_events
from fracgpu.sim.lab.lab import RESOURCE_API
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import eventually, eventually_equal, pods_of, wait_gone
from tests.cluster.manifests import claim, document, pod
from tests.cluster.node_state import CLEAN, kubelet_claims, node_state, plugin_claims, processes_of
from tests.cluster.worker import Worker


def test_a_pod_deleted_while_its_claim_is_being_prepared_leaves_nothing(cluster: Cluster, namespace: str) -> None:
    with cluster.installation.hung_plugin():
        for name in ("goes", "stays"):
            cluster.apply(document(claim(name), pod(name)), namespace)
        uids = {name: cluster.claim(name, namespace)["metadata"]["uid"] for name in ("goes", "stays")}
        # The kubelet writes this before it calls the plugin.
        eventually(lambda: kubelet_claims() >= set(uids.values()), what="both claims with the kubelet")
        assert plugin_claims() == frozenset()
        cluster.api.delete(f"{pods_of(namespace)}/goes", {"gracePeriodSeconds": 1})
        # The kubelet does not take back a call that it has made: it waits for the answer, or for 45 s.
        assert cluster.pod("goes", namespace)["metadata"]["deletionTimestamp"]

    wait_gone(cluster, pods_of(namespace), "goes")
    cluster.wait_pod("stays", namespace=namespace)
    eventually_equal(kubelet_claims, frozenset({uids["stays"]}))
    eventually_equal(plugin_claims, frozenset({uids["stays"]}))
    assert cluster.output_of("stays", ["fracgpu-view"], namespace=namespace)
    cluster.delete_pod("stays", namespace)
    assert node_state() == CLEAN


def test_claims_deleted_while_the_kubelet_is_down_are_taken_back_at_its_return(
    cluster: Cluster, namespace: str
) -> None:
    gone, again = (Worker.start(cluster, namespace, name) for name in ("gone", "again"))
    old = {worker: (worker.pod(), worker.allocation(), worker.claim()["metadata"]["uid"]) for worker in (gone, again)}
    with cluster.stopped(cluster.kubelet):
        for worker in old:
            _delete_by_force(cluster, worker)
        # Nobody has told the node, so the programs go on, and their limits with them.
        for worker, (_, allocation, _) in old.items():
            worker.more(allocation)
        assert plugin_claims() == kubelet_claims() == {uid for _, _, uid in old.values()}
        # Another claim, though by the same name, and larger.
        again.create(mib=2048)

    orphans = [pod_then for pod_then, _, _ in old.values()]
    eventually(lambda: not any(map(processes_of, orphans)), what="end of the orphaned containers")
    # The kubelet itself refuses the name until the old claim has been taken back, and looks for such every minute.
    cluster.wait_pod("again", namespace=namespace)
    assert any("different UID" in line for line in pod_events(again.pod(), cluster.events(namespace)))
    again.more()
    eventually_equal(plugin_claims, frozenset({again.claim()["metadata"]["uid"]}))
    cluster.delete_pod("again", namespace)
    eventually_equal(node_state, CLEAN)


def _delete_by_force(cluster: Cluster, worker: Worker) -> None:
    claims = f"{RESOURCE_API}/namespaces/{worker.namespace}/resourceclaims"
    cluster.api.delete(f"{pods_of(worker.namespace)}/{worker.name}", {"gracePeriodSeconds": 0})
    cluster.api.delete(f"{claims}/{worker.name}")
    wait_gone(cluster, claims, worker.name)
