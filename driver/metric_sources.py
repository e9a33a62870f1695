"""Metrics that are looked up, not counted: what is so at the moment somebody asks.

OpenTelemetry's SDK keeps each attribute set that an observable instrument ever reported, for as long as the process
runs. After 2000 claims it puts all further ones into one overflow series, so on a node of short jobs a claim whose
limit is not enforced would become invisible within days. Hence values that belong to claims come from sources: a
function that returns whole families of readings, asked at each collection, of which nothing is kept but when a counter
was first seen. This is what OpenTelemetry's specification calls a MetricProducer, which its Python SDK does not have.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

_LOG: Final = logging.getLogger(__name__)
_Key = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Reading:
    """One value with its labels. Within a family no two readings may have the same labels."""

    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All readings of one metric. `unit` is in UCUM (`By`, `s`, `%`, empty); a `counter` never falls while it exists.

    `name` is what Prometheus shows, so it ends in the unit's name and, for a counter, in `_total`.
    """

    name: str
    unit: str
    description: str
    counter: bool
    readings: Sequence[Reading]


Source = Callable[[], Iterable[Family]]
"""Returns the families as they are now. Is called from the threads of exporters."""


class MetricSources:
    """The sources of one component; readers add what they say to what the SDK has collected."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        """Use `clock` (nanoseconds since the epoch) for the times of readings."""
        self._clock = clock
        self._lock = threading.Lock()
        self._sources: list[tuple[InstrumentationScope, Source]] = []
        self._first_seen: dict[_Key, int] = {}

    def add(self, scope: str, source: Source) -> None:
        """Ask `source` at every collection from now on; `scope` is the module that it belongs to."""
        with self._lock:
            self._sources.append((InstrumentationScope(scope), source))

    def added_to(self, collected: MetricsData) -> MetricsData:
        """Return `collected`, with what the sources say in its first resource.

        A source that raises is left out and logged: what others count must still be seen.
        """
        first, *others = collected.resource_metrics
        # One entry for each scope: of two, OTLP's encoder keeps the later one only.
        by_scope = {entry.scope: entry for entry in first.scope_metrics}
        with self._lock:
            now = self._clock()
            seen: dict[_Key, int] = {}
            for scope, source in self._sources:
                found = [self._metric(family, now, seen) for family in _asked(scope, source)]
                if found:
                    entry = by_scope.get(scope, ScopeMetrics(scope, [], schema_url=""))
                    by_scope[scope] = replace(entry, metrics=[*entry.metrics, *found])
            self._first_seen = seen
        return MetricsData([replace(first, scope_metrics=list(by_scope.values())), *others])

    def _metric(self, family: Family, now: int, seen: dict[_Key, int]) -> Metric:
        points = [self._point(family, reading, now, seen) for reading in family.readings]
        data = (
            Sum(data_points=points, aggregation_temporality=AggregationTemporality.CUMULATIVE, is_monotonic=True)
            if family.counter
            else Gauge(data_points=points)
        )
        return Metric(name=family.name, description=family.description, unit=family.unit, data=data)

    def _point(self, family: Family, reading: Reading, now: int, seen: dict[_Key, int]) -> NumberDataPoint:
        start = 0
        if family.counter:
            key = (family.name, frozenset(reading.labels.items()))
            start = seen[key] = self._first_seen.get(key, now)
        return NumberDataPoint(
            attributes=dict(reading.labels), start_time_unix_nano=start, time_unix_nano=now, value=reading.value
        )


def _asked(scope: InstrumentationScope, source: Source) -> list[Family]:
    try:
        return [family for family in source() if family.readings]
    except Exception:
        _LOG.exception("metrics can not be read", extra={"scope": scope.name})
        return []
