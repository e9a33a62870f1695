"""Metrics and traces through OpenTelemetry.

Prometheus is pulled from our own port; OTLP is pushed only when the standard environment variables say where to, so
that nothing leaves the node by default. Providers are handed out, not installed globally: several components can run in
one process (the simulator does), each with its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Final, Self

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from fracgpu.driver.errors import ConfigInvalid

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_METRICS_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


class Telemetry:
    """Providers of one component, and the handle that shuts them down (also as a context manager).

    `prometheus_port` is the port actually listened on, None without Prometheus.
    """

    def __init__(
        self,
        *,
        meter_provider: MeterProvider,
        tracer_provider: TracerProvider,
        prometheus_port: int | None,
        stop: ExitStack,
    ) -> None:
        self.meter_provider = meter_provider
        self.tracer_provider = tracer_provider
        self.prometheus_port = prometheus_port
        self._stop = stop
        self._lock = threading.Lock()

    def meter(self, name: str) -> Meter:
        """Return the meter of one module (`__name__`)."""
        return self.meter_provider.get_meter(name)

    def tracer(self, name: str) -> Tracer:
        """Return the tracer of one module (`__name__`)."""
        return self.tracer_provider.get_tracer(name)

    def shutdown(self) -> None:
        """Flush and stop everything, closing the Prometheus port. Does nothing the second time."""
        with self._lock:
            self._stop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


def configure_telemetry(
    component: str,
    *,
    prometheus_port: int | None = None,
    prometheus_address: str = "0.0.0.0",  # noqa: S104 - a scraper reaches a pod by its own address
) -> Telemetry:
    """Return the telemetry of a component (its `service.name`, unless OTEL_SERVICE_NAME says otherwise).

    With `prometheus_port`, metrics are served at `http://<prometheus_address>:<port>/metrics` (0: any free port).
    OTLP over HTTP is used for metrics when OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is set,
    and for traces likewise. Raises ConfigInvalid if the address cannot be listened on; nothing is left behind then.
    """
    with ExitStack() as undo:
        readers: list[MetricReader] = []
        port = None
        if prometheus_port is not None:
            reader, port = _prometheus(prometheus_address, prometheus_port, undo.callback)
            readers.append(reader)
        if _set(_METRICS_ENDPOINT):
            readers.append(_otlp_metrics())
        resource = _resource(component)
        meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        undo.callback(meters.shutdown)
        traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        undo.callback(traces.shutdown)
        if _set(_TRACES_ENDPOINT):
            traces.add_span_processor(_otlp_traces())
        stop = undo.pop_all()
    return Telemetry(meter_provider=meters, tracer_provider=traces, prometheus_port=port, stop=stop)


def _set(signal_variable: str) -> bool:
    return bool(os.environ.get(_ENDPOINT) or os.environ.get(signal_variable))


def _resource(component: str) -> Resource:
    attributes = {SERVICE_VERSION: _version()}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        attributes[SERVICE_NAME] = component
    return Resource.create(attributes)


def _version() -> str:
    try:
        return version("fracgpu")
    except PackageNotFoundError:
        return "unknown"


def _prometheus(address: str, port: int, on_exit: Callable[..., object]) -> tuple[MetricReader, int]:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except (OSError, OverflowError) as error:
        what = f"cannot be listened on: {error}"
        raise ConfigInvalid(f"metrics address {address}:{port}", what, remedy="choose a free port") from error
    # In reverse order: stop accepting, wait for the thread, close the port.
    on_exit(server.server_close)
    on_exit(thread.join)
    on_exit(server.shutdown)
    return PrometheusMetricReader(registry=registry), server.server_port


# The exporters bring an HTTP client with them; a component that does not push does not load it.
def _otlp_metrics() -> MetricReader:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return PeriodicExportingMetricReader(OTLPMetricExporter())


def _otlp_traces() -> BatchSpanProcessor:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter())
