"""The node loses power under pods that use their GPUs. The claims stay allocated; all else is made again."""

from __future__ import annotations

import re
import time

from fracgpu.driver.names import DRIVER_NAME
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import eventually, eventually_equal
from tests.cluster.machine.layout import CDI_DIR
from tests.cluster.node_state import CLEAN, node_state, plugin_claims
from tests.cluster.worker import Worker


def _observed_at(cluster: Cluster, worker: Worker) -> float:
    """Return when the plugin last looked at the worker's allocation; 0 if it has not."""
    pattern = rf'^fracgpu_allocation_observed_timestamp_seconds\{{.*claim="{worker.name}".*\}} (\S+)$'
    found = (re.match(pattern, line) for line in cluster.installation.metrics() if worker.namespace in line)
    return max((float(match.group(1)) for match in found if match), default=0.0)


def _conditions(worker: Worker) -> dict[str, str]:
    devices = worker.claim()["status"].get("devices") or []
    return {one["type"]: one["status"] for device in devices for one in device["conditions"]}


def test_after_a_reboot_claims_are_prepared_again_and_pods_have_their_slices(cluster: Cluster, namespace: str) -> None:
    always = Worker.start(cluster, namespace, "always", restart="Always")
    never = Worker.start(cluster, namespace, "never")
    before, (spec,) = always.claim(), CDI_DIR.glob(f"*{always.claim()['metadata']['uid']}*")
    content, container = spec.read_bytes(), always.container()
    (published,) = cluster.slices(DRIVER_NAME)
    eventually(lambda: _conditions(always).get("Enforced") == "True", what="proof before the reboot")

    cluster.reboot()
    restarted = time.time()

    # The pod that may start again is the same pod with the same allocation, and its limit is the same.
    eventually(lambda: always.container()[1] > container[1] and always.allocation().is_dir(), what="new container")
    cluster.wait_pod("always", namespace=namespace)
    always.more()
    assert spec.read_bytes() == content
    assert always.claim()["status"]["allocation"] == before["status"]["allocation"]
    # The one that may not has ended, and its share is free.
    cluster.wait_pod("never", "Failed", namespace)
    eventually_equal(plugin_claims, frozenset({before["metadata"]["uid"]}))
    assert never.container()[1] == 0
    # The plugin looks again, and says so again.
    eventually(lambda: _observed_at(cluster, always) > restarted, what="look at the allocation")
    eventually(lambda: set(_conditions(always).values()) == {"True"}, what=f"proof of {_conditions(always)}")
    cluster.installation.await_ready()
    (again,) = cluster.slices(DRIVER_NAME)
    assert again["spec"]["devices"] == published["spec"]["devices"]
    assert again["metadata"]["uid"] != published["metadata"]["uid"]
    assert any(event["reason"] == "Rebooted" for event in cluster.events())

    for name in ("always", "never"):
        cluster.delete_pod(name, namespace)
    eventually_equal(node_state, CLEAN)
