"""Sockets over time: names, what dead instances leave, what vanishes, what the kubelet refuses."""

import os
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.errors import SocketInvalid
from fracgpu.kubeletplugin.gpus.health import HealthMonitor
from fracgpu.kubeletplugin.kubelet.health_service import HealthService
from fracgpu.kubeletplugin.kubelet.registration import PluginServers
from fracgpu.kubeletplugin.kubelet.services import add_services
from fracgpu.kubeletplugin.kubelet.sockets import dra_socket, is_dead, registration_socket, stale_sockets
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.proto.dra.v1 import api_pb2 as dra_pb2
from fracgpu.proto.dra.v1 import api_pb2_grpc as dra_grpc
from fracgpu.proto.drahealth.v1 import api_pb2 as health_pb2
from fracgpu.proto.drahealth.v1 import api_pb2_grpc as health_grpc
from fracgpu.proto.pluginregistration.v1 import api_pb2, api_pb2_grpc

UID = "0f7e3c52-2c7e-4d0a-9f0b-1f2d3c4b5a69"
TIMEOUT = 60


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def short_world(world: Any, place: Path) -> Any:
    world.configure(plugin_dir=place / "p", registry_dir=place / "r", pod_uid="u1")
    return world


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Instance:
    """One plugin's servers, and its clock."""

    def __init__(self, world: Any, uid: str | None = None) -> None:
        if uid is not None:
            world.configure(pod_uid=uid)
        preparer = world.preparer()
        self.options: PluginOptions = world.options
        self.clock = Clock()
        self.monitor = HealthMonitor(world.inventory)
        self.monitor.look()
        health = HealthService(self.monitor, pool="n1")
        self.servers = PluginServers(
            self.options, lambda server: add_services(preparer, server), health, clock=self.clock
        )
        self.servers.start()

    def answers(self) -> bool:
        """Whether both sockets answer: the registration, and the health stream behind the DRA socket."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        try:
            with grpc.insecure_channel(f"unix:{registration_socket(self.options).path}", options=options) as channel:
                info = api_pb2_grpc.RegistrationStub(channel).GetInfo(api_pb2.InfoRequest(), timeout=TIMEOUT)
            with grpc.insecure_channel(f"unix:{info.endpoint}", options=options) as channel:
                stream = health_grpc.DRAResourceHealthStub(channel).NodeWatchResources(
                    health_pb2.NodeWatchResourcesRequest(), timeout=TIMEOUT
                )
                return len(next(stream).devices) == 2
        except grpc.RpcError:
            return False

    def notify(self, *, accepted: bool) -> None:
        with grpc.insecure_channel(f"unix:{registration_socket(self.options).path}") as channel:
            status = api_pb2.RegistrationStatus(plugin_registered=accepted, error="" if accepted else "name is taken")
            api_pb2_grpc.RegistrationStub(channel).NotifyRegistrationStatus(status, timeout=TIMEOUT)

    def inodes(self) -> tuple[int, int]:
        dra, registration = (place(self.options).path.lstat().st_ino for place in (dra_socket, registration_socket))
        return dra, registration


@pytest.fixture
def instance(short_world: Any) -> Iterator[Instance]:
    one = Instance(short_world)
    yield one
    one.servers.stop()


def names(place: Path) -> set[str]:
    return {path.name for directory in ("p", "r") for path in (place / directory).glob("*")}


def leave_dead(path: Path, *, age_seconds: float = 60.0) -> Path:
    """Leave what a killed plugin leaves: a socket at which nobody listens."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    past = path.lstat().st_mtime - age_seconds
    os.utime(path, (past, past))
    return path


def test_without_a_uid_the_names_are_fixed_and_with_one_they_are_the_instances_own() -> None:
    fixed = PluginOptions(node_name="n1")
    assert dra_socket(fixed).path == Path("/var/lib/kubelet/plugins/gpu.fracgpu.dev/dra.sock")
    assert registration_socket(fixed).path == Path("/var/lib/kubelet/plugins_registry/gpu.fracgpu.dev-reg.sock")
    own = PluginOptions(node_name="n1", pod_uid=UID)
    assert dra_socket(own).path.name == f"dra-{UID}.sock"
    assert registration_socket(own).path.name == f"gpu.fracgpu.dev-{UID}-reg.sock"
    dra_socket(own).check()
    registration_socket(own).check()


def test_a_uid_that_makes_the_path_too_long_is_hashed() -> None:
    registry = Path("/var/snap/microk8s/common/var/lib/kubelet/plugins_registry")
    paths = [
        registration_socket(PluginOptions(node_name="n1", pod_uid=uid, registry_dir=registry)) for uid in (UID, UID[1:])
    ]
    for place in paths:
        place.check()
        assert len(str(place.path)) <= 107
        assert place.path.name.startswith("gpu.fracgpu.dev-")
    assert paths[0] != paths[1]


