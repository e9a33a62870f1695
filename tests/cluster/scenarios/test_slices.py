"""The plugin's slices pass the real API server's validation whole, and the emulator refuses as the real one does."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest

from fracgpu.driver.errors import InventoryUnavailable
from fracgpu.driver.gpu import Gpu
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.publish.publisher import SlicePublisher
from fracgpu.kubeletplugin.publish.slice_diff import dropped_fields, same_slice
from fracgpu.kubeletplugin.publish.slices import build_slice
from fracgpu.sim.api.server import ApiServer
from tests.cluster.lone_plane import LonePlane
from tests.deploy.servers import Requests
from tests.deploy.slices import LONG, STEP_ZERO, UNKNOWN, WRONG, changed, make_gpu

NODE = "slices-node"
# A Node's name may be as long as a slice's, and slices have more in theirs.
LONG_NODE = ".".join(["n" * 62] * 4)
OPTIONS = PluginOptions(node_name=NODE, allocator="scheduler")
DRY_RUN = "/apis/resource.k8s.io/v1/resourceslices?dryRun=All"


def publish(plane: LonePlane, options: PluginOptions, gpus: list[Gpu]) -> None:
    """Let the plugin publish with its own token; assert that the server keeps every word of it."""
    cluster = KubernetesCluster(plane.kubeconfig("slices", node=options.node_name))
    try:
        publisher = SlicePublisher(options=options, cluster=cluster, gpus=lambda: tuple(gpus))
        assert publisher.sync()
        wanted = build_slice(gpus, options, node_uid=cluster.get_node(options.node_name)["metadata"]["uid"])
        (stored,) = cluster.list_slices(options.node_name).items
        assert same_slice(wanted, stored)
        assert dropped_fields(wanted, stored) == ()
        assert not publisher.sync(), "what is right is not written again"
        cluster.delete_slice(stored["metadata"]["name"])
    finally:
        cluster.close()


@pytest.mark.parametrize("count", [0, 1, 8, 16, 64])
@pytest.mark.parametrize("healthy", [True, False], ids=["healthy", "tainted"])
def test_the_server_takes_the_slice_of_a_node(plane: LonePlane, count: int, healthy: bool) -> None:
    publish(plane, OPTIONS, [make_gpu(index, healthy=healthy) for index in range(count)])


def test_the_server_takes_128_healthy_gpus(plane: LonePlane) -> None:
    publish(plane, OPTIONS, [make_gpu(index) for index in range(128)])


@pytest.mark.parametrize("values", [UNKNOWN, LONG], ids=["unknown", "too long"])
def test_the_server_takes_odd_values(plane: LonePlane, values: dict[str, object]) -> None:
    publish(plane, OPTIONS, [make_gpu(index, **values) for index in range(2)])


@pytest.mark.parametrize(
    "options",
    [
        replace(OPTIONS, memory_scale=Decimal(1000), cores_scale=Decimal(1000), slots=1024),
        replace(OPTIONS, memory_scale=Decimal("1.1"), cores_scale=Decimal("1.01"), slots=1),
        replace(OPTIONS, allocator="controller"),
        replace(OPTIONS, node_name=LONG_NODE),
    ],
    ids=["largest scales", "odd scales", "controller", "long node name"],
)
def test_the_server_takes_every_option(plane: LonePlane, options: PluginOptions) -> None:
    publish(plane, options, [make_gpu(0), make_gpu(1, memory_total_bytes=1 << 20)])


@pytest.mark.parametrize(
    "gpus",
    [
        [make_gpu(index) for index in range(129)],
        [make_gpu(index, healthy=index != 3) for index in range(65)],
        [make_gpu(0), make_gpu(1, uuid="GPU-00000000-1111-4000-8000-000000000000")],
    ],
    ids=["129", "65 with a tainted one", "two of one name"],
)
def test_what_the_server_would_refuse_is_not_sent(gpus: list[Gpu]) -> None:
    """The same three are refused by the server: see the next test."""
    with pytest.raises(InventoryUnavailable):
        build_slice(gpus, OPTIONS, node_uid="u")


@pytest.fixture(scope="module")
def emulated() -> Iterator[Requests]:
    with ApiServer() as server:
        yield Requests(server.url)


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_both_servers_refuse_alike(plane: LonePlane, emulated: Requests, wrong: str) -> None:
    right = build_slice([make_gpu(0)], OPTIONS, node_uid="u")
    assert [server.send("POST", DRY_RUN, right).code for server in (plane.admin, emulated)] == [201, 201]
    answers = [server.send("POST", DRY_RUN, changed(right, WRONG[wrong])) for server in (plane.admin, emulated)]
    assert [answer.code for answer in answers] == [422, 422]
    assert answers[0].findings == answers[1].findings


def test_a_step_of_zero_gets_no_answer_at_all(plane: LonePlane) -> None:
    """Whoever publishes it never learns why: ours are constants, and none of them is zero."""
    right = build_slice([make_gpu(0)], OPTIONS, node_uid="u")
    with pytest.raises(http.client.RemoteDisconnected):
        plane.admin.send("POST", DRY_RUN, changed(right, STEP_ZERO))
