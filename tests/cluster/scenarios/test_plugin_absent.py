"""A node without its plugin: pods that run go on under their limits, pods that come wait, pods that go wait as well.

None of them ever runs unlimited, and all of it goes on by itself when the plugin is back.
"""

from __future__ import annotations

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.sim.lab.describe import pod_events
from fracgpu.sim.lab.lab import RESOURCE_API
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import eventually, eventually_equal, pods_of, wait_gone
from tests.cluster.manifests import claim, document, pod
from tests.cluster.node_state import CLEAN, kubelet_claims, node_state, plugin_claim_state, processes_of
from tests.cluster.worker import Worker


def _waits(cluster: Cluster, namespace: str, name: str, text: str) -> None:
    """Wait for an event with `text` of a pod that must not have been given a process."""

    def told() -> bool:
        return any(text in line for line in pod_events(cluster.pod(name, namespace), cluster.events(namespace)))

    eventually(told, what=f"event {text!r} of {name}")
    waiting = cluster.pod(name, namespace)
    assert waiting["status"]["phase"] == "Pending"
    assert not processes_of(waiting, "sleep")


def test_without_the_daemonset_pods_stay_limited_and_nothing_starts_or_ends(cluster: Cluster, namespace: str) -> None:
    stays, goes = (Worker.start(cluster, namespace, name) for name in ("stays", "goes"))
    running = stays.container()
    (slice_name,) = (item["metadata"]["name"] for item in cluster.slices(DRIVER_NAME))
    with cluster.installation.removed():
        # The slice outlives the plugin by half a minute, so the scheduler still sends a pod here.
        cluster.apply(document(claim("comes"), pod("comes")), namespace)
        _waits(cluster, namespace, "comes", f"DRA driver {DRIVER_NAME} is not registered")
        cluster.api.delete(f"{pods_of(namespace)}/goes", {"gracePeriodSeconds": 1})
        going = goes.pod()
        eventually(lambda: not processes_of(going), what="end of the deleted pod's processes")
        stays.more()
        # With the slices gone nobody sends another one; a pod that is not on the node yet stays where it is.
        wait_gone(cluster, f"{RESOURCE_API}/resourceslices", slice_name)
        cluster.apply(document(claim("late"), pod("late")), namespace)
        _waits(cluster, namespace, "late", "cannot allocate all claims")
        # Ended, but not taken back: the pod stays until somebody answers for its claim.
        assert goes.pod()["metadata"]["deletionTimestamp"]
        stays.more()

    for name in ("comes", "late"):
        cluster.wait_pod(name, namespace=namespace)
    wait_gone(cluster, pods_of(namespace), "goes")
    stays.more()
    assert stays.container() == running


def test_a_pod_that_was_never_prepared_is_deleted_without_the_plugin(cluster: Cluster, namespace: str) -> None:
    with cluster.installation.removed():
        cluster.apply(document(claim("one"), pod("one")), namespace)
        _waits(cluster, namespace, "one", f"DRA driver {DRIVER_NAME} is not registered")
        cluster.delete_pod("one", namespace)
    eventually_equal(node_state, CLEAN)


def test_a_claim_that_is_taken_back_under_a_pod_limits_it_to_its_end(cluster: Cluster, namespace: str) -> None:
    """A pod that ends has all claims taken back that it names, prepared by it or not (docs/dev/lifecycle.md)."""
    first = Worker.start(cluster, namespace, "first")
    uid = first.claim()["metadata"]["uid"]
    with cluster.installation.removed():
        cluster.apply(document(pod("second", claim="first")), namespace)
        _waits(cluster, namespace, "second", f"DRA driver {DRIVER_NAME} is not registered")
    cluster.delete_pod("second", namespace)

    eventually(lambda: plugin_claim_state(uid) == "releasing", what="release of the claim")
    assert kubelet_claims() == frozenset()
    first.more()
    assert cluster.pod("first", namespace)["status"]["phase"] == "Running"
    cluster.delete_pod("first", namespace)
    # The plugin has waited for the last process.
    eventually_equal(node_state, CLEAN)
