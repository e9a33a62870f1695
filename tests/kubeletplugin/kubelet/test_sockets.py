"""The plugin as a kubelet sees it: real sockets, a real client, the handshake and both service versions."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

from fracgpu.kubeletplugin.errors import SocketInvalid
from fracgpu.kubeletplugin.gpus.health import HealthMonitor
from fracgpu.kubeletplugin.kubelet.health_service import HealthService
from fracgpu.kubeletplugin.kubelet.registration import PluginServers
from fracgpu.kubeletplugin.kubelet.services import add_services
from fracgpu.kubeletplugin.kubelet.sockets import dra_socket, registration_socket
from fracgpu.proto.dra.v1 import api_pb2 as v1_pb2
from fracgpu.proto.dra.v1 import api_pb2_grpc as v1_grpc
from fracgpu.proto.dra.v1beta1 import api_pb2 as v1beta1_pb2
from fracgpu.proto.dra.v1beta1 import api_pb2_grpc as v1beta1_grpc
from fracgpu.proto.pluginregistration.v1 import api_pb2 as registration_pb2
from fracgpu.proto.pluginregistration.v1 import api_pb2_grpc as registration_grpc

VERSIONS = pytest.mark.parametrize(
    ("messages", "services"), [(v1_pb2, v1_grpc), (v1beta1_pb2, v1beta1_grpc)], ids=["v1", "v1beta1"]
)
TIMEOUT = 60


@pytest.fixture
def short_world(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A world whose sockets fit into a socket path, whatever the test is called."""
    place = tmp_path_factory.mktemp("s")
    world.configure(plugin_dir=place / "p", registry_dir=place / "r")
    return world


def make_servers(world: Any, preparer: Any = None, **options: Any) -> PluginServers:
    serving = preparer or world.preparer()
    health = HealthService(HealthMonitor(world.inventory), pool="n1")
    return PluginServers(world.options, lambda server: add_services(serving, server), health, **options)


@pytest.fixture
def servers(short_world: Any) -> Iterator[PluginServers]:
    running = make_servers(short_world)
    running.start()
    yield running
    running.stop()


def call(path: Path, stub: Any, method: str, request: Any) -> Any:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        return getattr(stub(channel), method)(request, timeout=TIMEOUT, wait_for_ready=True)


def claims(messages: ModuleType, *refs: Any) -> list[Any]:
    return [messages.Claim(namespace=ref.namespace, name=ref.name, uid=ref.uid) for ref in refs]


@VERSIONS
def test_the_kubelets_handshake_leads_to_a_service_that_answers(
    short_world: Any, servers: PluginServers, messages: ModuleType, services: ModuleType
) -> None:
    (registrar,) = short_world.options.registry_dir.iterdir()
    info = call(registrar, registration_grpc.RegistrationStub, "GetInfo", registration_pb2.InfoRequest())
    assert (info.type, info.name) == ("DRAPlugin", "gpu.fracgpu.dev")
    assert list(info.supported_versions) == [
        "v1.DRAPlugin",
        "v1beta1.DRAPlugin",
        "v1alpha1.DRAResourceHealth",
        "v1.DRAResourceHealth",
    ]
    assert info.endpoint == str(dra_socket(short_world.options).path)
    call(
        registrar,
        registration_grpc.RegistrationStub,
        "NotifyRegistrationStatus",
        registration_pb2.RegistrationStatus(plugin_registered=True),
    )
    assert servers.registration.registered.is_set()
    ref = short_world.claim()
    request = messages.NodePrepareResourcesRequest(claims=claims(messages, ref))
    answer = call(Path(info.endpoint), services.DRAPluginStub, "NodePrepareResources", request)
    (device,) = answer.claims[ref.uid].devices
    assert list(device.cdi_device_ids) == [f"gpu.fracgpu.dev/claim={ref.uid}-gpu-gpu-11111111-0"]
    assert (list(device.request_names), device.pool_name, device.device_name) == (["gpu"], "n1", "gpu-11111111")
    # A claim without a share, and a version whose devices have none: nothing is sent.
    assert "share_id" not in [field.name for field, _ in device.ListFields()]
    assert answer.claims[ref.uid].error == ""


