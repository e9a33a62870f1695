"""The plugin's real parts with everything that tells of them: gRPC in, HTTP and OTLP out."""

import json
import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fracgpu.driver.log import LogfmtFormatter
from fracgpu.driver.process.background import Wait
from fracgpu.kubeletplugin.kubelet.services import add_services
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.preparer import CHECKPOINT_FILE
from fracgpu.kubeletplugin.telemetry.counted_inventory import CountedInventory
from fracgpu.kubeletplugin.telemetry.plugin_telemetry import PluginTelemetry
from fracgpu.proto.dra.v1 import api_pb2, api_pb2_grpc
from tests.driver.otlp_collector import Collector, running_collector

TIMEOUT = 60


class Slices:
    def __init__(self) -> None:
        self.published = threading.Event()
        self.refusal: str | None = None


def one_round(wait: Wait) -> None:
    """A loop that has nothing to do."""
    wait(1.0)


class Assembly:
    """A node of the other tests with a gRPC server in front and its telemetry beside it."""

    def __init__(self, world: Any, directory: Path, stack: ExitStack) -> None:
        world.options = replace(world.options, http_address="127.0.0.1", http_port=0)
        self.world = world
        self.slices = Slices()
        self.registered = threading.Event()
        self.telemetry = PluginTelemetry(world.options)
        stack.callback(self.telemetry.close)
        world.inventory = CountedInventory(world.inventory, self.telemetry.metrics)
        preparer = world.preparer()
        checkpoints = CheckpointStore(world.options.state_dir / CHECKPOINT_FILE, Files())
        self.telemetry.tell_of_node(observe=lambda: None, entries=lambda: checkpoints.load().entries.values())
        self.telemetry.watched("slices", one_round)
        self.telemetry.serve(registered=self.registered.is_set, slices=self.slices)
        server = grpc.server(ThreadPoolExecutor(4))
        add_services(preparer, server, metrics=self.telemetry.metrics, tracer=self.telemetry.tracer)
        server.add_insecure_port(f"unix:{directory}/dra.sock")
        server.start()
        stack.callback(lambda: server.stop(None).wait())
        channel = stack.enter_context(grpc.insecure_channel(f"unix:{directory}/dra.sock"))
        self.kubelet = api_pb2_grpc.DRAPluginStub(channel)

    def prepare(self, *refs: Any) -> list[str]:
        claims = [api_pb2.Claim(namespace=ref.namespace, name=ref.name, uid=ref.uid) for ref in refs]
        answer = self.kubelet.NodePrepareResources(
            api_pb2.NodePrepareResourcesRequest(claims=claims), timeout=TIMEOUT, wait_for_ready=True
        )
        return [answer.claims[ref.uid].error for ref in refs]

    def unprepare(self, ref: Any) -> str:
        claim = api_pb2.Claim(namespace=ref.namespace, name=ref.name, uid=ref.uid)
        request = api_pb2.NodeUnprepareResourcesRequest(claims=[claim])
        return str(self.kubelet.NodeUnprepareResources(request, timeout=TIMEOUT).claims[ref.uid].error)

    def get(self, path: str) -> tuple[int, str]:
        assert self.telemetry.http_port is not None
        with closing(HTTPConnection("127.0.0.1", self.telemetry.http_port, timeout=TIMEOUT)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def value(self, name: str, **labels: str) -> float:
        status, body = self.get("/metrics")
        assert status == 200
        (found,) = (
            sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
        return float(found)


@pytest.fixture(autouse=True)
def no_otel_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path that is short enough for a socket."""
    return tmp_path_factory.mktemp("t")


def test_the_kubelets_calls_show_at_the_http_port(world: Any, directory: Path, running: ExitStack) -> None:
    assembly = Assembly(world, directory, running)
    good, big = world.claim("good"), world.claim("big", {"memory": 100 << 30})
    assert [bool(error) for error in assembly.prepare(good, big)] == [False, True]
    duration = "fracgpu_claim_operation_duration_seconds_count"
    assert assembly.value(duration, op="prepare", outcome="ok") == 1
    assert assembly.value(duration, op="prepare", outcome="AmountsExceedDevice") == 1
    assert assembly.value("fracgpu_claims", state="prepared") == 1
    assert assembly.value("fracgpu_gpu_memory_allocated_bytes", device="gpu-11111111") == 8 << 30
    assert assembly.value("fracgpu_nvml_available") == 1
    assert assembly.unprepare(good) == ""
    assert assembly.value(duration, op="unprepare", outcome="ok") == 1
    assert assembly.value("fracgpu_claims", state="prepared") == 0


def test_the_probes_answer_for_the_whole_plugin(world: Any, directory: Path, running: ExitStack) -> None:
    assembly = Assembly(world, directory, running)
    status, body = assembly.get("/healthz")
    assert (status, json.loads(body)["checks"]) == (200, {"slices": "ok"})
    assert assembly.get("/readyz")[0] == 503
    assembly.registered.set()
    assembly.slices.published.set()
    assert assembly.get("/readyz")[0] == 200


def test_a_loop_that_works_for_too_long_makes_healthz_fail(world: Any, running: ExitStack) -> None:
    world.options = replace(world.options, http_address="127.0.0.1", http_port=0)
    telemetry = PluginTelemetry(world.options)
    running.callback(telemetry.close)
    telemetry.watched("stuck", one_round, bound_seconds=-1.0)
    telemetry.serve(registered=lambda: True, slices=Slices())
    telemetry.watched("fine", one_round)
    assert telemetry.http_port is not None
    with closing(HTTPConnection("127.0.0.1", telemetry.http_port, timeout=TIMEOUT)) as connection:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        checks = json.loads(answer.read())["checks"]
    assert answer.status == 503
    assert checks["fine"] == "ok"
    assert checks["stuck"].startswith("no sign of life for ")


def test_without_a_port_there_is_no_endpoint(world: Any, running: ExitStack) -> None:
    telemetry = PluginTelemetry(world.options)
    running.callback(telemetry.close)
    telemetry.serve(registered=lambda: True, slices=Slices())
    assert telemetry.http_port is None


def test_the_log_line_of_a_refusal_names_claim_pods_and_gpu(
    world: Any, directory: Path, running: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    assembly = Assembly(world, directory, running)
    big = world.claim("big", {"memory": 100 << 30})
    world.change(big)["status"]["reservedFor"] = [{"resource": "pods", "name": "p1", "uid": "pod-uid"}]
    assert "big" in assembly.prepare(big)[0]
    (line,) = (LogfmtFormatter().format(record) for record in caplog.records if record.levelno == logging.WARNING)
    fields = "op=prepare claim=ns/big pod=ns/p1 gpu=GPU-11111111-1111-1111-1111-111111111111 "
    assert f'msg="claim refused" {fields}' in line
    assert "outcome=AmountsExceedDevice" in line


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as server:
        yield server


def test_otlp_carries_the_same_metrics_and_where_the_time_of_a_prepare_went(
    world: Any, directory: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with ExitStack() as running:
        assembly = Assembly(world, directory, running)
        assert assembly.prepare(world.claim("good")) == [""]
        assert assembly.get("/metrics")[0] == 200
    assert {"fracgpu_claim_operation_duration_seconds", "fracgpu_claims", "fracgpu_nvml_available"} <= (
        collector.metric_names()
    )
    spans = collector.spans()
    prepare = spans["fracgpu.prepare"]
    attributes = {attribute.key: attribute.value for attribute in prepare.attributes}
    assert attributes["fracgpu.claim.name"].string_value == "good"
    assert attributes["fracgpu.outcome"].string_value == "ok"
    gpus = [value.string_value for value in attributes["fracgpu.gpu.uuids"].array_value.values]
    assert gpus == ["GPU-11111111-1111-1111-1111-111111111111"]
    steps = {name.removeprefix("fracgpu.step.") for name in spans if spans[name].parent_span_id == prepare.span_id}
    assert steps == {"read-claim", "list-gpus", "read-driver", "node-lock", "plan", "apply"}
