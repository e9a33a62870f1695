"""How plugins become known to the node, and unknown again."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from fracgpu.sim.lab.waiting import wait_for_collection
from fracgpu.sim.node.errors import RegistrationFailed
from fracgpu.sim.node.plugin_registry import PluginRegistry
from fracgpu.sim.node.registration import choose_service, register
from fracgpu.sim.node.slices import SliceJanitor
from fracgpu.sim.transport import ApiUnreachableError

DRIVER = "test.example.com"


@pytest.mark.parametrize(
    ("supported", "chosen"),
    [
        (["v1.DRAPlugin", "v1beta1.DRAPlugin"], "v1.DRAPlugin"),
        (["v1beta1.DRAPlugin", "v1.DRAPlugin"], "v1beta1.DRAPlugin"),
        (["v9.DRAPlugin", "v1.DRAPlugin", "v1alpha1.DRAResourceHealth"], "v1.DRAPlugin"),
        (["1.0.0"], None),
        ([], None),
    ],
    ids=["newest first", "the plugin's order counts", "unknown ones are passed over", "only unknown", "none"],
)
def test_the_first_known_service_is_chosen(supported: list[str], chosen: str | None) -> None:
    assert choose_service(supported) == chosen


def test_registration_tells_the_plugin(bench: Any) -> None:
    bench.plugin.start()
    found = register(bench.base / "registry" / f"{DRIVER}-reg.sock")
    assert (found.driver, found.service) == (DRIVER, "v1.DRAPlugin")
    assert bench.plugin.status.plugin_registered
    assert bench.plugin.status.error == ""


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"type": "CSIPlugin"}, "no handler registered for plugin type: CSIPlugin at socket"),
        ({"name": ""}, "driver name is empty"),
        ({"endpoint": "relative.sock"}, "not an absolute path"),
        ({"supported_versions": ["v9.DRAPlugin"]}, 'none of services supported by the plugin (["v9.DRAPlugin"]) are'),
        ({"supported_versions": []}, "empty list of supported gRPC services"),
    ],
    ids=["type", "name", "endpoint", "version", "no version"],
)
def test_what_cannot_be_used_is_told_so(bench: Any, info: dict[str, Any], message: str) -> None:
    bench.plugin.info |= info
    bench.plugin.start()
    with pytest.raises(RegistrationFailed, match=re.escape(message)):
        register(bench.base / "registry" / f"{DRIVER}-reg.sock")
    assert not bench.plugin.status.plugin_registered
    assert message in bench.plugin.status.error


def test_a_dead_socket_is_no_plugin(bench: Any) -> None:
    with pytest.raises(RegistrationFailed, match="code = Unavailable"):
        register(bench.base / "nobody.sock")


def test_a_plugin_that_comes_and_goes_and_comes_again(bench: Any) -> None:
    changes: list[str] = []
    changed = threading.Condition()

    def note(change: str) -> None:
        with changed:
            changes.append(change)
            changed.notify_all()

    registry = PluginRegistry(
        bench.base / "registry",
        on_usable=lambda driver: note(f"+{driver}"),
        on_unusable=lambda driver: note(f"-{driver}"),
    )
    registry.start()
    try:
        with changed:
            bench.plugin.start()
            assert changed.wait_for(lambda: len(changes) == 2, 30)
            bench.plugin.stop()
            assert changed.wait_for(lambda: len(changes) == 3, 30)
            assert changed.wait_for(lambda: registry.get(DRIVER) is None, 30)
            bench.plugin.start()
            assert changed.wait_for(lambda: len(changes) == 4, 30)
        assert registry.get(DRIVER) is not None
    finally:
        registry.stop()
    # Registered is not yet connected.
    assert changes == [f"-{DRIVER}", f"+{DRIVER}", f"-{DRIVER}", f"+{DRIVER}"]


@contextmanager
def watching(bench: Any, **options: Any) -> Iterator[PluginRegistry]:
    registry = PluginRegistry(bench.base / "registry", **options)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


def wait_until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_plugin_without_endpoint_is_called_at_its_registration_socket(bench: Any) -> None:
    bench.plugin.info["endpoint"] = ""
    bench.plugin.start()
    socket = bench.base / "registry" / f"{DRIVER}-reg.sock"
    assert register(socket).endpoint == str(socket)


def test_an_endpoint_is_taken_for_its_own_driver_only(bench: Any) -> None:
    bench.plugin.start()
    socket, endpoint = bench.base / "registry" / f"{DRIVER}-reg.sock", bench.plugin.info["endpoint"]
    assert register(socket, in_use={("other.example.com", endpoint)}).endpoint == endpoint
    with pytest.raises(RegistrationFailed, match="already registered for DRA driver plugin"):
        register(socket, in_use={(DRIVER, endpoint)})


@pytest.mark.parametrize(
    ("name", "found"),
    [("anything", True), ("below/it/s.sock", True), (".hidden.sock", False), (".below/s.sock", False)],
)
def test_a_socket_of_any_name_at_any_depth_is_one_unless_it_is_hidden(bench: Any, name: str, found: bool) -> None:
    bench.plugin.start()
    place = bench.base / "registry" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    (bench.base / "registry" / f"{DRIVER}-reg.sock").rename(place)
    with watching(bench) as registry:
        assert registry.wait_for(DRIVER, 30 if found else 0.5) is found


def test_a_refused_plugin_is_tried_again_ever_later(bench: Any) -> None:
    asked: list[float] = []
    bench.plugin.info |= {"supported_versions": ["v9.DRAPlugin"]}
    answer = bench.plugin.GetInfo

    def count(request: Any, context: Any) -> Any:
        asked.append(time.monotonic())
        return answer(request, context)

    bench.plugin.GetInfo = count
    bench.plugin.start()
    with watching(bench, registration_retry_s=(0.2, 0.8)) as registry:
        wait_until(lambda: len(asked) > 3)
        bench.plugin.info |= {"supported_versions": ["v1.DRAPlugin"]}
        assert registry.wait_for(DRIVER, 30)
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    for pause, least in zip(pauses, (0.2, 0.4, 0.8, 0.8), strict=False):
        assert pause >= least


def test_a_wipe_that_fails_is_tried_again_though_the_driver_is_back() -> None:
    asked: list[str] = []

    class Api:
        def delete(self, path: str) -> None:
            asked.append(path)
            if len(asked) < 3:
                raise ApiUnreachableError("API", "gone", remedy="wait")

    api: Any = Api()
    janitor = SliceJanitor(api, "node-1", grace_s=0.01, retry_s=(0.01, 0.01))
    janitor.driver_gone(DRIVER)
    wait_until(lambda: asked)
    janitor.keep(DRIVER)
    wait_until(lambda: len(asked) == 3)
    janitor.stop()
    selector = f"spec.nodeName%3Dnode-1%2Cspec.driver%3D{DRIVER}"
    assert set(asked) == {f"/apis/resource.k8s.io/v1/resourceslices?fieldSelector={selector}"}


def test_slices_are_wiped_at_start_and_after_the_plugin_left(bench: Any) -> None:
    slices = "/apis/resource.k8s.io/v1/resourceslices"

    def publish(name: str, node: str) -> None:
        spec = {"driver": DRIVER, "nodeName": node, "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}
        body = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}}
        bench.api.create(slices, body | {"spec": spec | {"devices": [{"name": "gpu-0"}]}})

    publish("stale", "node-1")
    publish("other", "node-2")
    bench.plugin.start()
    with bench.make_node() as node:
        assert {one["metadata"]["name"] for one in bench.api.get(slices)["items"]} == {"other"}
        assert node.wait_for_driver(DRIVER, 30)
        publish("fresh", "node-1")
        bench.plugin.stop()
        wait_for_collection(
            bench.api, slices, lambda items: set(items) == {"other"} or None, deadline_s=30, what="slice wipe"
        )