def test_where_not_even_the_hash_fits_the_option_is_named() -> None:
    registry = Path("/" + "x" * 90)
    with pytest.raises(SocketInvalid, match=r"--registry-dir: socket path .* has \d+ bytes, the system allows 107"):
        registration_socket(PluginOptions(node_name="n1", pod_uid=UID, registry_dir=registry)).check()


def test_hidden_names_are_not_seen_by_the_kubelet_and_differ() -> None:
    place = dra_socket(PluginOptions(node_name="n1", pod_uid=UID))
    other = dra_socket(PluginOptions(node_name="n1", pod_uid=UID[1:]))
    hidden = {place.hidden(0).name, place.hidden(1).name, other.hidden(0).name}
    assert len(hidden) == 3
    assert all(name.startswith(".") and not name.endswith(".sock") for name in hidden)


def test_what_dead_instances_left_goes_and_what_is_anybodys_stays(short_world: Any, place: Path) -> None:
    registry, plugins = place / "r", place / "p"
    dead = [
        leave_dead(plugins / "dra.sock"),
        leave_dead(plugins / "dra-old.sock"),
        leave_dead(plugins / ".0123abcd7"),
        leave_dead(registry / f"{DRIVER_NAME}-reg.sock"),
        leave_dead(registry / f"{DRIVER_NAME}-old-reg.sock"),
        leave_dead(registry / ".fedcba980"),
    ]
    foreign = [
        leave_dead(registry / "other.example.com-reg.sock"),
        leave_dead(registry / f"{DRIVER_NAME}eloper.example.com-reg.sock"),
        leave_dead(plugins / ".0123abce8", age_seconds=0),
    ]
    file = registry / f"{DRIVER_NAME}-file-reg.sock"
    file.touch()
    live = Instance(short_world, "live")
    one = Instance(short_world, "u1")
    try:
        assert not [path for path in dead if path.exists()]
        assert all(path.exists() for path in [*foreign, file])
        assert live.answers()
        assert one.answers()
        # A killed instance that the first look came too early for.
        late = leave_dead(registry / f"{DRIVER_NAME}-late-reg.sock")
        one.clock.now += 5
        one.servers.look()
        assert late.exists()
        one.clock.now += 60
        one.servers.look()
        assert not late.exists()
    finally:
        one.servers.stop()
        live.servers.stop()
    assert list(stale_sockets(one.options)) == []


def test_only_a_refused_connection_is_death(place: Path) -> None:
    assert is_dead(leave_dead(place / "dead"))
    assert not is_dead(place / "absent")
    (place / "file").touch()
    assert not is_dead(place / "file")
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(place / "busy"))
        busy.listen(0)
        # Nobody accepts and the queue is full: somebody's all the same.
        assert not [None for _ in range(3) if is_dead(place / "busy")]


