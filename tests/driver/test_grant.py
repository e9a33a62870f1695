import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.errors import GrantInvalid
from fracgpu.driver.grant import FractionGrant, GrantResult, is_grant, parse_grant
from fracgpu.driver.parameters import canonical_json

RESULT = {
    "request": "gpu/m44",
    "pool": "n1",
    "device": "gpu-8f2c1a00",
    "ordinal": 0,
    "memoryBytes": 3145728000,
    "cores": 30,
    "slots": 1,
}
GRANT = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionGrant", "results": [RESULT]}

COUNTS = st.integers(0, 2**63 - 1)


@st.composite
def grant_results(draw: st.DrawFn) -> GrantResult:
    return GrantResult(
        request=draw(st.sampled_from(["a", "a/b"])),
        pool="n1",
        device="gpu-1",
        ordinal=draw(COUNTS),
        memory_bytes=draw(COUNTS),
        cores=draw(COUNTS),
        slots=draw(COUNTS),
    )


def test_reads_a_grant_and_finds_results() -> None:
    grant = parse_grant(GRANT, source="FromClass")
    found = grant.find(request="gpu/m44", pool="n1", device="gpu-8f2c1a00", ordinal=0)
    assert found is not None
    assert (found.memory_bytes, found.cores, found.slots) == (3145728000, 30, 1)
    assert grant.find(request="gpu/m44", pool="n1", device="gpu-8f2c1a00", ordinal=1) is None
    assert grant.find(request="gpu", pool="n1", device="gpu-8f2c1a00", ordinal=0) is None


@given(st.lists(grant_results(), max_size=4, unique_by=lambda result: result.ordinal))
def test_round_trips_through_canonical_json(results: list[GrantResult]) -> None:
    grant = FractionGrant(results=tuple(results))
    assert parse_grant(json.loads(canonical_json(grant.to_parameters())), source="FromClass") == grant


def test_a_grant_from_a_claim_is_never_accepted() -> None:
    with pytest.raises(GrantInvalid, match="comes from the claim"):
        parse_grant(GRANT, source="FromClaim")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"memoryBytes": "8Gi"}, "field results.0.memoryBytes: value '8Gi' is not allowed; allowed: an integer >= 0"),
        ({"cores": True}, "field results.0.cores: value True"),
        ({"cores": 30.0}, "field results.0.cores: value 30.0"),
        ({"slots": -1}, "field results.0.slots: value -1"),
        ({"memoryBytes": 2**63}, "field results.0.memoryBytes"),
        ({"device": ""}, "field results.0.device: value ''"),
        ({"extra": 1}, "field results.0.extra: is unknown; known fields: cores, device, memoryBytes"),
        ({"memory_bytes": 1}, "field results.0.memory_bytes: is unknown"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_bad_results_are_named(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(GrantInvalid) as caught:
        parse_grant({**GRANT, "results": [{**RESULT, **change}]}, source="FromClass")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("field", sorted(RESULT))
def test_every_field_is_required(field: str) -> None:
    partial = {name: value for name, value in RESULT.items() if name != field}
    with pytest.raises(GrantInvalid, match=f"results.0.{field}: is missing"):
        parse_grant({**GRANT, "results": [partial]}, source="FromClass")


@pytest.mark.parametrize(
    ("grant", "complaint"),
    [
        ({**GRANT, "kind": "FractionConfig"}, "field kind"),
        ({**GRANT, "apiVersion": "v1"}, "field apiVersion"),
        ({**GRANT, "results": "x"}, "field results: value 'x' is not allowed; allowed: a list of results"),
        ({**GRANT, "results": [RESULT, RESULT]}, "are not distinct"),
        ({**GRANT, "signature": "x"}, "field signature: is unknown"),
        ("text", "is str, not an object"),
    ],
    ids=["kind", "version", "no-list", "twice", "unknown", "text"],
)
def test_bad_envelopes_are_refused(grant: object, complaint: str) -> None:
    with pytest.raises(GrantInvalid) as caught:
        parse_grant(grant, source="FromClass")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "yes"), [(GRANT, True), ({"kind": "FractionGrant"}, True), ({"kind": "x"}, False), ([], False)]
)
def test_is_grant_looks_at_the_kind_only(parameters: object, yes: bool) -> None:
    assert is_grant(parameters) is yes
