"""What allocations hold: never less than the truth."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.fit.views import Holding
from fracgpu.controller.objects.holdings import holdings_of, node_of

GIB = 1024**3
CONSUMED = {"memory": "3Gi", "cores": "5", "slots": "1"}
WHOLE = Holding(pool="n1", device="gpu-a", memory_bytes=0, whole=True)


def _held(memory: int, cores: int, slots: int) -> Holding:
    return Holding(pool="n1", device="gpu-a", memory_bytes=memory, cores=cores, slots=slots)


def test_consumed_capacity_counts(allocated: Any) -> None:
    assert holdings_of(allocated({"consumedCapacity": CONSUMED})) == (_held(3 * GIB, 5, 1),)


def test_grant_counts_where_nothing_else_is_kept(allocated: Any) -> None:
    assert holdings_of(allocated({}, grant={0: (2 * GIB, 7, 1)})) == (_held(2 * GIB, 7, 1),)


def test_of_two_statements_the_larger_counts_each_for_itself(allocated: Any) -> None:
    claim = allocated({"consumedCapacity": CONSUMED}, grant={0: (2 * GIB, 7, 0)})
    assert holdings_of(claim) == (_held(3 * GIB, 7, 1),)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"consumedCapacity": {}},
        {"consumedCapacity": {"memory": "3Gi", "cores": "5"}},
        {"consumedCapacity": {"memory": "3Gi", "cores": "5", "slots": "x"}},
        {"consumedCapacity": {"memory": "-3Gi", "cores": "5", "slots": "1"}},
        {"consumedCapacity": {"memory": 1.5, "cores": "5", "slots": "1"}},
        {"consumedCapacity": "all"},
        {"consumedCapacity": [], "shareID": "x"},
    ],
)
def test_what_cannot_be_read_is_the_whole_gpu(allocated: Any, result: Any) -> None:
    assert holdings_of(allocated(result)) == (WHOLE,)


@pytest.mark.parametrize("results", ["x", [{"request": "gpu"}], None, [{"memoryBytes": -1}]])
def test_grant_that_cannot_be_read_is_the_whole_gpu(allocated: Any, opaque: Any, results: Any) -> None:
    claim = allocated({"consumedCapacity": CONSUMED})
    config = claim["status"]["allocation"]["devices"]["config"]
    config.append(opaque({"results": results}, kind="FractionGrant", source="FromClass"))
    assert holdings_of(claim) == (WHOLE,)


def test_grant_of_the_claim_itself_is_none(allocated: Any) -> None:
    assert holdings_of(allocated({}, grant={0: (1, 0, 1)}, source="FromClaim")) == (WHOLE,)
    forged = allocated({"consumedCapacity": CONSUMED}, grant={0: (1, 0, 1)}, source="FromClaim")
    assert holdings_of(forged) == (_held(3 * GIB, 5, 1),)


def test_grant_for_another_result_does_not_count(allocated: Any) -> None:
    claim = allocated({}, {}, grant={0: (GIB, 0, 1)})
    assert holdings_of(claim) == (_held(GIB, 0, 1), WHOLE)


def test_two_results_of_one_gpu_are_two_holdings(allocated: Any) -> None:
    claim = allocated({"consumedCapacity": CONSUMED}, {"consumedCapacity": CONSUMED})
    assert holdings_of(claim) == (_held(3 * GIB, 5, 1),) * 2


@pytest.mark.parametrize(
    "result", [{"adminAccess": True}, {"driver": "other.example.com"}, {"pool": ""}, {"device": None}, "junk", None]
)
def test_what_holds_nothing_of_ours(allocated: Any, result: Any) -> None:
    assert holdings_of(allocated(result, {"consumedCapacity": CONSUMED})) == (_held(3 * GIB, 5, 1),)


def test_ordinal_counts_all_results_of_the_claim(allocated: Any) -> None:
    claim = allocated({"driver": "other.example.com"}, {"adminAccess": True}, {}, grant={2: (GIB, 1, 1)})
    assert holdings_of(claim) == (_held(GIB, 1, 1),)


def test_claim_without_allocation_holds_nothing() -> None:
    assert holdings_of({}) == ()
    assert holdings_of({"status": {"allocation": {"devices": {"results": "x"}}}}) == ()


def _term(**match: Any) -> dict[str, Any]:
    return {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]} | match]}


@pytest.mark.parametrize(
    ("terms", "node"),
    [
        ([_term()], "n1"),
        ([_term(), _term()], None),
        ([_term(values=["n1", "n2"])], None),
        ([_term(operator="NotIn")], None),
        ([_term(key="metadata.uid")], None),
        ([{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}], None),
        ([], None),
        ("x", None),
    ],
)
def test_node_of_an_allocation(terms: Any, node: str | None) -> None:
    assert node_of({"status": {"allocation": {"nodeSelector": {"nodeSelectorTerms": terms}}}}) == node


def test_node_of_a_claim_without_allocation() -> None:
    assert node_of({}) is None