def test_the_registration_socket_is_there_before_anything_of_others_goes(
    short_world: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    dead = leave_dead(place / "p" / "dra-old.sock")
    monkeypatch.setattr(
        "fracgpu.kubeletplugin.prepare.files.Files.unlink_socket",
        lambda _, path: seen.append(registration_socket(short_world.options).path.exists()) if path == dead else None,
    )
    one = Instance(short_world)
    one.servers.stop()
    assert seen[0] is True


@pytest.mark.parametrize("gone", ["dra", "registration", "both-directories"])
def test_what_vanishes_is_made_anew(instance: Instance, place: Path, gone: str) -> None:
    before = instance.inodes()
    instance.servers.look()
    assert instance.inodes() == before
    if gone == "dra":
        dra_socket(instance.options).path.unlink()
    elif gone == "registration":
        registration_socket(instance.options).path.unlink()
    else:
        shutil.rmtree(place / "p")
        shutil.rmtree(place / "r")
    instance.servers.look()
    assert instance.answers()
    assert names(place) == {"dra-u1.sock", f"{DRIVER_NAME}-u1-reg.sock"}


def test_a_call_over_the_old_connection_survives_a_new_socket(instance: Instance) -> None:
    with grpc.insecure_channel(f"unix:{dra_socket(instance.options).path}") as channel:
        stub = health_grpc.DRAResourceHealthStub(channel)
        stream = stub.NodeWatchResources(health_pb2.NodeWatchResourcesRequest(), timeout=TIMEOUT)
        next(stream)
        dra_socket(instance.options).path.unlink()
        instance.servers.look()
        instance.monitor._inventory.gpus = instance.monitor._inventory.gpus[:1]  # type: ignore[attr-defined]
        for _ in range(2):
            instance.monitor.look()
        # The list is sent after every look, and the first of the two does not yet give the GPU up.
        healths = [device.health for device in next(stream).devices]
        if healths == [health_pb2.HEALTHY, health_pb2.HEALTHY]:
            healths = [device.health for device in next(stream).devices]
        assert healths == [health_pb2.HEALTHY, health_pb2.UNHEALTHY]


def test_a_dead_socket_in_our_place_is_replaced_and_a_live_one_is_not(short_world: Any) -> None:
    old = Instance(short_world, "")
    new = Instance(short_world, "")
    try:
        inodes = new.inodes()
        old.servers.look()
        assert new.inodes() == inodes
        assert new.answers()
    finally:
        new.servers.stop()
    leave_dead(dra_socket(old.options).path)
    old.servers.look()
    assert old.answers()
    old.servers.stop()


def test_a_plugin_that_stops_does_not_bring_its_sockets_back(instance: Instance, place: Path) -> None:
    instance.servers.stop()
    instance.servers.look()
    assert names(place) == set()


def test_a_socket_that_can_not_be_removed_does_not_cut_off_what_is_in_progress(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(_: object, path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("fracgpu.kubeletplugin.prepare.files.Files.unlink_socket", read_only)
    with grpc.insecure_channel(f"unix:{dra_socket(instance.options).path}") as channel:
        stub = health_grpc.DRAResourceHealthStub(channel)
        stream = stub.NodeWatchResources(health_pb2.NodeWatchResourcesRequest(), timeout=TIMEOUT)
        next(stream)
        instance.servers.stop()
        assert list(stream) == []
        assert stream.code() is grpc.StatusCode.OK
    assert caplog.text.count("socket not removed") == 2


def test_a_call_in_progress_is_answered_before_the_plugin_ends(short_world: Any) -> None:
    entered, finish = threading.Event(), threading.Event()
    get = short_world.cluster.get_claim

    def slow(*arguments: Any, **options: Any) -> Any:
        entered.set()
        assert finish.wait(TIMEOUT)
        return get(*arguments, **options)

    short_world.cluster.get_claim = slow
    ref = short_world.claim()
    one = Instance(short_world)
    with grpc.insecure_channel(f"unix:{dra_socket(one.options).path}") as channel:
        claim = dra_pb2.Claim(namespace=ref.namespace, name=ref.name, uid=ref.uid)
        request = dra_pb2.NodePrepareResourcesRequest(claims=[claim])
        answer = dra_grpc.DRAPluginStub(channel).NodePrepareResources.future(request, timeout=TIMEOUT)
        assert entered.wait(TIMEOUT)
        stopping = threading.Thread(target=one.servers.stop)
        stopping.start()
        # A grace of nothing would end the call before this is over.
        stopping.join(0.2)
        assert stopping.is_alive()
        finish.set()
        assert answer.result().claims[ref.uid].error == ""
        stopping.join(TIMEOUT)
    assert ref.uid in short_world.entries()


def test_trouble_is_said_once_and_the_loop_goes_on(
    instance: Instance, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(place / "r")
    (place / "r").touch()
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 4:
            (place / "r").unlink()
        return len(pauses) == 6

    instance.servers.run(wait)
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == ["sockets can not be made"]
    assert pauses == [2.0] * 6
    assert instance.answers()


def test_a_refusal_is_answered_by_a_new_socket_with_growing_pauses(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        before = instance.inodes()
        instance.notify(accepted=False)
        assert not instance.servers.registration.registered.is_set()
        instance.servers.look()
        instance.clock.now += pause - 0.5
        instance.servers.look()
        assert instance.inodes() == before
        instance.clock.now += 0.5
        instance.servers.look()
        # The endpoint is what the kubelet knows us by; the registration is what it looks at again.
        assert instance.inodes()[0] == before[0]
        assert instance.inodes()[1] != before[1]
    assert [record.__dict__["error"] for record in caplog.records if record.levelname == "ERROR"] == [
        "name is taken"
    ] * 8
    instance.notify(accepted=True)
    assert instance.servers.registration.registered.is_set()
    before = instance.inodes()
    instance.clock.now += 600
    instance.servers.look()
    assert instance.inodes() == before
    instance.notify(accepted=False)
    instance.servers.look()
    instance.clock.now += 1
    instance.servers.look()
    assert instance.inodes()[1] != before[1]


def test_sockets_and_their_directories_are_for_root(instance: Instance, place: Path) -> None:
    assert {stat.S_IMODE((place / name).stat().st_mode) for name in ("p", "r")} == {0o711}


def test_an_open_health_stream_ends_well_and_does_not_use_up_the_time_to_stop(instance: Instance) -> None:
    with grpc.insecure_channel(f"unix:{dra_socket(instance.options).path}") as channel:
        stub = health_grpc.DRAResourceHealthStub(channel)
        stream = stub.NodeWatchResources(health_pb2.NodeWatchResourcesRequest(), timeout=TIMEOUT)
        next(stream)
        instance.servers.stop()
        # After the time for calls in progress it would have been cut off.
        assert list(stream) == []
        assert stream.code() is grpc.StatusCode.OK
