"""The control plane under trouble: lost history, restarts, conflicts, an API that is not there."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fracgpu.sim.api import resources as r
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.control import ControlPlane
from fracgpu.sim.control.client import ApiClient
from fracgpu.sim.control.informer import Informer
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError


def test_stop_joins_all_threads() -> None:
    before = threading.active_count()
    with ApiServer() as server, ControlPlane(server.url):
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_plane_outlives_its_server() -> None:
    server = ApiServer()
    server.start()
    plane = ControlPlane(server.url)
    plane.start()
    server.stop()
    plane.stop()


def test_no_server_is_a_clear_error() -> None:
    with ApiServer() as server:
        url = server.url
    with pytest.raises(ApiUnreachableError, match="is the server up"):
        ApiClient(url).list(r.NODES)


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "127.0.0.1:1", ""])
def test_url_that_is_no_emulator(url: str) -> None:
    with pytest.raises(ApiUnreachableError, match="is not an address for http"):
        ControlPlane(url)


def test_restarted_plane_takes_over_where_the_old_one_was(
    start: Any, make_gpu: Any, make_claim: Any, make_pod: Any
) -> None:
    world = start(control_plane=False)
    world.slice(world.node("n1"), make_gpu("gpu-a"))
    world.apply(make_claim("t", "25Gi", template=True))
    with world.controlled():
        world.apply(make_pod("p1", template="t"))
        world.bound("p1")
    world.apply(make_pod("p2", template="t"))
    with world.controlled():
        world.refusal("p2", "max free 15360Mi")
        assert len(world.all(r.RESOURCE_CLAIMS)) == 2
        world.kill("p1")
        world.bound("p2")


@pytest.mark.parametrize("step", ["finalizer", "allocated", "reserved"])
def test_work_that_was_cut_off_is_finished(
    start: Any, make_gpu: Any, make_claim: Any, make_pod: Any, step: str
) -> None:
    world = start(control_plane=False)
    world.slice(world.node("n1"), make_gpu("gpu-a"))
    claim = world.client.create(r.RESOURCE_CLAIMS, "default", make_claim("c", "1Gi"))
    world.apply(make_pod("p", claim="c"))
    claim["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    claim = world.client.update(r.RESOURCE_CLAIMS, claim)
    if step != "finalizer":
        result = {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-a"}
        claim["status"]["allocation"] = {
            "allocationTimestamp": "2026-01-01T00:00:00Z",
            "devices": {"results": [result]},
        }
        if step == "reserved":
            pod = world.get(r.PODS, "p")
            claim["status"]["reservedFor"] = [{"resource": "pods", "name": "p", "uid": pod["metadata"]["uid"]}]
        world.client.update(r.RESOURCE_CLAIMS, claim, subresource="status")
    with world.controlled():
        assert world.bound("p") == "n1"
    assert len(world.get(r.RESOURCE_CLAIMS, "c")["status"]["reservedFor"]) == 1


def test_writers_in_the_way_are_survived(one_node: Any, make_claim: Any, make_pod: Any) -> None:
    """Somebody else writes to the same claims all the time: conflicts, but every pod is placed once."""
    stop = threading.Event()
    refusals: list[int] = []

    def disturb() -> None:
        client, count = ApiClient(one_node.server.url), 0
        while not stop.is_set():
            for claim in client.list(r.RESOURCE_CLAIMS)[0]:
                count += 1
                claim["metadata"].setdefault("annotations", {})["example.com/n"] = str(count)
                try:
                    client.update(r.RESOURCE_CLAIMS, claim)
                except ApiRefusedError as error:
                    refusals.append(error.code)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        one_node.apply(make_claim("t", "1Gi", template=True))
        one_node.apply(*(make_pod(f"p{index}", template="t") for index in range(6)))
        for index in range(6):
            one_node.bound(f"p{index}")
    finally:
        stop.set()
        thread.join()
    claims = one_node.all(r.RESOURCE_CLAIMS)
    assert set(refusals) <= {404, 409}
    assert len(claims) == 6
    assert all(len(claim["status"]["reservedFor"]) == 1 for claim in claims)


class Seen:
    """Counts calls and lets a test wait for a state of an informer."""

    def __init__(self) -> None:
        self.condition = threading.Condition()

    def __call__(self) -> None:
        with self.condition:
            self.condition.notify_all()


def test_informer_lists_again_after_410() -> None:
    with ApiServer(history=5) as server:
        seen = Seen()
        client = ApiClient(server.url)
        informer = Informer(client, r.NODES, seen)
        # A revision that has left the history: what a long interruption leads to.
        informer._revision = "1"
        for index in range(20):
            client.create(r.NODES, "", {"metadata": {"name": f"n{index:02}"}})
        informer.start()
        try:
            with seen.condition:
                assert seen.condition.wait_for(lambda: len(informer.all()) == 20, 30)
        finally:
            informer.stop()


def test_informer_keeps_own_writes_against_older_news() -> None:
    informer = Informer(ApiClient("http://127.0.0.1:1"), r.NODES, lambda: None)
    new = {"metadata": {"name": "n", "uid": "u", "resourceVersion": "9"}, "spec": {"unschedulable": True}}
    old = {"metadata": {"name": "n", "uid": "u", "resourceVersion": "8"}}
    informer.observe(new)
    informer._apply("MODIFIED", old)
    assert informer.get("", "n") is new
    other = {"metadata": {"name": "n", "uid": "former", "resourceVersion": "10"}}
    informer._apply("DELETED", other)
    assert informer.get("", "n") is new
