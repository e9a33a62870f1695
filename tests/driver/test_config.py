import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.config import FractionConfig, Placement, canonical_json, merge_configs, parse_config
from fracgpu.driver.errors import ConfigInvalid

HEAD = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig"}
EVERYTHING = {
    "memory": "8Gi",
    "cores": 30,
    "weight": 50,
    "placement": {"gpu": "Spread", "node": "Binpack", "topology": "Numa"},
    "utilizationView": "Slice",
    "coresPolicy": "Burst",
    "burstCores": 60,
    "enforcement": "Interceptor",
    "strict": True,
    "oversubscribe": False,
    "onViolation": "Taint",
}
CLASS_ONLY = ["coresPolicy", "burstCores", "enforcement", "strict", "oversubscribe", "onViolation"]

CONFIGS = st.builds(
    FractionConfig,
    memory=st.none() | st.sampled_from(["8Gi", "3000Mi", "Whole", "1000000000"]),
    cores=st.none() | st.integers(0, 100),
    weight=st.none() | st.integers(1, 100),
    placement=st.none() | st.builds(Placement, gpu=st.sampled_from([None, "Spread", "Binpack"])),
    strict=st.none() | st.booleans(),
)


def test_every_field_is_read_and_written_back() -> None:
    parameters = {**HEAD, **EVERYTHING}
    config = parse_config(parameters, source="FromClass")
    assert config.placement == Placement(gpu="Spread", node="Binpack", topology="Numa")
    assert (config.memory, config.cores, config.burst_cores, config.strict) == ("8Gi", 30, 60, True)
    assert config.to_parameters() == parameters


def test_nothing_said_is_valid() -> None:
    assert parse_config(HEAD, source="FromClaim") == FractionConfig()


@given(CONFIGS)
def test_parameters_round_trip_through_canonical_json(config: FractionConfig) -> None:
    encoded = canonical_json(config.to_parameters())
    assert parse_config(json.loads(encoded), source="FromClass") == config


@pytest.mark.parametrize("field", CLASS_ONLY)
def test_class_only_fields_are_refused_from_a_claim(field: str) -> None:
    parameters = {**HEAD, field: EVERYTHING[field]}
    assert parse_config(parameters, source="FromClass") != FractionConfig()
    with pytest.raises(ConfigInvalid, match=f"field {field}: may only be set by a class"):
        parse_config(parameters, source="FromClaim")


