"""What the API server accepts in status.devices: conditions by metav1's rules, data of limited size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
Json = dict[str, Any]


@pytest.fixture
def report(raw: Any, make_claim: Any, make_allocation: Any) -> Callable[..., Any]:
    """Write one entry with the given conditions and data."""
    stored = raw("POST", CLAIMS, make_claim()).body
    allocated = raw("PUT", f"{CLAIMS}/c/status", stored | {"status": {"allocation": make_allocation()}}).body

    def write(**changes: Any) -> Any:
        entry = {"driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-1", **changes}
        return raw("PUT", f"{CLAIMS}/c/status", allocated | {"status": allocated["status"] | {"devices": [entry]}})

    return write


def condition(**changes: Any) -> Json:
    whole = {"type": "Enforced", "status": "True", "reason": "InterceptorAttached", "message": "",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    return {key: value for key, value in (whole | changes).items() if value is not None}


def test_a_whole_entry_is_stored_as_it_is(report: Callable[..., Any]) -> None:
    conditions = [condition(type=f"T{number}") for number in range(8)]
    answer = report(conditions=conditions, data={"memoryUsedBytes": 5, "backend": "interceptor"})
    assert answer.code == 200
    (device,) = answer.body["status"]["devices"]
    assert (device["conditions"], device["data"]["memoryUsedBytes"]) == (conditions, 5)


@pytest.mark.parametrize(
    ("conditions", "field"),
    [
        ([condition(type=None)], "conditions[0].type"),
        ([condition(reason=None)], "conditions[0].reason"),
        ([condition(lastTransitionTime=None)], "conditions[0].lastTransitionTime"),
        ([condition(status=None)], "conditions[0].status"),
        ([condition(status="Yes")], "conditions[0].status"),
        ([condition(reason="not a reason")], "conditions[0].reason"),
        ([condition(reason="1st")], "conditions[0].reason"),
        ([condition(), condition(status="False")], "conditions[1].type"),
        ([condition(type=f"T{number}") for number in range(9)], "conditions"),
    ],
)
def test_conditions_that_break_the_rules(report: Callable[..., Any], conditions: list[Json], field: str) -> None:
    answer = report(conditions=conditions)
    assert answer.code == 422
    assert [cause.partition(": ")[0] for cause in answer.causes] == [f"status.devices[0].{field}"]


@pytest.mark.parametrize(
    ("length", "code"), [(10 * 1024 - len('{"a":""}'), 200), (10 * 1024 - len('{"a":""}') + 1, 422)]
)
def test_data_has_a_limit(report: Callable[..., Any], length: int, code: int) -> None:
    assert report(data={"a": "x" * length}).code == code


def test_data_is_an_object(report: Callable[..., Any]) -> None:
    answer = report(data=[1])
    assert (answer.code, "must be a valid JSON object" in answer.causes[0]) == (422, True)
