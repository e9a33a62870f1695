"""Several instances of one driver, as in a rolling update, and what they say of their devices' health."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from fracgpu.proto.drahealth.v1 import api_pb2 as health_pb2
from fracgpu.proto.drahealth.v1 import api_pb2_grpc as health_grpc
from fracgpu.proto.drahealth.v1alpha1 import api_pb2 as alpha_pb2
from fracgpu.proto.drahealth.v1alpha1 import api_pb2_grpc as alpha_grpc
from fracgpu.proto.pluginregistration.v1 import api_pb2 as registration_pb2
from fracgpu.proto.pluginregistration.v1 import api_pb2_grpc as registration_grpc
from fracgpu.sim.node.device_health import DeviceHealth, DeviceHealthCache, Report
from fracgpu.sim.node.plugin_registry import PluginRegistry

DRIVER = "test.example.com"
DEADLINE_S = 60.0


def wait_until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


class Instance(registration_grpc.RegistrationServicer, health_grpc.DRAResourceHealthServicer):
    """An instance of a driver. `kill` is a SIGKILL's effect: nobody listens, the socket files stay."""

    def __init__(self, base: Path, uid: str, *services: str, endpoint: str | None = None) -> None:
        self.endpoint = base / "plugin" / f"dra-{endpoint or uid}.sock"
        self.registration = base / "registry" / f"{DRIVER}-{uid}-reg.sock"
        self.services = ["v1.DRAPlugin", *services]
        self.health = health_pb2.HEALTHY
        self.turn = 0
        self.refusal = ""
        self.streams = 0
        self.changed = threading.Condition()
        self.stopping = False
        self.servers = [self._serve(path) for path in dict.fromkeys((self.endpoint, self.registration))]

    def _serve(self, path: Path) -> grpc.Server:
        path.parent.mkdir(exist_ok=True)
        server = grpc.server(futures.ThreadPoolExecutor(4))
        registration_grpc.add_RegistrationServicer_to_server(self, server)
        health_grpc.add_DRAResourceHealthServicer_to_server(self, server)
        # One implementation looks at which messages it was asked with.
        alpha: Any = self
        alpha_grpc.add_DRAResourceHealthServicer_to_server(alpha, server)
        hidden = path.with_name(f".{path.name}")
        server.add_insecure_port(f"unix:{hidden}")
        server.start()
        hidden.rename(path)
        return server

    def GetInfo(self, _request: Any, _context: Any) -> registration_pb2.PluginInfo:  # noqa: N802
        return registration_pb2.PluginInfo(
            type="DRAPlugin", name=DRIVER, endpoint=str(self.endpoint), supported_versions=self.services
        )

    def NotifyRegistrationStatus(  # noqa: N802
        self, request: Any, _context: Any
    ) -> registration_pb2.RegistrationStatusResponse:
        self.refusal = request.error
        return registration_pb2.RegistrationStatusResponse()

    def NodeWatchResources(self, request: Any, _context: Any) -> Iterator[Any]:  # noqa: N802
        messages: Any = health_pb2 if isinstance(request, health_pb2.NodeWatchResourcesRequest) else alpha_pb2
        self.streams += 1
        turn = -1
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stopping or self.turn != turn, DEADLINE_S)  # noqa: B023
                if self.stopping:
                    return
                said, turn = self.health, self.turn
            device = messages.DeviceIdentifier(pool_name="n1", device_name="gpu-0")
            entry = messages.DeviceHealth(
                device=device, health=said, last_updated_time=int(time.time()), health_check_timeout_seconds=30
            )
            yield messages.NodeWatchResourcesResponse(devices=[entry])

    def says(self, health: Any) -> None:
        with self.changed:
            self.health = health
            self.turn += 1
            self.changed.notify_all()

    def says_again(self) -> None:
        self.says(self.health)

    def end_streams(self) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()

    def kill(self) -> None:
        self.end_streams()
        for server in self.servers:
            server.stop(None).wait()

    def stop(self) -> None:
        self.registration.unlink(missing_ok=True)
        self.endpoint.unlink(missing_ok=True)
        self.kill()


