"""Metrics and traces for an OTLP collector, to which we go.

A module of its own so that a component that does not push does not load the exporters and their HTTP client. Where to,
how often, with which headers and certificates: all that is for the exporters to read from OpenTelemetry's standard
environment variables.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from fracgpu.driver.metric_sources import MetricSources


class SourcedPeriodicReader(PeriodicExportingMetricReader):
    """The SDK's periodic reader, which pushes what the sources say as well."""

    def __init__(self, sources: MetricSources) -> None:
        # First, because the base class starts its thread.
        self._sources = sources
        super().__init__(OTLPMetricExporter())

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(self._sources.added_to(metrics_data), timeout_millis, **kwargs)


def otlp_spans() -> BatchSpanProcessor:
    """Return the processor that pushes spans in batches."""
    return BatchSpanProcessor(OTLPSpanExporter())