@pytest.mark.parametrize("field", sorted(EVERYTHING.keys() - set(CLASS_ONLY)))
def test_the_other_fields_are_open_to_claims(field: str) -> None:
    assert parse_config({**HEAD, field: EVERYTHING[field]}, source="FromClaim") != FractionConfig()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"memory": 8}, "field memory: value 8 is not allowed; allowed: a Quantity"),
        ({"memory": "8gb"}, "field memory: value '8gb'"),
        ({"memory": "whole"}, "field memory: value 'whole'"),
        ({"memory": "500m"}, "field memory: value '500m'"),
        ({"memory": "-1Gi"}, "field memory: value '-1Gi'"),
        ({"memoryPercent": 0}, "field memoryPercent: value 0 is not allowed; allowed: an integer 1..100"),
        ({"memoryPercent": 101}, "field memoryPercent: value 101"),
        ({"cores": -1}, "field cores: value -1 is not allowed; allowed: an integer 0..100"),
        ({"cores": 101}, "field cores: value 101"),
        ({"cores": True}, "field cores: value True"),
        ({"cores": 30.0}, "field cores: value 30.0"),
        ({"cores": "30"}, "field cores: value '30'"),
        ({"weight": 0}, "field weight: value 0 is not allowed; allowed: an integer 1..100"),
        ({"burstCores": 101}, "field burstCores: value 101"),
        ({"placement": "Spread"}, "field placement: value 'Spread'"),
        (
            {"placement": {"gpu": "spread"}},
            "field placement.gpu: value 'spread' is not allowed; allowed: Bin",
        ),
        ({"placement": {"topology": "Rack"}}, "allowed: None, Numa, PcieRoot"),
        ({"placement": {"rack": "a"}}, "field placement.rack: is unknown; known fields: gpu, node, topology"),
        ({"placement": {"gpu": None}}, "field placement.gpu: is null; allowed: Binpack, Spread"),
        ({"utilizationView": "Both"}, "allowed: Slice, Device"),
        ({"coresPolicy": "cap"}, "allowed: Cap, Burst, None"),
        ({"enforcement": "Driver"}, "allowed: Interceptor, None"),
        ({"strict": 1}, "field strict: value 1 is not allowed; allowed: true, false"),
        ({"oversubscribe": "true"}, "field oversubscribe: value 'true'"),
        ({"onViolation": "Evict"}, "allowed: Report, Taint, Kill"),
        ({"memory": None}, "field memory: is null"),
        ({"memoryGB": 8}, "field memoryGB: is unknown; known fields: burstCores, cores"),
        ({"memory_percent": 20}, "field memory_percent: is unknown"),
        ({"memory": "8Gi", "memoryPercent": 20}, "give one of memory and memoryPercent"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_bad_fields_are_named_with_value_and_allowed_values(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_config({**HEAD, **fields}, source="FromClass")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        (None, "is NoneType, not an object"),
        ([], "is list, not an object"),
        ({"kind": "FractionConfig"}, "field apiVersion: is missing; set it to gpu.fracgpu.dev/v1alpha1"),
        ({**HEAD, "apiVersion": "gpu.fracgpu.dev/v2"}, "field apiVersion: is 'gpu.fracgpu.dev/v2'"),
        ({**HEAD, "kind": "GpuConfig"}, "field kind: is 'GpuConfig'; set it to FractionConfig"),
        ({**HEAD, "kind": "FractionGrant"}, "field kind: is 'FractionGrant'"),
    ],
    ids=["null", "list", "no-version", "version", "kind", "grant"],
)
def test_other_kinds_and_versions_are_refused(parameters: object, complaint: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(parameters, source="FromClass")
    assert complaint in str(caught.value)


def test_parsing_leaves_the_input_alone() -> None:
    parameters = {**HEAD, "cores": 30}
    parse_config(parameters, source="FromClaim")
    assert parameters == {**HEAD, "cores": 30}


def test_later_entries_override_earlier_ones_field_by_field() -> None:
    first = FractionConfig(memory="8Gi", cores=30, strict=True, placement=Placement(gpu="Spread", node="Spread"))
    second = FractionConfig(cores=0, strict=False, placement=Placement(node="Binpack"))
    merged = merge_configs([("FromClass", first), ("FromClaim", second)])
    assert merged == FractionConfig(
        memory="8Gi", cores=0, strict=False, placement=Placement(gpu="Spread", node="Binpack")
    )


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        ({"memory": "8Gi"}, {"memory_percent": 20}, {"memory_percent": 20}),
        ({"memory_percent": 20}, {"memory": "Whole"}, {"memory": "Whole"}),
        ({"memory_percent": 20}, {"cores": 5}, {"memory_percent": 20, "cores": 5}),
    ],
    ids=["percent-over-amount", "amount-over-percent", "neither"],
)
def test_amount_and_percentage_override_each_other(earlier: Any, later: Any, merged: Any) -> None:
    entries = [FractionConfig(**earlier), FractionConfig(**later)]
    assert merge_configs([("FromClass", entries[0]), ("FromClaim", entries[1])]) == FractionConfig(**merged)


@given(CONFIGS, CONFIGS, CONFIGS)
def test_merging_is_associative_with_the_empty_config_as_unit(
    a: FractionConfig, b: FractionConfig, c: FractionConfig
) -> None:
    def merge(*configs: FractionConfig) -> FractionConfig:
        return merge_configs([("FromClass", config) for config in configs])

    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == merge(a, b, c)
    assert merge() == FractionConfig()
    assert merge(a) == merge(a, a) == a
