"""Feature gates that are off: the plugin says what is missing, does what is left, and never gives more than was asked.

Each control plane here is one more beside the run's, with a node that is only an object. The real scheduler allocates,
the plugin is the real one, and the test plays the kubelet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.publish.slices import build_slice, slice_name
from fracgpu.native.fake_gpu import set_lost
from fracgpu.sim.node.errors import PrepareFailed
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.lone_plane import LonePlane, lone_plane
from tests.cluster.lone_plugin import lone_plugin
from tests.cluster.machine.gpus import gpu_specs
from tests.cluster.machine.layout import Layout
from tests.deploy.servers import MERGE_PATCH
from tests.deploy.slices import make_gpu

Json = dict[str, Any]
NODE = "gates-node"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
PODS = "/api/v1/namespaces/default/pods"
NO_CAPACITY = {"DRAConsumableCapacity": False}
NO_STATUS = {
    "DRAResourceClaimDeviceStatus": False,
    "DRAResourceClaimGranularStatusAuthorization": False,
    "DRADeviceTaints": False,
    # Needs device status.
    "DRADeviceBindingConditions": False,
}
NO_GRANULAR = {"DRAResourceClaimGranularStatusAuthorization": False, "DRAPrioritizedList": False}


@pytest.fixture(scope="module")
def no_capacity(artifacts: Artifacts, layout: Layout) -> Iterator[LonePlane]:
    with lone_plane(artifacts, layout, "no-capacity", number=1, gates=NO_CAPACITY) as running:
        yield running


@pytest.fixture(scope="module")
def no_status(artifacts: Artifacts, layout: Layout) -> Iterator[LonePlane]:
    with lone_plane(artifacts, layout, "no-status", number=2, gates=NO_STATUS) as running:
        yield running


@pytest.fixture(scope="module")
def no_granular(artifacts: Artifacts, layout: Layout) -> Iterator[LonePlane]:
    with lone_plane(artifacts, layout, "no-granular", number=3, gates=NO_GRANULAR) as running:
        yield running


def make_ready_node(plane: LonePlane, name: str = NODE) -> Json:
    """Make a Node that the scheduler takes for one; return it."""
    plane.create("/api/v1/nodes", {"metadata": {"name": name}})
    resources = {"cpu": "4", "memory": "8Gi", "pods": "100"}
    condition = {"type": "Ready", "status": "True", "reason": "Test", "message": "", "lastHeartbeatTime": None}
    status = {"capacity": resources, "allocatable": resources, "conditions": [condition]}
    path = f"/api/v1/nodes/{name}/status"
    answer = plane.admin.send("PATCH", path, {"status": status}, content_type=MERGE_PATCH)
    assert answer.code == 200, answer.raw
    return answer.body


def make_pod(plane: LonePlane, name: str, node: str = NODE) -> Json:
    """Make a claim for 8 GiB and a pod on `node` that uses it; return the claim as stored."""
    exactly = {"deviceClassName": "gpu.fracgpu.dev", "capacity": {"requests": {"memory": "8Gi"}}}
    spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
    claim = plane.create(CLAIMS, {"metadata": {"name": name}, "spec": spec})
    container = {"name": "main", "image": "registry.example.com/none", "resources": {"claims": [{"name": "gpu"}]}}
    pod = {
        "resourceClaims": [{"name": "gpu", "resourceClaimName": name}],
        "containers": [container],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": _selector(node)}},
        # Nobody beats for the node, so it is tainted sooner or later.
        "tolerations": [{"operator": "Exists"}],
    }
    plane.create(PODS, {"metadata": {"name": name}, "spec": pod})
    return claim


def _selector(node: str) -> Json:
    return {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}


def reserved(plane: LonePlane, name: str) -> Json:
    """Wait until the scheduler has allocated and reserved a claim and bound its pod; return the claim."""
    plane.wait(
        lambda: plane.admin.send("GET", f"{PODS}/{name}").body["spec"].get("nodeName"), what=f"pod {name} on a node"
    )
    claim = plane.admin.send("GET", f"{CLAIMS}/{name}").body
    assert claim["status"]["reservedFor"]
    return claim


def remove(plane: LonePlane, name: str) -> None:
    """Remove pod and claim."""
    plane.admin.send("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})
    plane.admin.send("DELETE", f"{CLAIMS}/{name}")


def status_of(plane: LonePlane, name: str) -> list[Json]:
    found: list[Json] = plane.admin.send("GET", f"{CLAIMS}/{name}").body["status"].get("devices", [])
    return found


def test_without_consumable_capacity_nothing_is_published_and_nothing_prepared(no_capacity: LonePlane) -> None:
    """A slice from before the gate was switched off is one of whole cards: the scheduler gives one away at once."""
    plane = no_capacity
    uid = make_ready_node(plane)["metadata"]["uid"]
    gpus = [make_gpu(0, uuid=gpu_specs()[0].uuid)]
    before = build_slice(gpus, PluginOptions(node_name=NODE, allocator="scheduler"), node_uid=uid)
    stored = plane.create(SLICES, before)
    assert "allowMultipleAllocations" not in stored["spec"]["devices"][0]
    claim = make_pod(plane, "dropped")
    assert "capacity" not in claim["spec"]["devices"]["requests"][0]["exactly"]
    claim = reserved(plane, "dropped")
    assert "consumedCapacity" not in claim["status"]["allocation"]["devices"]["results"][0]

    with lone_plugin(plane, NODE) as plugin:
        line = plugin.wait_log("slice refused")
        assert f"node {NODE}: the API server drops allowMultipleAllocations, requestPolicy" in line["error"]
        assert "enable the feature gate DRAConsumableCapacity, or set --allocator=controller" in line["error"]
        plane.wait(lambda: plugin.slices() == [], what="end of the slice of whole cards")
        with pytest.raises(PrepareFailed, match="the result has no consumedCapacity; enable DRAConsumableCapacity"):
            plugin.prepare(claim)
        refusal = plugin.wait_log("claim refused")
        assert (refusal["claim"], refusal["outcome"]) == ("default/dropped", "AmountsDropped")
        assert plugin.cdi_files() == []
        # Nor does a slice that somebody puts there again stay.
        plane.create(SLICES, before)
        plane.wait(lambda: plugin.slices() == [], what="end of the second slice of whole cards")
        plugin.unprepare(claim)
    remove(plane, "dropped")


def test_without_device_status_claims_are_prepared_and_the_log_says_what_is_missing(no_status: LonePlane) -> None:
    plane = no_status
    make_ready_node(plane)
    with lone_plugin(plane, NODE) as plugin:
        plane.wait(plugin.slices, what="slice")
        make_pod(plane, "silent")
        claim = reserved(plane, "silent")
        (device,) = plugin.prepare(claim)
        assert device.cdi_device_ids
        line = plugin.wait_log("claims not reported on")
        assert line["error"] == "the API server keeps nothing of status.devices"
        assert "DRAResourceClaimDeviceStatus" in line["remedy"]
        assert status_of(plane, "silent") == []
        plugin.unprepare(claim)
        assert plugin.cdi_files() == []
    remove(plane, "silent")


def test_without_taints_a_lost_gpu_stays_published_and_the_log_says_that_its_taint_is_not_kept(
    no_status: LonePlane,
) -> None:
    plane = no_status
    make_ready_node(plane, "untainted-node")
    with lone_plugin(plane, "untainted-node", gpus=gpu_specs()[:1]) as plugin:
        plane.wait(plugin.slices, what="slice")
        set_lost(plugin.machine, gpu_specs()[0].uuid, lost=True)
        assert plugin.wait_log('"dropped":"taints"')["level"] == "warning"
        (stored,) = plugin.slices()
        assert stored["metadata"]["name"] == slice_name("untainted-node")
        assert [list(device) for device in stored["spec"]["devices"] if "taints" in device] == []
        # The scheduler knows nothing of it, Prepare does.
        make_pod(plane, "lost", "untainted-node")
        claim = reserved(plane, "lost")
        with pytest.raises(PrepareFailed, match="does not answer"):
            plugin.prepare(claim)
    remove(plane, "lost")


def test_without_granular_authorization_the_proof_is_written(no_granular: LonePlane) -> None:
    """As in clusters below 1.36: the right to the status is all there is."""
    plane = no_granular
    make_ready_node(plane)
    with lone_plugin(plane, NODE) as plugin:
        plane.wait(plugin.slices, what="slice")
        make_pod(plane, "coarse")
        claim = reserved(plane, "coarse")
        plugin.prepare(claim)
        plane.wait(lambda: status_of(plane, "coarse"), what="status.devices")
        (entry,) = status_of(plane, "coarse")
        assert entry["driver"] == DRIVER_NAME
        assert {"type": "Prepared", "status": "True"}.items() <= _condition(entry, "Prepared").items()
        plugin.unprepare(claim)
        assert not [line for line in plugin.log() if line["level"] in ("warning", "error")]
    remove(plane, "coarse")


def _condition(entry: Json, kind: str) -> Json:
    (found,) = [one for one in entry["conditions"] if one["type"] == kind]
    return dict(found)