class Kubelet:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.told: list[str] = []
        self.health = DeviceHealthCache()
        self.registry = PluginRegistry(
            base / "registry",
            on_usable=lambda driver: self.told.append(f"+{driver}"),
            on_unusable=lambda driver: self.told.append(f"-{driver}"),
            health=self.health,
            health_retry_s=0.05,
        )
        self.instances: list[Instance] = []
        self.registry.start()

    def start(self, uid: str, *services: str, endpoint: str | None = None) -> Instance:
        self.instances.append(Instance(self.base, uid, *services, endpoint=endpoint))
        return self.instances[-1]

    def uses(self, instance: Instance) -> bool:
        plugin = self.registry.get(DRIVER)
        return plugin is not None and plugin.endpoint == str(instance.endpoint)

    def shows(self) -> str:
        return self.health.get(DRIVER, "n1", "gpu-0").health


@pytest.fixture
def kubelet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    running = Kubelet(tmp_path_factory.mktemp("k"))
    yield running
    running.registry.stop()
    for instance in running.instances:
        instance.stop()


def test_the_newest_instance_is_used_and_the_old_one_again_when_it_goes(kubelet: Kubelet) -> None:
    old = kubelet.start("old")
    wait_until(lambda: kubelet.uses(old) and kubelet.told[-1:] == [f"+{DRIVER}"])
    new = kubelet.start("new")
    wait_until(lambda: kubelet.uses(new))
    assert kubelet.registry.instances(DRIVER) == [str(old.endpoint), str(new.endpoint)]
    new.stop()
    wait_until(lambda: kubelet.uses(old))
    # The driver was usable all the time.
    assert kubelet.told == [f"-{DRIVER}", f"+{DRIVER}"]
    old.stop()
    wait_until(lambda: kubelet.registry.get(DRIVER) is None)
    wait_until(lambda: kubelet.told == [f"-{DRIVER}", f"+{DRIVER}", f"-{DRIVER}"])


def test_a_killed_instance_is_passed_over_though_its_socket_files_stay(kubelet: Kubelet) -> None:
    old, new = kubelet.start("old"), None
    wait_until(lambda: kubelet.uses(old))
    new = kubelet.start("new")
    wait_until(lambda: kubelet.uses(new) and len(kubelet.told) == 2)
    new.kill()
    assert new.registration.exists()
    wait_until(lambda: kubelet.uses(old))
    assert kubelet.told == [f"-{DRIVER}", f"+{DRIVER}"]
    old.kill()
    wait_until(lambda: kubelet.told[2:] == [f"-{DRIVER}"])
    # Nobody is connected: the newest is as good as any.
    assert kubelet.uses(new)


def test_a_killed_instance_that_listens_again_is_connected_again(kubelet: Kubelet) -> None:
    one = kubelet.start("one")
    wait_until(lambda: kubelet.told == [f"-{DRIVER}", f"+{DRIVER}"])
    one.kill()
    wait_until(lambda: kubelet.told[2:] == [f"-{DRIVER}"])
    again = kubelet.start("one")
    wait_until(lambda: kubelet.told[3:] == [f"+{DRIVER}"])
    assert kubelet.uses(again)
    assert kubelet.registry.instances(DRIVER) == [str(again.endpoint)]


def test_two_instances_can_not_share_an_endpoint(kubelet: Kubelet) -> None:
    first = kubelet.start("first")
    wait_until(lambda: kubelet.uses(first))
    second = kubelet.start("second", endpoint="first")
    wait_until(lambda: "already registered for DRA driver plugin" in second.refusal)
    assert kubelet.registry.instances(DRIVER) == [str(first.endpoint)]


@pytest.mark.parametrize(
    "services",
    [
        ("v1.DRAResourceHealth",),
        ("v1alpha1.DRAResourceHealth",),
        ("v1alpha1.DRAResourceHealth", "v1.DRAResourceHealth"),
    ],
    ids=["v1", "v1alpha1", "both"],
)
def test_health_is_followed_when_it_is_advertised(kubelet: Kubelet, services: tuple[str, ...]) -> None:
    one = kubelet.start("one", *services)
    wait_until(lambda: kubelet.shows() == "Healthy")
    one.says(health_pb2.UNHEALTHY)
    wait_until(lambda: kubelet.shows() == "Unhealthy")
    assert one.streams == 1


