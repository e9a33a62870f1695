"""Constraints, and the bound on the work."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fracgpu.controller.fit.engine import fit, ledger_of, place
from fracgpu.controller.fit.search import Steps
from fracgpu.controller.fit.views import Constraint, Misfit, Placement


def _on_nodes(gpu: Any, values: Any, name: str = "numaNode", memory: int = 80) -> list[Any]:
    letters = "abcdefgh"
    return [
        gpu(f"n1/{letter}", memory, attributes={} if value is None else {name: value})
        for letter, value in zip(letters, values, strict=False)
    ]


@pytest.mark.parametrize(
    ("kind", "values", "fits"),
    [
        ("match", (0, 0), True),
        ("match", (0, 1), False),
        ("match", (-1, -1), False),
        ("match", (None, None), False),
        ("match", (1, True), False),
        ("match", ("x", "x"), True),
        ("distinct", (0, 1), True),
        ("distinct", (0, 0), False),
        ("distinct", (0, -1), False),
        ("distinct", (0, None), False),
    ],
)
def test_constraints(gpu: Any, ask: Any, demand: Any, kind: Any, values: Any, fits: bool) -> None:
    constraint = Constraint(claim="c1", attribute="numaNode", kind=kind, unknown=(-1,))
    answer = fit(demand(ask(count=2), constraints=(constraint,)), _on_nodes(gpu, values), [])
    assert isinstance(answer, Placement) is fits


def test_affinity_is_found_where_the_preferred_gpu_has_no_partner(
    gpu: Any, held: Any, ask: Any, demand: Any, where: Any
) -> None:
    constraint = Constraint(claim="c1", attribute="numaNode")
    wanted = demand(ask(20, count=2), constraints=(constraint,))
    gpus = _on_nodes(gpu, (0, 0, 1, 1))
    # The emptiest GPU is b, but its neighbour is full.
    holdings = [held("n1/a", 70), held("n1/c", 30), held("n1/d", 40)]
    assert where(fit(wanted, gpus, holdings)) == ["n1/c", "n1/d"]


def test_affinity_goes_to_another_node(gpu: Any, ask: Any, demand: Any) -> None:
    gpus = [*_on_nodes(gpu, (0, 1)), gpu("n2/a", attributes={"numaNode": 1}), gpu("n2/b", attributes={"numaNode": 1})]
    answer = fit(demand(ask(count=2), constraints=(Constraint(claim="c1", attribute="numaNode"),)), gpus, [])
    assert isinstance(answer, Placement)
    assert answer.node == "n2"


def test_a_constraint_binds_all_requests_of_its_claim(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    gpus = _on_nodes(gpu, (0, 1, 1), memory=40)
    requests = (ask(40, name="x"), ask(30, name="y"))
    constraint = Constraint(claim="c1", attribute="numaNode")
    assert sorted(where(fit(demand(*requests, constraints=(constraint,)), gpus, []))) == ["n1/b", "n1/c"]


def test_constraint_of_another_claim_or_request_does_not_bind(gpu: Any, ask: Any, demand: Any) -> None:
    gpus = _on_nodes(gpu, (0, 1))
    for constraint in (
        Constraint(claim="other", attribute="numaNode"),
        Constraint(claim="c1", attribute="numaNode", requests=("other",)),
    ):
        assert isinstance(fit(demand(ask(count=2), constraints=(constraint,)), gpus, []), Placement)
    named = Constraint(claim="c1", attribute="numaNode", requests=("gpu",))
    assert isinstance(fit(demand(ask(count=2, name="gpu/large"), constraints=(named,)), gpus, []), Misfit)


def test_every_obeys_constraints(gpu: Any, ask: Any, demand: Any) -> None:
    constraint = Constraint(claim="c1", attribute="numaNode")
    wanted = demand(ask(every=True), constraints=(constraint,))
    assert isinstance(fit(wanted, _on_nodes(gpu, (0, 1)), []), Misfit)
    assert isinstance(fit(wanted, _on_nodes(gpu, (1, 1)), []), Placement)


def test_search_limit_is_said(gpu: Any, ask: Any, demand: Any, why: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steps, "per_node", 2)
    requests = [ask(10, name=name) for name in "abc"]
    assert why(fit(demand(*requests), [gpu("n1/a")], [])) == [
        "SearchLimitReached (1/1 nodes: no place found within the search limit; "
        "fewer requests and constraints are quicker to place)"
    ]


def test_a_hard_claim_does_not_stop_the_search_on_other_nodes(
    gpu: Any, ask: Any, demand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small node needs many tries to find that it has no place; the large one is found all the same."""
    monkeypatch.setattr(Steps, "per_node", 12)
    gpus = [gpu(f"n1/{index}", 20 + index) for index in range(4)] + [gpu("n2/a", 1000)]
    requests = [ask(15 + index, name=f"r{index}") for index in range(5)]
    found = fit(demand(*requests), gpus, [])
    assert isinstance(found, Placement)
    assert found.node == "n2"


def test_hard_claims_end_in_bounded_work(gpu: Any, ask: Any, demand: Any) -> None:
    """32 shares of all sizes on 16 GPUs of all sizes that miss fitting by little, on many nodes."""
    gpus = [gpu(f"n{node:02}/{index:02}", 37 + index) for node in range(20) for index in range(16)]
    requests = [ask(9 + index, name=f"r{index}") for index in range(32)]
    began = time.monotonic()
    assert place(demand(*requests), ledger_of(gpus)) is None
    assert time.monotonic() - began < 30


def test_like_gpus_are_tried_once(gpu: Any, ask: Any, demand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 equal GPUs with room for 2 shares each, and 21 shares: 10^20 ways to fail, few of them really different."""
    monkeypatch.setattr(Steps, "per_node", 300)
    gpus = [gpu(f"n1/{index:02}", 29) for index in range(10)]
    requests = [ask(10, name=f"r{index}") for index in range(21)]
    assert place(demand(*requests[:20]), ledger_of(gpus)) is not None
    answer = fit(demand(*requests), gpus, [])
    assert isinstance(answer, Misfit)
    assert "SearchLimitReached" not in answer.message


@pytest.mark.parametrize(
    "amounts", [[(10, 0)] * 11 + [(11, 0)], [(1, 34)] * 12, [(1, 0)] * 21], ids=["memory", "cores", "slots"]
)
def test_what_is_too_much_in_all_is_seen_at_once(
    gpu: Any, ask: Any, demand: Any, monkeypatch: pytest.MonkeyPatch, amounts: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(Steps, "per_node", 5)
    gpus = [gpu(f"n1/{index}", 30, slots=5) for index in range(4)]
    requests = [ask(memory, cores, name=f"r{index}") for index, (memory, cores) in enumerate(amounts)]
    answer = fit(demand(*requests), gpus, [])
    assert isinstance(answer, Misfit)
    assert "SearchLimitReached" not in answer.message
