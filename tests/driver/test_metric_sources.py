"""What is looked up at each collection: nothing of it is kept, and nothing is shown twice."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from prometheus_client import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from fracgpu.driver.metric_sources import Family, MetricSources, Reading
from fracgpu.driver.prometheus_metrics import ScrapedRegistry, prometheus_registry

# More than the SDK keeps attribute sets before it puts all others into one.
MORE_THAN_THE_SDK_KEEPS = 2100


def family(*readings: Reading, counter: bool = False) -> Family:
    name = "fracgpu_seen_total" if counter else "fracgpu_seen"
    return Family(name=name, unit="", description="Seen.", counter=counter, readings=readings)


class Scraped:
    """A registry with sources, without anything else."""

    def __init__(self) -> None:
        self.sources = MetricSources()
        self.registry, reader = prometheus_registry(self.sources)
        self.provider = MeterProvider([reader], shutdown_on_exit=False)
        self.provider.get_meter("tests").create_counter("fracgpu_counted_total").add(1)

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        text = generate_latest(self.registry).decode()
        families = {found.name: found for found in text_string_to_metric_families(text)}
        return [(sample.labels, sample.value) for sample in families[name].samples] if name in families else []


def collected() -> MetricsData:
    """Something that the SDK has collected: a counter `c`."""
    reader = InMemoryMetricReader()
    MeterProvider([reader], shutdown_on_exit=False).get_meter("tests").create_counter("c").add(1)
    data = reader.get_metrics_data()
    assert data is not None
    return data


def points(data: MetricsData) -> Sequence[Any]:
    (resource,) = data.resource_metrics
    metrics = [metric for entry in resource.scope_metrics for metric in entry.metrics]
    return [point for metric in metrics if metric.name != "c" for point in metric.data.data_points]


def test_series_come_and_go_without_end_and_each_stays_itself() -> None:
    scraped = Scraped()
    current = 0
    scraped.sources.add("tests", lambda: [family(Reading(current, {"claim": f"c{current}"}))])
    for current in range(MORE_THAN_THE_SDK_KEEPS):  # noqa: B007 (the source reads it)
        list(scraped.registry.collect())
    assert scraped.samples("fracgpu_seen") == [({"claim": f"c{current}"}, current)]


def test_a_family_without_readings_is_not_shown() -> None:
    scraped = Scraped()
    scraped.sources.add("tests", lambda: [family()])
    assert b"fracgpu_seen" not in generate_latest(scraped.registry)


def test_a_scope_that_counts_and_looks_up_stays_one() -> None:
    sources = MetricSources()
    for scope in ("tests", "elsewhere", "tests"):
        sources.add(scope, lambda: [family(Reading(1, {}))])
    (resource,) = sources.added_to(collected()).resource_metrics
    names = {entry.scope.name: [metric.name for metric in entry.metrics] for entry in resource.scope_metrics}
    assert len(resource.scope_metrics) == 2
    assert names == {"tests": ["c", "fracgpu_seen", "fracgpu_seen"], "elsewhere": ["fracgpu_seen"]}


def test_a_source_that_fails_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> list[Family]:
        raise RuntimeError("no answer")

    scraped = Scraped()
    scraped.sources.add("fracgpu.broken", broken)
    scraped.sources.add("tests", lambda: [family(Reading(1, {}))])
    assert scraped.samples("fracgpu_seen") == [({}, 1.0)]
    assert scraped.samples("fracgpu_counted") == [({}, 1.0)]
    assert "no answer" in caplog.text
    assert caplog.records[0].__dict__["scope"] == "fracgpu.broken"


def test_a_counter_starts_when_it_is_first_seen_and_anew_when_it_comes_back() -> None:
    times = iter([10, 20, 30, 40])
    present: list[str] = []
    sources = MetricSources(lambda: next(times))
    sources.add("tests", lambda: [family(*(Reading(5, {"claim": claim}) for claim in present), counter=True)])
    starts = []
    for present[:] in ("a", "ab", "b", "ab"):
        found = points(sources.added_to(collected()))
        starts.append({point.attributes["claim"]: point.start_time_unix_nano for point in found})
    assert starts == [{"a": 10}, {"a": 10, "b": 20}, {"b": 20}, {"a": 40, "b": 20}]


class Slow:
    """A collector that shows whether two scrapes are inside of it at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most_inside = 0
        self._two = threading.Event()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if self.inside > 1:
            self._two.set()
        # Long enough for another scrape to come in if it may; nothing is wrong if none does.
        self._two.wait(0.02)
        self.inside -= 1
        yield GaugeMetricFamily("slow", "Slow.", 1)


def test_a_registry_is_collected_by_one_scrape_at_a_time() -> None:
    scrapes, slow, registry = 4, Slow(), ScrapedRegistry()
    registry.register(slow)
    together = threading.Barrier(scrapes)

    def scrape(_: int) -> str:
        together.wait(60)
        return generate_latest(registry).decode()

    with ThreadPoolExecutor(scrapes) as threads:
        texts = list(threads.map(scrape, range(scrapes)))
    assert slow.most_inside == 1
    assert ["slow 1.0" in text for text in texts] == [True] * scrapes


LABEL_VALUES = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)


@given(values=st.lists(LABEL_VALUES, min_size=1, max_size=5, unique=True), number=st.integers(0, 2**63))
def test_whatever_stands_in_a_label_prometheus_reads_the_same(values: list[str], number: int) -> None:
    scraped = Scraped()
    scraped.sources.add("tests", lambda: [family(*(Reading(number, {"claim": value}) for value in values))])
    assert scraped.samples("fracgpu_seen") == [({"claim": value}, float(number)) for value in values]


@pytest.mark.parametrize("number", [0, 1, 1.5, 2**40], ids=str)
def test_values_pass_unchanged(number: float) -> None:
    sources = MetricSources()
    make: Callable[[], list[Family]] = lambda: [family(Reading(number, {}))]  # noqa: E731
    sources.add("tests", make)
    assert [point.value for point in points(sources.added_to(collected()))] == [number]
