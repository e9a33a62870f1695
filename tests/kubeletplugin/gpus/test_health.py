"""Verdicts about GPUs, the loop that looks, and the stream that tells the kubelet."""

import queue
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.errors import InventoryUnavailable
from fracgpu.driver.gpu import Gpu
from fracgpu.kubeletplugin.gpus import health_state
from fracgpu.kubeletplugin.gpus.health import HealthMonitor
from fracgpu.kubeletplugin.gpus.health_state import Health, NodeHealth, after_look, after_silence
from fracgpu.kubeletplugin.kubelet.health_service import MOST_WATCHERS, HealthService, add_health_services
from fracgpu.proto.drahealth.v1 import api_pb2 as v1_pb2
from fracgpu.proto.drahealth.v1 import api_pb2_grpc as v1_grpc
from fracgpu.proto.drahealth.v1alpha1 import api_pb2 as v1alpha1_pb2
from fracgpu.proto.drahealth.v1alpha1 import api_pb2_grpc as v1alpha1_grpc

TIMEOUT = 60
SILENT = InventoryUnavailable("NVML", "has not answered for 15 s", remedy="reset the GPU")


@pytest.fixture
def gpu(world: Any) -> Gpu:
    only: Gpu = world.gpu(0)
    return only


def looks(gpu: Gpu, answers: str) -> list[Health]:
    """Verdicts after each look: `+` answers, `-` does not, `?` the driver is silent, `.` the GPU is not listed."""
    state, verdicts = NodeHealth(), []
    for number, answer in enumerate(answers, 1):
        if answer == "?":
            state = after_silence(state, "why", now=number)
        else:
            state = after_look(state, () if answer == "." else (replace(gpu, healthy=answer == "+"),), now=number)
        verdicts.append(state.health(gpu.uuid))
    return verdicts


U, H, X = Health.UNKNOWN, Health.HEALTHY, Health.UNHEALTHY
VERDICTS = [
    ("first-good", "+", [H]),
    ("first-bad", "-", [X]),
    ("one-bad-look", "+-+", [H, H, H]),
    ("lost", "+--", [H, H, X]),
    ("vanished", "+..", [H, H, X]),
    ("intermittent", "+-+-+-+", [H] * 7),
    ("back", "--+++", [X, X, X, X, H]),
    ("not-quite-back", "--++-+++", [X] * 7 + [H]),
    ("one-silent-look", "+?+", [H, H, H]),
    ("silent", "+??+", [H, H, U, H]),
    ("silent-and-lost-as-before", "-??-+++", [X, X, U, X, X, X, H]),
    ("silence-is-no-look-at-the-gpu", "+-?-", [H, H, H, X]),
]


@pytest.mark.parametrize(("answers", "verdicts"), [case[1:] for case in VERDICTS], ids=[case[0] for case in VERDICTS])
def test_verdicts_follow_looks_with_hysteresis(gpu: Gpu, answers: str, verdicts: list[Health]) -> None:
    assert looks(gpu, answers) == verdicts


@given(answers=st.text(alphabet="+-?.", min_size=1, max_size=40))
def test_a_verdict_changes_only_after_looks_in_a_row_that_say_so(answers: str) -> None:
    from tests.kubeletplugin.conftest import make_gpu

    answers = "+" + answers
    verdicts = looks(make_gpu(0), answers)
    for number in range(1, len(answers)):
        before, now = verdicts[number - 1], verdicts[number]
        if before is H and now is X:
            asked = answers[: number + 1].replace("?", "")
            assert set(asked[-health_state.LOST_AFTER_LOOKS :]) <= set("-.")
        if before is X and now is H:
            asked = answers[: number + 1].replace("?", "")
            assert set(asked[-health_state.BACK_AFTER_LOOKS :]) == {"+"}
        if now is U:
            assert answers[number] == "?"
            assert answers[number - 1] == "?"


def test_a_lost_gpu_keeps_its_description_and_is_published_unhealthy(gpu: Gpu) -> None:
    state = after_look(NodeHealth(), (gpu,), now=1)
    blank = replace(gpu, healthy=False, memory_total_bytes=0, product_name="")
    for now in (2, 3):
        state = after_look(state, (blank,), now=now)
    assert state.gpus == (replace(gpu, healthy=False),)


def test_a_silent_driver_changes_nothing_that_is_published(world: Any) -> None:
    state = after_look(NodeHealth(), (world.gpu(0), world.gpu(1, healthy=False)), now=1)
    silent = state
    for now in (2, 3, 4):
        silent = after_silence(silent, "why", now=now)
    assert silent.gpus == state.gpus
    assert [silent.health(one.uuid) for one in silent.gpus] == [U, U]


