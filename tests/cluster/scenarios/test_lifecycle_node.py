"""Parts of the node and the cluster that stop for a while under pods that use GPUs: kubelet, runtime, API server.

And a container that the kernel ends for want of memory, whose account ends with it.
"""

from __future__ import annotations

import json

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.native.state_file import read_state_file
from fracgpu.sim.lab.allocations import allocation_directory
from fracgpu.sim.node.api import Json
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import await_retried, eventually, eventually_equal
from tests.cluster.machine.layout import PLUGIN_RUN
from tests.cluster.manifests import claim, document, pod
from tests.cluster.node_state import CLEAN, kubelet_claims, node_state, plugin_claims
from tests.cluster.worker import Worker

# Takes half of its slice, waits to be seen, then more of the machine's memory than its container may have.
_HUNGRY = """\
import ctypes, pathlib, time
cuda = ctypes.CDLL("libcuda.so.1")
context, pointer = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(768 << 20)) == 0
print("has memory", flush=True)
go = pathlib.Path("/tmp/go")
while not go.exists():
    time.sleep(0.05)
go.unlink()
kept = []
while True:
    kept.append(bytearray(b"x" * (8 << 20)))
"""


def test_a_restarted_kubelet_disturbs_no_pod_and_gets_the_slice_back(cluster: Cluster, namespace: str) -> None:
    worker = Worker.start(cluster, namespace, "one")
    container, allocation = worker.container(), worker.allocation()
    inodes = {path.name: path.stat().st_ino for path in allocation.iterdir()}
    (published,) = cluster.slices(DRIVER_NAME)
    with cluster.stopped(cluster.kubelet):
        worker.more(allocation)

    # It wipes the slices of its node when it starts, since it knows no plugin yet.
    def made_anew() -> list[Json]:
        return [one for one in cluster.slices(DRIVER_NAME) if one["metadata"]["uid"] != published["metadata"]["uid"]]

    (again,) = eventually(made_anew, what="a new slice")
    assert again["spec"]["devices"] == published["spec"]["devices"]
    worker.more()
    # A pod that is asked for now is prepared, so plugin and kubelet have found each other.
    cluster.apply(document(claim("two"), pod("two")), namespace)
    cluster.wait_pod("two", namespace=namespace)
    worker.more()
    assert worker.container() == container
    assert {path.name: path.stat().st_ino for path in allocation.iterdir()} == inodes


def test_a_restarted_container_runtime_disturbs_no_pod(cluster: Cluster, namespace: str) -> None:
    worker = Worker.start(cluster, namespace, "one")
    container = worker.container()
    with cluster.stopped(cluster.runtime.component):
        worker.more()
    cluster.await_node()

    cluster.apply(document(claim("two"), pod("two")), namespace)
    cluster.wait_pod("two", namespace=namespace)
    view = json.loads(cluster.output_of("two", ["fracgpu-view"], namespace=namespace))
    assert [device["total_bytes"] for device in view["cuda"]["devices"]] == [1 << 30]
    worker.more()
    assert worker.container() == container


def test_a_claim_waits_for_an_api_server_that_is_away_and_runs_afterwards(cluster: Cluster, namespace: str) -> None:
    worker = Worker.start(cluster, namespace, "runs")
    allocation = worker.allocation()
    with cluster.installation.hung_plugin():
        cluster.apply(document(claim("waits"), pod("waits")), namespace)
        uid = cluster.claim("waits", namespace)["metadata"]["uid"]
        eventually(lambda: uid in kubelet_claims(), what="claim with the kubelet")
        # The kubelet has read the claim and called the plugin, which will ask for it now, in vain.
        cluster.plane.api_server.stop()
    try:
        worker.more(allocation)
        assert uid not in plugin_claims()
    finally:
        cluster.plane.api_server.start()

    # The plugin asks again for some seconds; where the start took longer, the kubelet has to.
    await_retried(cluster, "waits", namespace)
    waited = cluster.pod("waits", namespace)
    worker.more()
    eventually_equal(plugin_claims, frozenset({uid, worker.claim()["metadata"]["uid"]}))
    assert waited["status"]["containerStatuses"][0]["restartCount"] == 0
    assert worker.container()[1] == 0
    for name in ("runs", "waits"):
        cluster.delete_pod(name, namespace)
    assert node_state() == CLEAN


def test_a_container_that_is_killed_for_want_of_memory_gives_its_gpu_memory_back(
    cluster: Cluster, namespace: str
) -> None:
    hungry = pod("hungry", ["python3", "-c", _HUNGRY], restart="Always")
    hungry["spec"]["containers"][0]["resources"]["limits"] = {"memory": "96Mi"}
    cluster.apply(document(claim("hungry"), hungry), namespace)
    cluster.wait_log("hungry", "has memory", namespace=namespace)
    state = allocation_directory(PLUGIN_RUN, cluster.claim("hungry", namespace)) / "state"
    assert 768 << 20 <= read_state_file(state).used_bytes <= 1 << 30

    cluster.execute("hungry", ["touch", "/tmp/go"], namespace=namespace)

    def ended() -> str:
        (status,) = cluster.pod("hungry", namespace)["status"]["containerStatuses"]
        return str(status["lastState"].get("terminated", {}).get("reason", ""))

    assert eventually(ended, what="end of the container") == "OOMKilled"
    # The next life of the container gets three quarters of the slice again, so nothing of the first is charged still.
    cluster.wait_log("hungry", "has memory", namespace=namespace)
    now = read_state_file(state)
    assert now.reaped_slots == 1
    assert 768 << 20 <= now.used_bytes <= 1 << 30
    assert len(now.processes) == 1
    cluster.delete_pod("hungry", namespace)
    assert node_state() == CLEAN
