"""What the controller counts, as Prometheus and a trace collector see it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fracgpu.controller import ports
from fracgpu.controller.telemetry.catalogue import CATALOGUE, EVENTS_WAITING, WATCH_SILENCE
from fracgpu.controller.telemetry.metrics import ControllerMetrics
from fracgpu.controller.telemetry.traced_api import TracedApi
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.kube.errors import Conflict
from fracgpu.driver.telemetry import Telemetry, configure_telemetry

Json = dict[str, Any]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with configure_telemetry("fracgpu-test", prometheus=True) as running:
        yield running


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracers(spans: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider


@pytest.fixture
def metrics(telemetry: Telemetry, tracers: TracerProvider) -> ControllerMetrics:
    return ControllerMetrics(telemetry.meter("test"), tracers.get_tracer("test"))


def shown(telemetry: Telemetry) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return all samples of ours by name and label values."""
    assert telemetry.registry is not None
    families = text_string_to_metric_families(generate_latest(telemetry.registry).decode())
    return {
        (sample.name, tuple(sample.labels[name] for name in sorted(sample.labels) if name != "le")): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("fracgpu_allocator")
    }


def test_it_is_what_the_allocator_wants(metrics: ControllerMetrics) -> None:
    port: ports.AllocatorMetrics = metrics
    assert port is metrics
    wanted = {name for name, _ in inspect.getmembers(ports.AllocatorMetrics, inspect.isfunction) if name[0] != "_"}
    assert wanted <= set(dir(metrics))


def test_everything_is_counted_under_its_name(telemetry: Telemetry, metrics: ControllerMetrics) -> None:
    metrics.placed(0.0004)
    metrics.placed(0.0004)
    metrics.refused(ReasonCode.CARD_INSUFFICIENT_MEMORY.value, 0.02)
    metrics.wrote("allocation", "written")
    metrics.wrote("release", "conflict")
    metrics.taken_back()
    metrics.rolled_back()
    metrics.collected()
    metrics.fenced()
    metrics.leads(leads=True)
    metrics.pending(7)
    metrics.told("written")
    found = shown(telemetry)
    assert found["fracgpu_allocator_decision_duration_seconds_count", ("placed",)] == 2
    assert found["fracgpu_allocator_decision_duration_seconds_count", ("refused",)] == 1
    assert found["fracgpu_allocator_refusals_total", ("CardInsufficientMemory",)] == 1
    assert found["fracgpu_allocator_writes_total", ("allocation", "written")] == 1
    assert found["fracgpu_allocator_writes_total", ("release", "conflict")] == 1
    for name in ("scheduler_deallocations", "rollbacks", "collections", "fenced_batches"):
        assert found[f"fracgpu_allocator_{name}_total", ()] == 1
    assert found["fracgpu_allocator_leader", ()] == 1
    assert found["fracgpu_allocator_pending", ()] == 7
    assert found["fracgpu_allocator_events_total", ("written",)] == 1
    metrics.leads(leads=False)
    assert shown(telemetry)["fracgpu_allocator_leader", ()] == 0
    assert shown(telemetry)["fracgpu_allocator_pending", ()] == 0


def test_what_counts_begins_at_zero(telemetry: Telemetry, metrics: ControllerMetrics) -> None:
    del metrics
    found = shown(telemetry)
    assert found["fracgpu_allocator_writes_total", ("allocation", "unknown")] == 0
    assert found["fracgpu_allocator_scheduler_deallocations_total", ()] == 0
    assert found["fracgpu_allocator_events_total", ("dropped",)] == 0


def test_series_stay_few_whatever_is_told(telemetry: Telemetry, metrics: ControllerMetrics) -> None:
    for number in range(100):
        metrics.refused(f"Made{number}", 0.1)
        metrics.wrote(f"kind{number}", f"outcome{number}")
        metrics.told(f"outcome{number}")
    found = shown(telemetry)
    assert found["fracgpu_allocator_refusals_total", ("Other",)] == 100
    assert found["fracgpu_allocator_writes_total", ("Other", "Other")] == 100
    assert found["fracgpu_allocator_events_total", ("Other",)] == 100
    assert len(found) < 60


def test_the_catalogue_is_what_is_shown(telemetry: Telemetry, metrics: ControllerMetrics) -> None:
    metrics.placed(0.1)
    metrics.refused("x", 0.1)
    names = {name.removesuffix("_count").removesuffix("_sum").removesuffix("_bucket") for name, _ in shown(telemetry)}
    # Those are looked up when somebody asks, by ControllerTelemetry.
    assert names == {metric.name for metric in CATALOGUE} - {WATCH_SILENCE.name, EVENTS_WAITING.name}


def test_a_decision_is_a_span_as_long_as_it_took(metrics: ControllerMetrics, spans: InMemorySpanExporter) -> None:
    metrics.placed(0.25)
    metrics.refused(ReasonCode.CARD_INSUFFICIENT_CORE.value, 0.5)
    placed, refused = spans.get_finished_spans()
    assert (placed.name, dict(placed.attributes or {})) == ("fracgpu.decide", {"fracgpu.outcome": "placed"})
    assert dict(refused.attributes or {}) == {"fracgpu.outcome": "CardInsufficientCore"}
    assert placed.start_time is not None
    assert placed.end_time is not None
    assert abs(placed.end_time - placed.start_time - 250_000_000) < 1000


class Api:
    """Returns what it is given; refuses allocations."""

    def list_claims(self) -> list[Json]:
        return [{}, {}]

    def get_claim(self, namespace: str, name: str) -> Json:
        return {"metadata": {"namespace": namespace, "name": name}}

    def replace_claim(self, claim: Json) -> Json:
        return claim

    def replace_claim_status(self, claim: Json) -> Json:
        if claim["status"]:
            raise Conflict("claim", "changed", remedy="read")
        return claim

    def replace_quota_status(self, quota: Json) -> Json:
        return quota

    def lease_holder(self) -> str:
        return "pod_1"

    def keeps_capacity(self) -> bool:
        return True


def test_each_call_to_the_api_is_a_span_that_says_what_it_was_about(
    tracers: TracerProvider, spans: InMemorySpanExporter
) -> None:
    api: ports.ControllerApi = TracedApi(Api(), tracers.get_tracer("test"))
    results = [
        {"driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-1"},
        {"driver": "other", "pool": "x", "device": "y"},
    ]
    claim = {"metadata": {"namespace": "ns", "name": "c", "uid": "u"}, "status": {}}
    assert len(api.list_claims()) == 2
    assert api.get_claim("ns", "c")["metadata"]["name"] == "c"
    assert api.replace_claim(claim) is claim
    assert api.replace_claim_status(claim) is claim
    with pytest.raises(Conflict):
        api.replace_claim_status({**claim, "status": {"allocation": {"devices": {"results": results}}}})
    assert api.replace_quota_status(claim) is claim
    assert api.lease_holder() == "pod_1"
    assert api.keeps_capacity()
    found = {span.name: dict(span.attributes or {}) for span in spans.get_finished_spans()}
    names = ["list_claims", "get_claim", "take", "release", "allocate", "report_quota", "ask_lease", "probe_capacity"]
    assert list(found) == [f"fracgpu.{name}" for name in names]
    about = {"k8s.namespace.name": "ns", "fracgpu.claim.name": "c", "fracgpu.claim.uid": "u"}
    assert found["fracgpu.take"] == {**about, "fracgpu.outcome": "ok"}
    assert found["fracgpu.allocate"] == {
        **about,
        "fracgpu.outcome": "Conflict",
        "fracgpu.pool": "n1",
        "fracgpu.devices": ("gpu-1",),
    }