class Script:
    """An inventory that answers as told; `None` is a silent driver."""

    def __init__(self, *answers: tuple[Gpu, ...] | Exception) -> None:
        self.answers = list(answers)

    def list_gpus(self) -> tuple[Gpu, ...]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def monitor_of(*answers: tuple[Gpu, ...] | Exception) -> HealthMonitor:
    inventory: Any = Script(*answers)
    return HealthMonitor(inventory, clock=lambda: 1000.5)


def test_listeners_hear_of_changes_only(gpu: Gpu) -> None:
    lost = replace(gpu, healthy=False)
    monitor = monitor_of((gpu,), (gpu,), (lost,), (lost,), (lost,), SILENT, SILENT, SILENT, (lost,))
    told: list[int] = []
    monitor.listen(lambda: 1 / 0)  # type: ignore[arg-type]
    monitor.listen(lambda: told.append(len(told)))
    counts = []
    assert monitor.gpus() is None
    for _ in range(9):
        monitor.look()
        counts.append(len(told))
    # The first look, the second one that finds the GPU lost, the second silent one, the first that is not.
    assert counts == [1, 1, 1, 2, 2, 2, 3, 3, 4]
    assert monitor.gpus() == (lost,)


def test_a_driver_that_is_slow_to_start_does_not_empty_the_slice(gpu: Gpu) -> None:
    """Else each update of the plugin would, on a node whose driver initialises its GPUs for longer than one look."""
    monitor = monitor_of(SILENT, (gpu,))
    monitor.look()
    assert monitor.gpus() is None
    monitor.look()
    assert monitor.gpus() == (gpu,)


def test_a_node_without_gpus_or_without_a_driver_has_none_to_publish() -> None:
    empty, driverless = monitor_of(()), monitor_of(SILENT)
    empty.look()
    assert empty.gpus() == ()
    told: list[object] = []
    driverless.listen(lambda: told.append(driverless.gpus()))
    for _ in range(3):
        driverless.look()
    assert told == [None, ()]


def test_a_bug_in_the_inventory_is_silence_and_the_loop_goes_on(gpu: Gpu) -> None:
    monitor = monitor_of((gpu,), RuntimeError("bug"), RuntimeError("bug"), (gpu,))
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 3

    monitor.run(wait)
    health, _ = monitor.latest()
    assert pauses == [5.0, 5.0, 5.0]
    assert health.silent
    assert health.silence == "RuntimeError: bug"


