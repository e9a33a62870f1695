"""What the plugin counts, and what all metrics have in common."""

import ast
import inspect
import subprocess
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.errors import AmountsZero, GpuLost, InventoryUnavailable
from fracgpu.kubeletplugin.errors import ClaimInvalid, ClaimRefused
from fracgpu.kubeletplugin.janitor import janitor
from fracgpu.kubeletplugin.proof.claim_writer import Outcome
from fracgpu.kubeletplugin.publish import publisher
from fracgpu.kubeletplugin.telemetry.catalogue import CATALOGUE
from fracgpu.kubeletplugin.telemetry.counted_inventory import CountedInventory
from fracgpu.kubeletplugin.telemetry.metrics import (
    CLAIM_DURATION_BUCKETS_SECONDS,
    DEFECT,
    OK,
    REMOVAL_KINDS,
    SLICE_OUTCOMES,
    STATUS_OUTCOMES,
    outcome_of,
)
from tests.kubeletplugin.telemetry.scraped_plugin import Plugin, entry, gpu, observed, record, value


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


ERRORS = [
    (None, OK),
    (ClaimRefused("c", "x", code=ReasonCode.CARD_INSUFFICIENT_MEMORY, remedy="r"), "CardInsufficientMemory"),
    (AmountsZero("c", "x", remedy="r"), "AmountsZero"),
    (ClaimInvalid("c", "x", remedy="r"), "ClaimInvalid"),
    (FileNotFoundError(2, "no such file"), "OSError"),
    (subprocess.CalledProcessError(1, "x"), DEFECT),
    (KeyError("claim-of-a-user"), DEFECT),
]


