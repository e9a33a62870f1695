"""docs/user/observability.md and the code name the same metrics, labels, outcomes and fields."""

import re
from pathlib import Path

import yaml

from fracgpu.controller.telemetry import catalogue as controller_catalogue
from fracgpu.controller.telemetry.metrics import DECISION_OUTCOMES, OTHER, WRITE_KINDS, WRITE_OUTCOMES
from fracgpu.controller.tell.events import OUTCOMES as EVENT_OUTCOMES
from fracgpu.driver.log import FIELDS
from fracgpu.driver.telemetry import BUILD_INFO
from fracgpu.kubeletplugin.telemetry import catalogue as plugin_catalogue
from fracgpu.kubeletplugin.telemetry.metrics import REMOVAL_KINDS, SLICE_OUTCOMES, STATUS_OUTCOMES

CATALOGUE = plugin_catalogue.CATALOGUE + controller_catalogue.CATALOGUE
PAGE = (Path(__file__).resolve().parents[2] / "docs/user/observability.md").read_text()
ROW = re.compile(r"^\| `(fracgpu_\w+)` \| (\w+) \| ([^|]*?) ?\| ([^|]*?) ?\| (.+) \|$", re.MULTILINE)
ALLOCATION_LABELS = {"namespace", "claim", "request", "device", "gpu_uuid", "allocation_id"}


def code_words(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_each_metric_is_documented_with_type_unit_and_labels() -> None:
    documented = {}
    for name, kind, unit, labels, _ in ROW.findall(PAGE):
        common = ALLOCATION_LABELS if name.startswith("fracgpu_allocation_") else set()
        documented[name] = (kind, unit, code_words(labels) | common)
    assert documented == {metric.name: (metric.kind, metric.unit, set(metric.labels)) for metric in CATALOGUE}


def test_the_allocation_labels_stand_in_the_text() -> None:
    (sentence,) = re.findall(r"All have the labels (.*?);", PAGE, re.DOTALL)
    assert code_words(sentence) == ALLOCATION_LABELS


def test_each_outcome_and_kind_is_documented() -> None:
    meanings = {name: code_words(meaning) for name, _, _, _, meaning in ROW.findall(PAGE)}
    assert meanings["fracgpu_slice_writes_total"] == set(SLICE_OUTCOMES)
    assert meanings["fracgpu_status_writes_total"] == set(STATUS_OUTCOMES)
    assert meanings["fracgpu_janitor_removals_total"] == set(REMOVAL_KINDS)
    assert meanings["fracgpu_allocator_decision_duration_seconds"] == set(DECISION_OUTCOMES)
    assert meanings["fracgpu_allocator_writes_total"] == {*WRITE_KINDS, *WRITE_OUTCOMES}
    assert meanings["fracgpu_allocator_events_total"] == set(EVENT_OUTCOMES)
    assert meanings["fracgpu_allocator_refusals_total"] == {OTHER}


def test_no_name_means_two_things() -> None:
    names = [metric.name for metric in CATALOGUE]
    assert len(names) == len(set(names))


def test_alerts_are_rules_over_metrics_that_exist() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    rules = yaml.safe_load(block)["groups"][0]["rules"]
    shown = {metric.name for metric in CATALOGUE}
    shown |= {
        f"{metric.name}_{part}" for metric in CATALOGUE if metric.kind == "histogram" for part in ("count", "bucket")
    }
    assert len(rules) == len({rule["alert"] for rule in rules})
    for rule in rules:
        names = set(re.findall(r"fracgpu_\w+", rule["expr"]))
        assert names, rule
        assert names <= shown, rule


def test_no_other_name_is_mentioned() -> None:
    known = {metric.name for metric in CATALOGUE} | {BUILD_INFO}
    known |= {f"{name}_{part}" for name in known for part in ("count", "bucket")}
    assert set(re.findall(r"\bfracgpu_\w+", PAGE)) <= known


def test_each_leading_log_field_is_documented() -> None:
    fields = code_words(PAGE[PAGE.index("## Logs") :])
    # `node` leads the lines of components that serve several nodes; the plugin's own has one.
    assert set(FIELDS) - {"node"} <= fields