def test_what_happens_to_a_gpu_is_logged_once(gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    lost = replace(gpu, healthy=False)
    monitor = monitor_of((gpu,), (lost,), (lost,), (lost,), (gpu,), (gpu,), (gpu,), SILENT, SILENT, SILENT, (gpu,))
    with caplog.at_level("INFO"):
        for _ in range(11):
            monitor.look()
    said = ["GPU found", "GPU lost", "GPU is back", "GPUs can not be listed", "GPUs are listed again"]
    assert [record.getMessage() for record in caplog.records] == said


class Stream:
    """A server with the health service, and a watcher whose lists arrive in a queue."""

    def __init__(self, path: Path, monitor: HealthMonitor, *, timeout_seconds: int = 30) -> None:
        self.service = HealthService(monitor, pool="n1", timeout_seconds=timeout_seconds)
        self.server = grpc.server(futures.ThreadPoolExecutor(MOST_WATCHERS + 2))
        add_health_services(self.service, self.server)
        self.server.add_insecure_port(f"unix:{path}")
        self.server.start()
        self.channel = grpc.insecure_channel(f"unix:{path}")

    def watch(self, messages: ModuleType = v1_pb2, services: ModuleType = v1_grpc) -> Any:
        stub = services.DRAResourceHealthStub(self.channel)
        return stub.NodeWatchResources(messages.NodeWatchResourcesRequest(), wait_for_ready=True, timeout=TIMEOUT)

    def close(self) -> None:
        self.service.stop()
        self.channel.close()
        self.server.stop(None).wait()


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("h") / "s"


@pytest.fixture
def stream(gpu: Gpu, place: Path) -> Iterator[tuple[Stream, HealthMonitor]]:
    lost = replace(gpu, healthy=False)
    monitor = monitor_of((gpu,), (lost,), (lost,), SILENT, SILENT)
    running = Stream(place, monitor)
    yield running, monitor
    running.close()


VERSIONS = pytest.mark.parametrize(
    ("messages", "services"), [(v1_pb2, v1_grpc), (v1alpha1_pb2, v1alpha1_grpc)], ids=["v1", "v1alpha1"]
)


@VERSIONS
def test_the_stream_has_the_whole_list_at_once_and_after_every_look(
    stream: tuple[Stream, HealthMonitor], gpu: Gpu, messages: ModuleType, services: ModuleType
) -> None:
    running, monitor = stream
    monitor.look()
    lists = running.watch(messages, services)
    (device,) = next(lists).devices
    assert (device.device.pool_name, device.device.device_name) == ("n1", gpu.device_name)
    assert (device.health, device.message) == (messages.HEALTHY, "")
    assert (device.last_updated_time, device.health_check_timeout_seconds) == (1000, 30)
    monitor.look()
    (device,) = next(lists).devices
    assert device.health == messages.HEALTHY
    monitor.look()
    (device,) = next(lists).devices
    assert device.health == messages.UNHEALTHY
    assert f"GPU {gpu.uuid} does not answer" in device.message
    monitor.look()
    (device,) = next(lists).devices
    assert device.health == messages.UNHEALTHY
    monitor.look()
    (device,) = next(lists).devices
    assert device.health == messages.UNKNOWN
    assert "has not answered for 15 s" in device.message


def test_a_watcher_that_comes_before_the_first_look_waits_for_it(
    stream: tuple[Stream, HealthMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, monitor = stream
    waiting, wait = threading.Event(), monitor.wait_for_look

    def tell_and_wait(*arguments: Any, **keywords: Any) -> None:
        waiting.set()
        wait(*arguments, **keywords)

    monkeypatch.setattr(monitor, "wait_for_look", tell_and_wait)
    arrived: queue.Queue[Any] = queue.Queue()
    lists = running.watch()
    thread = threading.Thread(target=lambda: arrived.put(next(lists)), daemon=True)
    thread.start()
    assert waiting.wait(TIMEOUT)
    monitor.look()
    assert len(arrived.get(timeout=TIMEOUT).devices) == 1


def test_an_unchanged_list_is_sent_again_when_there_was_a_look_and_only_then(gpu: Gpu, place: Path) -> None:
    """The kubelet forgets all of the driver with the stream of another instance, and takes an arrival for a look."""
    monitor = monitor_of((gpu,))
    monitor.look()
    running = Stream(place, monitor, timeout_seconds=1)
    arrived: queue.Queue[Any] = queue.Queue()

    def follow() -> None:
        for one in running.watch():
            arrived.put(one)

    watcher = threading.Thread(target=follow, daemon=True)
    watcher.start()
    try:
        first = arrived.get(timeout=TIMEOUT)
        # Longer than the entries are good for.
        with pytest.raises(queue.Empty):
            arrived.get(timeout=1.5)
        monitor.look()
        assert arrived.get(timeout=TIMEOUT) == first
    finally:
        running.service.stop()
        watcher.join(TIMEOUT)
        running.close()


def test_streams_end_well_when_the_plugin_stops(stream: tuple[Stream, HealthMonitor]) -> None:
    running, monitor = stream
    monitor.look()
    watchers = [running.watch() for _ in range(3)]
    for watcher in watchers:
        next(watcher)
    running.service.stop()
    assert [list(watcher) for watcher in watchers] == [[], [], []]
    assert [watcher.code() for watcher in watchers] == [grpc.StatusCode.OK] * 3


def answers(watcher: Any) -> bool:
    try:
        next(watcher)
    except grpc.RpcError:
        return False
    return True


def test_watchers_can_not_take_all_threads_and_those_that_leave_make_room(
    stream: tuple[Stream, HealthMonitor],
) -> None:
    running, monitor = stream
    monitor.look()
    watchers = [running.watch() for _ in range(MOST_WATCHERS)]
    for watcher in watchers:
        next(watcher)
    with pytest.raises(grpc.RpcError) as refused:
        next(running.watch())
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    watchers[0].cancel()
    end = time.monotonic() + TIMEOUT
    again = running.watch()
    while not answers(again):
        assert time.monotonic() < end, "the place of a watcher that left stays taken"
        again = running.watch()


def test_a_long_message_is_cut(gpu: Gpu, place: Path) -> None:
    long = InventoryUnavailable("NVML", "ö" * 2000, remedy="wait")
    monitor = monitor_of((gpu,), long, long)
    for _ in range(3):
        monitor.look()
    running = Stream(place, monitor)
    try:
        (device,) = next(running.watch()).devices
        assert 1000 < len(device.message.encode()) <= 1024
    finally:
        running.close()