def test_health_is_asked_for_whether_or_not_it_is_advertised(kubelet: Kubelet) -> None:
    kubelet.start("one")
    wait_until(lambda: kubelet.shows() == "Healthy")


def test_the_end_of_a_stream_takes_away_what_every_instance_said(kubelet: Kubelet) -> None:
    old = kubelet.start("old")
    wait_until(lambda: kubelet.shows() == "Healthy")
    new = kubelet.start("new")
    wait_until(lambda: new.streams == 1)
    old.stop()
    wait_until(lambda: kubelet.shows() == "Unknown")
    # Until the other one says something again, be it the same.
    new.says_again()
    wait_until(lambda: kubelet.shows() == "Healthy")


def test_a_stream_that_ends_is_opened_again(kubelet: Kubelet) -> None:
    one = kubelet.start("one", "v1.DRAResourceHealth")
    wait_until(lambda: one.streams == 1)
    one.end_streams()
    wait_until(lambda: one.streams > 2)
    one.stopping = False
    wait_until(lambda: kubelet.shows() == "Healthy")


class Shown:
    """A cache whose clock a test moves, and how often it told of a change."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.changes = 0
        self.cache = DeviceHealthCache(on_change=self._count, clock=lambda: self.now)

    def _count(self) -> None:
        self.changes += 1

    def report(self, health: int, **changes: Any) -> None:
        fields: Any = {"pool": "n1", "device": "gpu-0", "health": health} | changes
        self.cache.update(DRIVER, [Report(**fields)])

    def get(self) -> DeviceHealth:
        return self.cache.get(DRIVER, "n1", "gpu-0")


def test_an_entry_that_nobody_renews_becomes_unknown() -> None:
    shown = Shown()
    assert shown.get() == DeviceHealth("Unknown")
    shown.report(1)
    assert shown.get() == DeviceHealth("Healthy")
    shown.now += 30
    assert shown.get() == DeviceHealth("Healthy")
    shown.now += 1
    assert shown.get() == DeviceHealth("Unknown")
    shown.report(2, timeout_s=5.0, message="x" * 2000)
    assert shown.get() == DeviceHealth("Unhealthy", "x" * 1021 + "...")
    # Cut by bytes, be it in the middle of a character.
    shown.report(2, timeout_s=5.0, message="é" * 1000)
    assert shown.get() == DeviceHealth("Unhealthy", "é" * 510 + "\ufffd...")
    shown.now += 6
    assert shown.get() == DeviceHealth("Unknown")
    shown.report(9)
    assert shown.get() == DeviceHealth("Unknown")


def test_only_another_report_is_a_change() -> None:
    shown = Shown()
    for health, changes in ((1, 1), (1, 1), (2, 2), (2, 2), (0, 3), (0, 3)):
        shown.report(health)
        assert shown.changes == changes
    shown.report(1)
    assert shown.changes == 4
    # It had become unknown by age, and is healthy again: nobody is told, because the reports are the same.
    shown.now += 60
    shown.report(1)
    assert shown.changes == 4
    shown.report(1, timeout_s=5.0)
    assert shown.changes == 5
    # After a stream ended every report is new.
    shown.cache.clear(DRIVER)
    assert (shown.get(), shown.changes) == (DeviceHealth("Unknown"), 5)
    shown.report(1, timeout_s=5.0)
    assert (shown.get(), shown.changes) == (DeviceHealth("Healthy"), 6)
    # Other drivers' devices are others.
    assert shown.cache.get("other", "n1", "gpu-0") == DeviceHealth("Unknown")


def test_a_device_that_is_left_out_is_unknown_when_it_is_too_old() -> None:
    shown = Shown()
    shown.report(1)
    shown.report(1, device="gpu-1")
    shown.now += 30
    shown.report(1, device="gpu-1")
    assert (shown.get().health, shown.changes) == ("Healthy", 2)
    shown.now += 1
    shown.report(1, device="gpu-1")
    assert (shown.get().health, shown.changes) == ("Unknown", 3)
