"""When the plugin says that pods can come."""

import threading

from fracgpu.kubeletplugin.telemetry.readiness import readiness_checks


class Slices:
    def __init__(self) -> None:
        self.published = threading.Event()
        self.refusal: str | None = None


def test_the_plugin_is_ready_when_it_is_registered_and_the_slice_is_decided() -> None:
    slices, registered = Slices(), threading.Event()
    checks = readiness_checks(registered=registered.is_set, slices=slices)

    def ready() -> dict[str, bool]:
        return {name: check() is None for name, check in checks.items()}

    assert ready() == {"registration": False, "slice": False}
    assert checks["registration"]() == "the kubelet has not registered gpu.fracgpu.dev yet; see its log"
    registered.set()
    slices.published.set()
    assert ready() == {"registration": True, "slice": True}
    slices.published.clear()
    assert ready() == {"registration": True, "slice": False}
    slices.refusal = "the API server drops consumedCapacity"
    assert ready() == {"registration": True, "slice": True}