@pytest.mark.parametrize(("error", "outcome"), ERRORS, ids=[outcome + "-" + type(e).__name__ for e, outcome in ERRORS])
def test_an_outcome_is_a_reason_code_an_error_or_a_defect(error: BaseException | None, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_what_the_plugin_did_is_counted(plugin: Plugin) -> None:
    plugin.counted.claim_done("prepare", OK, 0.03)
    plugin.counted.claim_done("prepare", "ClaimInvalid", 41.0)
    plugin.counted.slice_written("created")
    plugin.counted.status_written("unavailable")
    plugin.counted.swept("interceptor", 2)
    samples = plugin.scrape()
    duration = "fracgpu_claim_operation_duration_seconds"
    assert value(samples, f"{duration}_count", op="prepare", outcome="ok") == 1
    assert value(samples, f"{duration}_sum", op="prepare", outcome="ok") == 0.03
    assert value(samples, f"{duration}_bucket", outcome="ok", le="0.025") == 0
    assert value(samples, f"{duration}_bucket", outcome="ok", le="0.05") == 1
    assert value(samples, f"{duration}_bucket", outcome="ClaimInvalid", le="40.0") == 0
    assert value(samples, f"{duration}_bucket", outcome="ClaimInvalid", le="45.0") == 1
    assert value(samples, "fracgpu_slice_writes_total", outcome="created") == 1
    assert value(samples, "fracgpu_status_writes_total", outcome="unavailable") == 1
    assert value(samples, "fracgpu_janitor_removals_total", kind="interceptor") == 2


def test_what_has_not_happened_yet_is_zero_so_that_its_first_time_is_an_increase(plugin: Plugin) -> None:
    samples = plugin.scrape()
    for name, label, values in (
        ("fracgpu_slice_writes_total", "outcome", SLICE_OUTCOMES),
        ("fracgpu_status_writes_total", "outcome", STATUS_OUTCOMES),
        ("fracgpu_janitor_removals_total", "kind", REMOVAL_KINDS),
    ):
        assert samples[name] == {frozenset({(label, value)}): 0.0 for value in values}


def called_with(module: ModuleType, *methods: str) -> set[str]:
    """The texts that `module` passes first to these methods of its own objects."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call)]
    texts = set()
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr in methods and call.args:
            texts |= {part.value for part in ast.walk(call.args[0]) if isinstance(part, ast.Constant)}
    return {text for text in texts if isinstance(text, str)}


def test_those_who_tell_use_the_words_that_are_documented() -> None:
    assert called_with(publisher, "_on_write") == set(SLICE_OUTCOMES)
    assert called_with(janitor, "_count", "_attempt") == set(REMOVAL_KINDS)
    assert {outcome.value for outcome in Outcome} == set(STATUS_OUTCOMES)


def test_the_buckets_reach_from_a_millisecond_to_the_kubelets_patience() -> None:
    assert CLAIM_DURATION_BUCKETS_SECONDS[0] == 0.001
    assert CLAIM_DURATION_BUCKETS_SECONDS[-2:] == (40.0, 45.0)
    assert list(CLAIM_DURATION_BUCKETS_SECONDS) == sorted(set(CLAIM_DURATION_BUCKETS_SECONDS))


def test_nothing_is_lost_when_many_threads_count(plugin: Plugin) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: plugin.counted.claim_done("prepare", OK, n / 1000), range(800)))
    samples = plugin.scrape()
    assert value(samples, "fracgpu_claim_operation_duration_seconds_count", op="prepare", outcome="ok") == 800


class Driver:
    """An inventory that answers, or not."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def list_gpus(self) -> Any:
        return self.memory("")

    def processes(self, uuid: str) -> Any:
        return self.memory(uuid)

    def memory(self, uuid: str) -> Any:
        del uuid
        if self.error is not None:
            raise self.error
        return ()


def test_a_silent_nvml_shows_until_it_answers(plugin: Plugin) -> None:
    driver: Any = Driver()
    inventory: Any = CountedInventory(driver, plugin.counted)
    assert value(plugin.scrape(), "fracgpu_nvml_failures_total") == 0
    assert inventory.list_gpus() == ()
    assert value(plugin.scrape(), "fracgpu_nvml_available") == 1
    driver.error = InventoryUnavailable("NVML", "is silent", remedy="wait")
    for ask in (inventory.list_gpus, lambda: inventory.memory("g"), lambda: inventory.processes("g")):
        with pytest.raises(InventoryUnavailable):
            ask()
    samples = plugin.scrape()
    assert value(samples, "fracgpu_nvml_available") == 0
    assert value(samples, "fracgpu_nvml_failures_total") == 3
    driver.error = GpuLost("GPU g", "fell off the bus", remedy="reset it")
    with pytest.raises(GpuLost):
        inventory.memory("g")
    assert value(plugin.scrape(), "fracgpu_nvml_available") == 1


def test_each_metric_of_the_catalogue_is_shown_with_its_labels_and_none_besides(plugin: Plugin) -> None:
    plugin.entries = lambda: [entry("a", record("a"))]
    plugin.is_(gpus=[gpu()], allocations=[observed(record("a"))])
    plugin.counted.claim_done("prepare", OK, 0.1)
    plugin.counted.nvml_asked(answered=True)
    assert plugin.telemetry.registry is not None
    shown = {}
    for family in text_string_to_metric_families(generate_latest(plugin.telemetry.registry).decode()):
        if family.name.startswith("fracgpu_") and family.name != "fracgpu_build_info":
            labels = set(family.samples[0].labels) - {"le"}
            # The parser takes the suffix of counters away.
            name = f"{family.name}_total" if family.type == "counter" else family.name
            shown[name] = (family.type, frozenset(labels))
    assert shown == {metric.name: (metric.kind, frozenset(metric.labels)) for metric in CATALOGUE}


def test_units_stand_in_the_names() -> None:
    suffixes = {"By": "_bytes", "s": "_seconds", "%": "_percent"}
    for metric in CATALOGUE:
        name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert name.endswith(suffixes.get(metric.unit, "")), metric
        assert metric.unit in suffixes or not name.endswith(tuple(suffixes.values())), metric
