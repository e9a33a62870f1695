"""Metrics for Prometheus, which comes and asks.

A module of its own so that a component without an HTTP endpoint does not load the exporter.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import MetricsData
from prometheus_client import CollectorRegistry, Metric, ProcessCollector

from fracgpu.driver.metric_sources import MetricSources


class ScrapedRegistry(CollectorRegistry):
    """A registry that is collected by one scrape at a time.

    The exporter leaves what it collected in a queue that all scrapes share: of two at once one may show everything
    twice, which Prometheus refuses, and the other nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._scrape = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """Return the families of all collectors."""
        with self._scrape:
            return list(super().collect())


class SourcedPrometheusReader(PrometheusMetricReader):
    """The exporter's reader, which shows what the sources say as well.

    Scope labels are left out: three labels on every series that say what its name says already.
    """

    def __init__(self, registry: CollectorRegistry, sources: MetricSources) -> None:
        self._sources = sources
        super().__init__(registry=registry, scope_info_enabled=False)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(self._sources.added_to(metrics_data), timeout_millis, **kwargs)


def prometheus_registry(sources: MetricSources) -> tuple[ScrapedRegistry, SourcedPrometheusReader]:
    """Return a registry with this process's own figures (memory, CPU, open files), and the reader that fills it."""
    registry = ScrapedRegistry()
    ProcessCollector(registry=registry)
    return registry, SourcedPrometheusReader(registry, sources)
