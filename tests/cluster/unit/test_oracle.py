"""The oracle finds what is too much, wherever the amounts are written, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.oracle import amount, excess

Json = dict[str, Any]


def slice_of(memory: str = "8Gi") -> Json:
    capacity = {"memory": {"value": memory}, "cores": {"value": "100"}, "slots": {"value": "2"}}
    spec = {
        "driver": "gpu.fracgpu.dev",
        "pool": {"name": "node"},
        "devices": [{"name": "gpu-0", "capacity": capacity}],
    }
    return {"spec": spec}


def claim(consumed: Json, **more: Any) -> Json:
    result = {"request": "r", "driver": "gpu.fracgpu.dev", "pool": "node", "device": "gpu-0", **more}
    devices = {"results": [{**result, "consumedCapacity": consumed}]}
    return {"metadata": {"name": "claim"}, "status": {"allocation": {"devices": devices}}}


def granted(memory: int, cores: int = 0) -> Json:
    result = {"request": "r", "pool": "node", "device": "gpu-0", "ordinal": 0}
    grant = {"kind": "FractionGrant", "results": [{**result, "memoryBytes": memory, "cores": cores, "slots": 1}]}
    devices = {
        "results": [{**result, "driver": "gpu.fracgpu.dev"}],
        "config": [{"opaque": {"parameters": {"kind": "FractionConfig"}}}, {"opaque": {"parameters": grant}}],
    }
    return {"metadata": {"name": "claim"}, "status": {"allocation": {"devices": devices}}}


@pytest.mark.parametrize(
    ("quantity", "number"), [("8Gi", 8 << 30), ("1500M", 1500 * 10**6), ("12", 12), ("0.5Ki", 512)]
)
def test_reads_quantities(quantity: str, number: int) -> None:
    assert amount(quantity) == number


def test_what_fits_exactly_is_not_too_much() -> None:
    assert excess([slice_of()], [claim({"memory": "4Gi", "cores": "50", "slots": "1"})] * 2) == []
    assert excess([slice_of()], [granted(4 << 30, 50)] * 2) == []


@pytest.mark.parametrize(
    ("consumed", "what"),
    [
        ({"memory": "4097Mi"}, "memory"),
        ({"memory": "1Gi", "cores": "51"}, "cores"),
    ],
)
def test_one_more_than_there_is_is_found(consumed: Json, what: str) -> None:
    (found,) = excess([slice_of()], [claim(consumed)] * 2)
    assert found.startswith("node/gpu-0")
    assert found.endswith(what)


def test_a_third_sharer_of_two_is_found() -> None:
    assert excess([slice_of()], [claim({"memory": "1Gi", "slots": "1"})] * 3) == ["node/gpu-0: 3 of 2 slots"]


def test_grants_count_with_consumed_capacity() -> None:
    assert excess([slice_of()], [granted(4 << 30), claim({"memory": "5Gi"})])


def test_a_gpu_that_is_in_no_slice_has_nothing() -> None:
    assert excess([], [claim({"memory": "1"})])


def test_admin_access_counts_nothing() -> None:
    assert excess([slice_of()], [claim({"memory": "8Gi"}), claim({"memory": "8Gi"}, adminAccess=True)]) == []


def test_an_amount_that_nobody_states_is_an_error() -> None:
    stated = granted(1)
    stated["status"]["allocation"]["devices"]["config"] = []
    with pytest.raises(AssertionError):
        excess([slice_of()], [stated])
