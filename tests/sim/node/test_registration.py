"""How plugins become known to the node, and unknown again."""

from typing import Any

import pytest

from fracgpu.sim.node.errors import RegistrationFailed
from fracgpu.sim.node.plugin_registry import PluginRegistry
from fracgpu.sim.node.registration import choose_service, register

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
        ({"type": "CSIPlugin"}, "type 'CSIPlugin' is not DRAPlugin"),
        ({"name": ""}, "driver name is empty"),
        ({"endpoint": "relative.sock"}, "not an absolute path"),
        ({"supported_versions": ["v9.DRAPlugin"]}, "none of the services"),
    ],
    ids=["type", "name", "endpoint", "version"],
)
def test_what_cannot_be_used_is_told_so(bench: Any, info: dict[str, Any], message: str) -> None:
    bench.plugin.info |= info
    bench.plugin.start()
    with pytest.raises(RegistrationFailed, match=message):
        register(bench.base / "registry" / f"{DRIVER}-reg.sock")
    assert not bench.plugin.status.plugin_registered
    assert message in bench.plugin.status.error


def test_a_dead_socket_is_no_plugin(bench: Any) -> None:
    with pytest.raises(RegistrationFailed, match="UNAVAILABLE"):
        register(bench.base / "nobody.sock")


def test_a_plugin_that_comes_and_goes_and_comes_again(bench: Any) -> None:
    import threading

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
        from fracgpu.sim.lab.waiting import wait_for_collection

        wait_for_collection(
            bench.api, slices, lambda items: set(items) == {"other"} or None, deadline_s=30, what="slice wipe"
        )