def test_a_refusal_of_the_kubelet_is_logged(
    short_world: Any, servers: PluginServers, caplog: pytest.LogCaptureFixture
) -> None:
    status = registration_pb2.RegistrationStatus(plugin_registered=False, error="name is taken")
    path = registration_socket(short_world.options).path
    call(path, registration_grpc.RegistrationStub, "NotifyRegistrationStatus", status)
    assert not servers.registration.registered.is_set()
    assert [record.__dict__["error"] for record in caplog.records if record.levelname == "ERROR"] == ["name is taken"]


@VERSIONS
def test_one_bad_claim_fails_alone_with_its_own_text(
    short_world: Any, servers: PluginServers, messages: ModuleType, services: ModuleType
) -> None:
    good, bad = short_world.claim("good"), short_world.claim("bad", {"pool": "n2"})
    gone = short_world.claim("gone")
    del short_world.cluster.claims["ns", "gone"]
    request = messages.NodePrepareResourcesRequest(claims=claims(messages, bad, good, gone))
    answer = call(dra_socket(short_world.options).path, services.DRAPluginStub, "NodePrepareResources", request)
    assert set(answer.claims) == {good.uid, bad.uid, gone.uid}
    assert answer.claims[good.uid].error == ""
    assert len(answer.claims[good.uid].devices) == 1
    assert "is allocated in pool n2, this is node n1" in answer.claims[bad.uid].error
    assert answer.claims[gone.uid].error == "claim ns/gone: does not exist; delete the pod, its claim is gone"
    assert not answer.claims[bad.uid].devices


@VERSIONS
def test_unprepare_answers_for_known_and_unknown_claims(
    short_world: Any, servers: PluginServers, messages: ModuleType, services: ModuleType
) -> None:
    known, unknown = short_world.claim("known"), short_world.claim("unknown")
    path = dra_socket(short_world.options).path
    prepare = messages.NodePrepareResourcesRequest(claims=claims(messages, known))
    call(path, services.DRAPluginStub, "NodePrepareResources", prepare)
    request = messages.NodeUnprepareResourcesRequest(claims=claims(messages, known, unknown))
    answer = call(path, services.DRAPluginStub, "NodeUnprepareResources", request)
    assert {uid: entry.error for uid, entry in answer.claims.items()} == {known.uid: "", unknown.uid: ""}
    assert short_world.residue() == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device"), "claim ns/c1: [Errno 28] No space left on device; check the file"),
        (RuntimeError("bug"), "claim ns/c1: RuntimeError: bug; report this as a defect of fracgpu"),
    ],
    ids=["disk", "bug"],
)
def test_whatever_happens_is_the_claims_answer_and_never_a_grpc_error(
    short_world: Any, error: Exception, text: str
) -> None:
    class Broken:
        def prepare(self, _ref: Any, _deadline: Any = None) -> Any:
            raise error

        def unprepare(self, _ref: Any, _deadline: Any = None) -> Any:
            raise error

    running = make_servers(short_world, Broken())
    running.start()
    try:
        path, ref = dra_socket(short_world.options).path, short_world.claim()
        prepare = v1_pb2.NodePrepareResourcesRequest(claims=claims(v1_pb2, ref))
        unprepare = v1_pb2.NodeUnprepareResourcesRequest(claims=claims(v1_pb2, ref))
        for method, request in (("NodePrepareResources", prepare), ("NodeUnprepareResources", unprepare)):
            answer = call(path, v1_grpc.DRAPluginStub, method, request)
            assert answer.claims[ref.uid].error.startswith(text)
    finally:
        running.stop()


def test_concurrent_prepares_of_one_and_of_many_claims_agree(short_world: Any, servers: PluginServers) -> None:
    """Eight callers, of whom pairs want the same claim; 8 x 8Gi do not fit beside each other into 44Gi."""
    refs = [short_world.claim(f"c{number}", {"cores": 0}) for number in range(8)]
    barrier = threading.Barrier(16)

    def prepare(ref: Any) -> Any:
        barrier.wait(TIMEOUT)
        request = v1_pb2.NodePrepareResourcesRequest(claims=claims(v1_pb2, ref))
        return call(dra_socket(short_world.options).path, v1_grpc.DRAPluginStub, "NodePrepareResources", request)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(prepare, [*refs, *refs]))
    by_claim = [(answers[n].claims[ref.uid], answers[n + 8].claims[ref.uid]) for n, ref in enumerate(refs)]
    assert all(first == second for first, second in by_claim)
    granted = [first for first, _ in by_claim if not first.error]
    assert len(granted) == 5
    assert all("free 4096Mi of 45056Mi" in first.error for first, _ in by_claim if first.error)
    assert len(list(short_world.options.cdi_dir.iterdir())) == 5


