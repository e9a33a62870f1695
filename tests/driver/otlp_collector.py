"""An OTLP collector as small as it gets: takes what exporters post and decodes it."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

DEADLINE_SECONDS = 60.0


class Collector(ThreadingHTTPServer):
    """Remembers paths and messages; answers only while `answering` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.traces: list[ExportTraceServiceRequest] = []
        self.arrived = threading.Event()
        self.answering = threading.Event()
        self.answering.set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def metric_names(self) -> set[str]:
        return {
            metric.name
            for message in list(self.metrics)
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def spans(self) -> dict[str, Any]:
        return {
            span.name: span
            for message in list(self.traces)
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    def handle_error(self, *_: Any) -> None:
        """A client may go away before it has its answer."""


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.paths.append(self.path)
        if self.path.endswith(("metrics", "/m")):
            self.server.metrics.append(ExportMetricsServiceRequest.FromString(body))
        else:
            self.server.traces.append(ExportTraceServiceRequest.FromString(body))
        self.server.arrived.set()
        self.server.answering.wait(DEADLINE_SECONDS)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def running_collector() -> Iterator[Collector]:
    """A collector for as long as the block runs."""
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.answering.set()
        server.shutdown()
        thread.join()
        server.server_close()
