import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest

from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.metric_sources import Family, Reading
from fracgpu.driver.telemetry import BUILD_INFO, Telemetry, configure_telemetry
from tests.driver.otlp_collector import DEADLINE_SECONDS, Collector, running_collector


@pytest.fixture(autouse=True)
def no_otel_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


def scraped(telemetry: Telemetry) -> str:
    assert telemetry.registry is not None
    return generate_latest(telemetry.registry).decode()


def one_family() -> list[Family]:
    return [
        Family(
            name="fracgpu_seen_bytes",
            unit="By",
            description="Seen.",
            counter=False,
            readings=[Reading(7, {"gpu": "a"})],
        )
    ]


def test_the_registry_shows_what_is_counted_what_is_looked_up_and_the_process() -> None:
    with configure_telemetry("fracgpu-test", prometheus=True, attributes={"k8s.node.name": "n1"}) as telemetry:
        telemetry.meter("tests").create_counter("fracgpu_things_total").add(3, {"kind": "a"})
        telemetry.sources.add("tests", one_family)
        lines = scraped(telemetry).splitlines()
    assert 'fracgpu_things_total{kind="a"} 3.0' in lines
    assert 'fracgpu_seen_bytes{gpu="a"} 7.0' in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    (target,) = [line for line in lines if line.startswith("target_info{")]
    assert 'k8s_node_name="n1"' in target
    assert 'service_name="fracgpu-test"' in target


def test_sources_are_shown_before_anything_was_counted() -> None:
    with configure_telemetry("fracgpu-test", prometheus=True) as telemetry:
        telemetry.sources.add("tests", one_family)
        text = scraped(telemetry)
    assert "fracgpu_seen_bytes{" in text
    assert f"{BUILD_INFO}{{" in text


def test_after_the_shutdown_nothing_is_collected_and_a_second_one_is_harmless(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = configure_telemetry("fracgpu-test", prometheus=True)
    telemetry.shutdown()
    telemetry.shutdown()
    assert BUILD_INFO not in scraped(telemetry)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_two_components_of_one_process_do_not_mix() -> None:
    with configure_telemetry("one", prometheus=True) as one, configure_telemetry("two", prometheus=True) as two:
        one.meter("tests").create_counter("fracgpu_one").add(1)
        two.meter("tests").create_counter("fracgpu_two").add(1)
        assert "fracgpu_two" not in scraped(one)
        assert "fracgpu_one" not in scraped(two)


def test_without_prometheus_there_is_no_registry_and_everything_still_works() -> None:
    with configure_telemetry("fracgpu-test") as telemetry:
        assert telemetry.registry is None
        telemetry.meter("tests").create_counter("fracgpu_things").add(1)
        with telemetry.tracer("tests").start_as_current_span("prepare") as span:
            assert not span.is_recording()


def test_exporters_are_loaded_only_where_they_are_wanted() -> None:
    program = (
        "import sys; from fracgpu.driver.telemetry import configure_telemetry as c\n"
        "with c('x'): print(sorted(m for m in sys.modules if m.startswith(('opentelemetry.exporter', 'prometheus'))))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "renamed")
    with configure_telemetry("fracgpu-test", prometheus=True) as telemetry:
        assert 'service_name="renamed"' in scraped(telemetry)


@pytest.mark.parametrize(
    ("variables", "paths"),
    [
        ({}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {"/v1/metrics", "/v1/traces"}),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "/m"}, {"/m"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "/t"}, {"/t"}),
    ],
    ids=["unset", "both", "metrics-only", "traces-only"],
)
def test_otlp_is_pushed_only_where_the_environment_says(
    variables: dict[str, str], paths: set[str], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, path in variables.items():
        monkeypatch.setenv(name, collector.url + path)
    with configure_telemetry("fracgpu-test") as telemetry:
        telemetry.meter("tests").create_counter("fracgpu_things").add(1)
        with telemetry.tracer("tests").start_as_current_span("prepare"):
            pass
    assert set(collector.paths) == paths


def test_otlp_carries_names_values_and_the_resource_beside_prometheus(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with configure_telemetry("fracgpu-test", prometheus=True, attributes={"k8s.node.name": "n1"}) as telemetry:
        telemetry.sources.add("tests", one_family)
        with (
            telemetry.tracer("tests").start_as_current_span("outer"),
            telemetry.tracer("t").start_as_current_span("in"),
        ):
            pass
        assert "fracgpu_seen_bytes{" in scraped(telemetry)
    (resource,) = collector.metrics[-1].resource_metrics
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["k8s.node.name"] == "n1"
    metrics = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
    (point,) = metrics["fracgpu_seen_bytes"].gauge.data_points
    assert (point.as_int, metrics["fracgpu_seen_bytes"].unit) == (7, "By")
    spans = collector.spans()
    assert spans["in"].parent_span_id == spans["outer"].span_id


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collector.answering.clear()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    telemetry = configure_telemetry("fracgpu-test")
    telemetry.shutdown(flush_seconds=0.01)
    assert "last metrics and traces not delivered" in caplog.text
    # The exporter was in the middle of it: shutdown came back although there is no answer yet.
    assert collector.arrived.wait(DEADLINE_SECONDS)
    assert not collector.answering.is_set()


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "interval value 0.0 is invalid and needs"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", "schedule_delay_millis must be positive"),
    ],
    ids=["metrics", "traces"],
)
def test_a_variable_that_can_not_be_used_is_a_clear_error(
    variable: str, value: str, text: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigInvalid, match=f"{text}.*; correct or remove the variables that begin with OTEL_"):
        configure_telemetry("fracgpu-test", prometheus=True)