def test_the_registration_socket_appears_last_and_goes_first(short_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = short_world.options
    running = make_servers(short_world)
    events: list[tuple[str, bool]] = []
    publish, unlink = running._files.publish_socket, running._files.unlink_socket

    def published(temporary: Path, final: Path) -> None:
        publish(temporary, final)
        events.append((f"publish {final.name}", dra_socket(options).path.exists()))

    def unlinked(path: Path) -> None:
        if path.exists():
            events.append((f"unlink {path.name}", dra_socket(options).path.exists()))
        unlink(path)

    monkeypatch.setattr(running._files, "publish_socket", published)
    monkeypatch.setattr(running._files, "unlink_socket", unlinked)
    running.start()
    running.stop()
    assert events == [
        ("publish dra.sock", True),
        ("publish gpu.fracgpu.dev-reg.sock", True),
        ("unlink gpu.fracgpu.dev-reg.sock", True),
        ("unlink dra.sock", True),
    ]
    assert list(options.registry_dir.iterdir()) == []
    assert list(options.plugin_dir.iterdir()) == []


def test_sockets_that_a_killed_plugin_left_are_replaced(short_world: Any) -> None:
    for path in (dra_socket(short_world.options).path, registration_socket(short_world.options).path):
        path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    running = make_servers(short_world)
    running.start()
    path = registration_socket(short_world.options).path
    assert call(path, registration_grpc.RegistrationStub, "GetInfo", registration_pb2.InfoRequest()).name
    running.stop()


def test_a_plugin_that_stops_leaves_the_sockets_of_its_successor(short_world: Any) -> None:
    old, new = (make_servers(short_world) for _ in range(2))
    old.start()
    new.start()
    old.stop()
    try:
        path = registration_socket(short_world.options).path
        info = call(path, registration_grpc.RegistrationStub, "GetInfo", registration_pb2.InfoRequest())
        ref = short_world.claim()
        request = v1_pb2.NodePrepareResourcesRequest(claims=claims(v1_pb2, ref))
        answer = call(Path(info.endpoint), v1_grpc.DRAPluginStub, "NodePrepareResources", request)
        assert answer.claims[ref.uid].error == ""
    finally:
        new.stop()
    assert list(short_world.options.registry_dir.iterdir()) == []
    assert list(short_world.options.plugin_dir.iterdir()) == []


def test_a_socket_that_can_not_get_its_name_is_taken_back(short_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = make_servers(short_world)

    def full(_temporary: Path, _final: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running._files, "publish_socket", full)
    with pytest.raises(SocketInvalid, match=r"--plugin-dir: can not listen on .*dra\.sock: .*No space left"):
        running.start()
    assert list(short_world.options.plugin_dir.iterdir()) == []


def test_a_file_in_the_sockets_place_is_left_alone(short_world: Any) -> None:
    path = registration_socket(short_world.options).path
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(SocketInvalid, match=r"--registry-dir: .*-reg\.sock is there and is no socket; move it away"):
        make_servers(short_world).start()
    assert path.read_text() == "precious"
    assert not dra_socket(short_world.options).path.exists()


@pytest.mark.parametrize(("option", "flag"), [("plugin_dir", "--plugin-dir"), ("registry_dir", "--registry-dir")])
def test_a_socket_path_that_is_too_long_names_the_option(short_world: Any, option: str, flag: str) -> None:
    place = getattr(short_world.options, option) / ("x" * 100)
    short_world.configure(**{option: place})
    with pytest.raises(SocketInvalid, match=rf"{flag}: socket path .* has \d+ bytes, the system allows 107; give a"):
        make_servers(short_world).start()
    assert not place.exists()


def test_a_plugin_that_can_not_register_leaves_no_dra_socket(short_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = make_servers(short_world)
    publish = running._files.publish_socket

    def refuse_the_second(temporary: Path, final: Path) -> None:
        if final.parent == short_world.options.registry_dir:
            raise OSError(30, "Read-only file system")
        publish(temporary, final)

    monkeypatch.setattr(running._files, "publish_socket", refuse_the_second)
    with pytest.raises(SocketInvalid, match=r"--registry-dir: can not listen on .*Read-only"):
        running.start()
    assert list(short_world.options.plugin_dir.iterdir()) == []
