import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.telemetry import configure_telemetry


@pytest.fixture(autouse=True)
def no_otel_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


class Collector(HTTPServer):
    """Takes what an OTLP exporter posts and remembers the paths."""

    def __init__(self) -> None:
        self.paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                handler.rfile.read(int(handler.headers["Content-Length"]))
                self.paths.append(handler.path)
                handler.send_response(200)
                handler.end_headers()

            def log_message(handler, *arguments: object) -> None:  # noqa: N805
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def scrape(port: int | None) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return str(answer.read().decode())


def test_serves_metrics_until_shut_down_twice() -> None:
    telemetry = configure_telemetry("fracgpu-test", prometheus_port=0, prometheus_address="127.0.0.1")
    telemetry.meter("tests").create_counter("fracgpu_things").add(3, {"kind": "a"})
    text = scrape(telemetry.prometheus_port)
    assert "fracgpu_things_total{" in text
    assert 'kind="a"' in text
    assert 'service_name="fracgpu-test"' in text
    telemetry.shutdown()
    telemetry.shutdown()
    with pytest.raises(urllib.error.URLError):
        scrape(telemetry.prometheus_port)


def test_two_components_of_one_process_do_not_mix() -> None:
    with (
        configure_telemetry("one", prometheus_port=0, prometheus_address="127.0.0.1") as one,
        configure_telemetry("two", prometheus_port=0, prometheus_address="127.0.0.1") as two,
    ):
        one.meter("tests").create_counter("fracgpu_one").add(1)
        two.meter("tests").create_counter("fracgpu_two").add(1)
        assert "fracgpu_two" not in scrape(one.prometheus_port)
        assert "fracgpu_one" not in scrape(two.prometheus_port)


def test_without_a_port_nothing_listens() -> None:
    with configure_telemetry("fracgpu-test") as telemetry:
        assert telemetry.prometheus_port is None
        telemetry.meter("tests").create_counter("fracgpu_things").add(1)


def test_a_taken_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        before = threading.active_count()
        with pytest.raises(ConfigInvalid, match=f"metrics address 127.0.0.1:{port}: cannot be listened on"):
            configure_telemetry("fracgpu-test", prometheus_port=port, prometheus_address="127.0.0.1")
        assert threading.active_count() == before


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "renamed")
    with configure_telemetry("fracgpu-test") as telemetry:
        assert telemetry.tracer_provider.resource.attributes["service.name"] == "renamed"


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
        monkeypatch.setenv(name, f"http://127.0.0.1:{collector.server_port}{path}")
    with configure_telemetry("fracgpu-test") as telemetry:
        telemetry.meter("tests").create_counter("fracgpu_things").add(1)
        with telemetry.tracer("tests").start_as_current_span("prepare"):
            pass
    assert set(collector.paths) == paths
