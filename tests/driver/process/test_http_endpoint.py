"""The HTTP port over real sockets."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fracgpu.driver.errors import OptionInvalid
from fracgpu.driver.process.http_endpoint import HttpEndpoint
from fracgpu.driver.process.liveness import Check
from fracgpu.driver.telemetry import Telemetry, configure_telemetry

LOOPBACK = "127.0.0.1"
TIMEOUT = 60
MOST_CONNECTIONS = 32


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with configure_telemetry("fracgpu-test", prometheus=True) as running:
        yield running


class Checks:
    """Checks whose answers the test sets."""

    def __init__(self) -> None:
        self.silent: dict[str, str | None] = {"slices": None, "observer": None}
        self.unready: dict[str, str | None] = {"registration": "not registered yet", "slice": None}

    def of(self, answers: dict[str, str | None]) -> dict[str, Check]:
        return {name: lambda name=name: answers[name] for name in answers}  # type: ignore[misc]


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
def endpoint(telemetry: Telemetry, checks: Checks) -> Iterator[HttpEndpoint]:
    with make(telemetry, checks) as running:
        yield running


def make(telemetry: Telemetry, checks: Checks, address: str = LOOPBACK, port: int = 0) -> HttpEndpoint:
    assert telemetry.registry is not None
    return HttpEndpoint(
        address,
        port,
        registry=telemetry.registry,
        alive=checks.of(checks.silent),
        ready=checks.of(checks.unready),
    )


def get(port: int, path: str, *, host: str = LOOPBACK, method: str = "GET") -> tuple[int, Any, str]:
    """Status, headers and body."""
    with closing(HTTPConnection(host, port, timeout=TIMEOUT)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def test_metrics_are_prometheus_text(endpoint: HttpEndpoint, telemetry: Telemetry) -> None:
    telemetry.meter("tests").create_counter("fracgpu_things_total").add(2, {"kind": "a"})
    status, headers, body = get(endpoint.port, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(body)}
    assert [(sample.labels, sample.value) for sample in families["fracgpu_things"].samples] == [({"kind": "a"}, 2.0)]


def test_a_live_plugin_is_alive(endpoint: HttpEndpoint) -> None:
    status, headers, body = get(endpoint.port, "/healthz")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store")
    assert json.loads(body) == {"status": "ok", "checks": {"slices": "ok", "observer": "ok"}}


def test_a_silent_loop_is_named_and_comes_back(endpoint: HttpEndpoint, checks: Checks) -> None:
    checks.silent["observer"] = "no sign of life for 95 s, allowed are 60 s"
    status, _, body = get(endpoint.port, "/healthz")
    assert status == 503
    assert json.loads(body) == {
        "status": "failed",
        "checks": {"slices": "ok", "observer": "no sign of life for 95 s, allowed are 60 s"},
    }
    checks.silent["observer"] = None
    assert get(endpoint.port, "/healthz")[0] == 200


def test_readiness_is_another_question_than_liveness(endpoint: HttpEndpoint, checks: Checks) -> None:
    status, _, body = get(endpoint.port, "/readyz")
    assert (status, json.loads(body)["checks"]["registration"]) == (503, "not registered yet")
    assert get(endpoint.port, "/healthz")[0] == 200
    checks.unready["registration"] = None
    assert get(endpoint.port, "/readyz")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metricsx", "/metrics/", "/healthz/x", "/debug/pprof", "/%2e%2e/etc/passwd"])
def test_other_paths_are_not_found(endpoint: HttpEndpoint, path: str) -> None:
    assert get(endpoint.port, path)[0] == 404


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_there_is_nothing_to_write(endpoint: HttpEndpoint, path: str, method: str) -> None:
    status, headers, _ = get(endpoint.port, path, method=method)
    assert status == 405
    assert "GET" in headers["Allow"]


def test_a_query_changes_nothing(endpoint: HttpEndpoint) -> None:
    assert get(endpoint.port, "/healthz?verbose")[0] == 200


def test_ipv6_is_served(telemetry: Telemetry, checks: Checks) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with make(telemetry, checks, address="::1") as endpoint:
        assert get(endpoint.port, "/healthz", host="::1")[0] == 200


def test_a_taken_port_names_the_flag_and_leaves_nothing(telemetry: Telemetry, checks: Checks) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        before = threading.active_count()
        with pytest.raises(OptionInvalid, match=f"--http-port: can not listen on {LOOPBACK} port {port}: .*in use; "):
            make(telemetry, checks, port=port)
        assert threading.active_count() == before


def test_a_foreign_address_names_the_flag(telemetry: Telemetry, checks: Checks) -> None:
    # 192.0.2.0/24 is for documentation, so no machine has it.
    with pytest.raises(OptionInvalid, match=r"--http-address: can not listen on 192\.0\.2\.1 port 0: "):
        make(telemetry, checks, address="192.0.2.1")


def test_closing_frees_the_port_and_ends_the_thread(telemetry: Telemetry, checks: Checks) -> None:
    with make(telemetry, checks) as endpoint:
        assert get(endpoint.port, "/healthz")[0] == 200
        port = endpoint.port
    with pytest.raises(ConnectionRefusedError):
        get(port, "/healthz")
    with make(telemetry, checks, port=port) as again:
        assert again.port == port
    assert [thread for thread in threading.enumerate() if thread.name == "http"] == []


def test_an_endpoint_that_was_never_started_closes(telemetry: Telemetry, checks: Checks) -> None:
    endpoint = make(telemetry, checks)
    endpoint.close()
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((LOOPBACK, endpoint.port))


def test_many_scrapes_at_once_all_show_everything(endpoint: HttpEndpoint, telemetry: Telemetry) -> None:
    telemetry.meter("tests").create_counter("fracgpu_things_total").add(1)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: get(endpoint.port, "/metrics"), range(40)))
    assert [(status, body.count("\nfracgpu_things_total ")) for status, _, body in answers] == [(200, 1)] * 40


def test_connections_that_are_held_open_keep_nobody_out(endpoint: HttpEndpoint) -> None:
    """Any pod may reach the port, and the kubelet kills a plugin that its probe can not."""
    idle = [socket.create_connection((LOOPBACK, endpoint.port), TIMEOUT) for _ in range(MOST_CONNECTIONS)]
    for number, connection in enumerate(idle):
        # What dribbles in keeps a connection open.
        connection.sendall(b"GET /met")
        if number % 8 == 0:
            assert get(endpoint.port, "/healthz")[0] == 200
    # They are taken in order: the first had to go, and the last is still there.
    assert get(endpoint.port, "/healthz")[0] == 200
    with suppress(ConnectionResetError):
        assert idle[0].recv(1) == b""
    idle[-1].setblocking(False)
    with pytest.raises(BlockingIOError):
        idle[-1].recv(1)
    for connection in idle:
        connection.close()


def test_not_more_threads_than_connections(endpoint: HttpEndpoint) -> None:
    before = threading.active_count()
    held = [socket.create_connection((LOOPBACK, endpoint.port), TIMEOUT) for _ in range(3 * MOST_CONNECTIONS)]
    # All were accepted before this one; who was hung up on ends soon.
    assert get(endpoint.port, "/healthz")[0] == 200
    deadline = time.monotonic() + TIMEOUT
    while threading.active_count() > before + MOST_CONNECTIONS and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before + MOST_CONNECTIONS
    for connection in held:
        connection.close()


def test_a_client_that_goes_away_disturbs_nobody(
    endpoint: HttpEndpoint, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    for words in (b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff\xfe\r\n\r\n"):
        with socket.create_connection((LOOPBACK, endpoint.port), TIMEOUT) as client:
            client.sendall(words)
            # Reset instead of an orderly end, so that the answer fails.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert get(endpoint.port, "/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")
    assert [record.message for record in caplog.records] == []
