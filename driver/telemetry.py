"""Metrics and traces through OpenTelemetry.

Prometheus is pulled: whoever has an HTTP endpoint serves the registry. OTLP is pushed, only when the standard
environment variables say where to, so that nothing leaves the node by default. Both may be on. Providers are handed
out, not installed globally: several components can run in one process (the simulator does), each with its own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from opentelemetry.metrics import Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.trace import NoOpTracerProvider, Tracer, TracerProvider

from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.metric_sources import MetricSources

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

BUILD_INFO: Final = "fracgpu_build_info"
"""Name of the metric that says which version runs; always there, value 1."""

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_METRICS_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
# A collector that does not answer must not hold up the end of the process; what is lost are its last seconds.
_FLUSH_SECONDS: Final = 5.0
_LOG: Final = logging.getLogger(__name__)


class Telemetry:
    """Providers of one component, and the handle that shuts them down (also as a context manager).

    `registry` is for whoever serves Prometheus, None without. `sources` takes metrics that are looked up at each
    collection.
    """

    def __init__(
        self,
        *,
        meter_provider: MeterProvider,
        tracer_provider: TracerProvider,
        sources: MetricSources,
        registry: CollectorRegistry | None,
        stop: ExitStack,
    ) -> None:
        self.meter_provider = meter_provider
        self.tracer_provider = tracer_provider
        self.sources = sources
        self.registry = registry
        self._stop = stop
        self._lock = threading.Lock()

    def meter(self, name: str) -> Meter:
        """Return the meter of one module (`__name__`)."""
        return self.meter_provider.get_meter(name)

    def tracer(self, name: str) -> Tracer:
        """Return the tracer of one module (`__name__`)."""
        return self.tracer_provider.get_tracer(name)

    def shutdown(self, *, flush_seconds: float = _FLUSH_SECONDS) -> None:
        """Push what is left and stop everything, in `flush_seconds` at most. Does nothing the second time."""
        with self._lock:
            closing = threading.Thread(target=_close, args=(self._stop.pop_all(),), name="telemetry", daemon=True)
            closing.start()
            closing.join(flush_seconds)
        if closing.is_alive():
            _LOG.warning("last metrics and traces not delivered", extra={"flush_seconds": flush_seconds})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


def _close(stop: ExitStack) -> None:
    try:
        stop.close()
    except Exception:
        _LOG.exception("telemetry not shut down properly")


def configure_telemetry(
    component: str, *, prometheus: bool = False, attributes: Mapping[str, str] | None = None
) -> Telemetry:
    """Return the telemetry of a component (its `service.name`, unless OTEL_SERVICE_NAME says otherwise).

    `attributes` are OpenTelemetry resource attributes, such as `k8s.node.name`; OTEL_RESOURCE_ATTRIBUTES adds more.
    With `prometheus` there is a registry to serve. OTLP over HTTP is used for metrics when OTEL_EXPORTER_OTLP_ENDPOINT
    or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is set, and for traces likewise; without it spans are not recorded at all.
    Raises ConfigInvalid for one of those variables that can not be understood.
    """
    sources, registry = MetricSources(), None
    readers: list[MetricReader] = []
    resource = _resource(component, attributes or {})
    with ExitStack() as undo:
        if prometheus:
            # Exporters are loaded where they are wanted: they are most of what telemetry costs in memory.
            from fracgpu.driver.prometheus_metrics import prometheus_registry

            registry, reader = prometheus_registry(sources)
            readers.append(reader)
        if _set(_METRICS_ENDPOINT):
            readers.append(_pushing(sources))
        meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        undo.callback(meters.shutdown)
        _tell_build(meters)
        tracers = _tracers(resource, undo)
        stop = undo.pop_all()
    return Telemetry(meter_provider=meters, tracer_provider=tracers, sources=sources, registry=registry, stop=stop)


def _pushing(sources: MetricSources) -> MetricReader:
    from fracgpu.driver.otlp import SourcedPeriodicReader

    with _environment_read():
        return SourcedPeriodicReader(sources)


def _tracers(resource: Resource, undo: ExitStack) -> TracerProvider:
    if not _set(_TRACES_ENDPOINT):
        return NoOpTracerProvider()
    from opentelemetry.sdk.trace import TracerProvider as RecordingProvider

    from fracgpu.driver.otlp import otlp_spans

    tracers = RecordingProvider(resource=resource, shutdown_on_exit=False)
    undo.callback(tracers.shutdown)
    with _environment_read():
        tracers.add_span_processor(otlp_spans())
    return tracers


@contextmanager
def _environment_read() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        remedy = "correct or remove the variables that begin with OTEL_"
        what = " ".join(str(error).split())
        raise ConfigInvalid("OpenTelemetry's environment variables", what, remedy=remedy) from error


def _tell_build(meters: MeterProvider) -> None:
    # Readers pass on nothing at all, sources included, while no instrument has reported: this one always does.
    meters.get_meter(__name__).create_observable_gauge(
        BUILD_INFO,
        callbacks=[lambda _: [Observation(1, {"version": _version()})]],
        description="Version of fracgpu that runs.",
    )


def _set(signal_variable: str) -> bool:
    return bool(os.environ.get(_ENDPOINT) or os.environ.get(signal_variable))


def _resource(component: str, attributes: Mapping[str, str]) -> Resource:
    ours = {**attributes, SERVICE_VERSION: _version()}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        ours[SERVICE_NAME] = component
    return Resource.create(ours)


def _version() -> str:
    try:
        return version("fracgpu")
    except PackageNotFoundError:
        return "unknown"
