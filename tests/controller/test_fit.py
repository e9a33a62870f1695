"""What the fit engine chooses and what it says when there is nothing to choose."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.fit.engine import fit
from fracgpu.controller.fit.views import Constraint, Misfit, Placement

MIB = 1024**2


def _where(answer: Placement | Misfit) -> list[str]:
    assert isinstance(answer, Placement), answer
    return [f"{device.pool}/{device.device}" for device in answer.devices]


def _why(answer: Placement | Misfit) -> list[str]:
    assert isinstance(answer, Misfit), answer
    return [reason.message for reason in answer.reasons]


def test_amounts_come_with_the_placement(gpu: Any, ask: Any) -> None:
    answer = fit([ask("3000Mi", 30)], [gpu("n1/a")], [])
    assert isinstance(answer, Placement)
    device = answer.devices[0]
    assert (answer.node, device.claim, device.request, device.device) == ("n1", "c1", "gpu", "a")
    assert (device.amounts.memory_bytes, device.amounts.cores, device.amounts.slots) == (3000 * MIB, 30, 1)


@pytest.mark.parametrize(
    ("policy", "first", "second"),
    [("Spread", "n1/b", "n1/c"), ("Binpack", "n1/a", "n1/a")],
)
def test_gpu_policy(gpu: Any, held: Any, ask: Any, policy: str, first: str, second: str) -> None:
    gpus = [gpu("n1/a"), gpu("n1/b"), gpu("n1/c")]
    holdings = [held("n1/a", 20)]
    assert _where(fit([ask(gpu_policy=policy)], gpus, holdings)) == [first]
    assert _where(fit([ask(gpu_policy=policy)], gpus, [*holdings, held(first, 10)])) == [second]


@pytest.mark.parametrize(("policy", "node"), [("Binpack", "n2"), ("Spread", "n1")])
def test_node_policy(gpu: Any, held: Any, ask: Any, policy: Any, node: str) -> None:
    gpus = [gpu("n1/a"), gpu("n2/a"), gpu("n3/a")]
    answer = fit([ask()], gpus, [held("n2/a", 30), held("n3/a", 10)], node_policy=policy)
    assert isinstance(answer, Placement)
    assert answer.node == node


def test_binpack_goes_on_where_the_fullest_has_no_room(gpu: Any, held: Any, ask: Any) -> None:
    gpus = [gpu("n1/a"), gpu("n2/a")]
    assert _where(fit([ask(60)], gpus, [held("n1/a", 40)])) == ["n2/a"]


def test_nodes_can_be_limited(gpu: Any, ask: Any) -> None:
    gpus = [gpu("n1/a"), gpu("n2/a")]
    assert _where(fit([ask()], gpus, [], nodes=["n2"])) == ["n2/a"]
    assert _why(fit([ask()], gpus, [], nodes=[])) == [
        "NodeInsufficientDevice (no GPU is published on a node that the pod can run on)"
    ]


def test_count_takes_distinct_gpus(gpu: Any, ask: Any) -> None:
    assert sorted(_where(fit([ask(count=2)], [gpu("n1/a"), gpu("n1/b")], []))) == ["n1/a", "n1/b"]
    assert _why(fit([ask(count=2)], [gpu("n1/a"), gpu("n2/a")], [])) == [
        "NodeInsufficientDevice (2/2 nodes: need 2 GPUs on one node, at most 1 fit)"
    ]


def test_two_requests_may_share_a_gpu(gpu: Any, ask: Any) -> None:
    assert _where(fit([ask(40, name="a"), ask(40, name="b")], [gpu("n1/a")], [])) == ["n1/a", "n1/a"]


def test_search_goes_back_where_the_first_choice_blocks_the_second(gpu: Any, ask: Any) -> None:
    gpus = [gpu("n1/a", 80), gpu("n1/b", 40)]
    requests = [ask(40, name="small"), ask(80, name="large")]
    assert _where(fit(requests, gpus, [])) == ["n1/b", "n1/a"]


def test_percent_and_whole_are_of_each_card(gpu: Any, ask: Any) -> None:
    half = ask(None, config={"memory_percent": 50})
    for memory, expected in ((80, 40), (24, 12)):
        answer = fit([half], [gpu("n1/a", memory)], [])
        assert isinstance(answer, Placement)
        assert answer.devices[0].amounts.memory_bytes == expected * 1024 * MIB
    whole = fit([ask(None, config={"memory": "Whole"})], [gpu("n1/a", 24)], [])
    assert isinstance(whole, Placement)
    assert whole.devices[0].amounts.memory_bytes == 24 * 1024 * MIB


def test_one_share_never_exceeds_the_card_however_oversubscribed(gpu: Any, ask: Any) -> None:
    big = gpu("n1/a", 80, memory_bytes=160 * 1024 * MIB)
    assert len(_where(fit([ask(80, name="a"), ask(80, name="b")], [big], []))) == 2
    assert "AmountsExceedDevice (1/1 GPUs" in _why(fit([ask(81)], [big], []))[0]


def test_admin_access_fits_a_full_gpu(gpu: Any, held: Any, ask: Any) -> None:
    full = held("n1/a", 80, cores=100, slots=10)
    assert isinstance(fit([ask()], [gpu("n1/a")], [full]), Misfit)
    answer = fit([ask(None, admin=True)], [gpu("n1/a")], [full])
    assert isinstance(answer, Placement)
    assert (answer.devices[0].admin, answer.devices[0].amounts.memory_bytes) == (True, 0)


def test_holdings_beyond_the_card_are_no_gift(gpu: Any, held: Any, ask: Any) -> None:
    over = [held("n1/a", 60), held("n1/a", 60), held("n9/z", 1)]
    assert _why(fit([ask(1)], [gpu("n1/a")], over)) == ["CardInsufficientMemory (1/1 GPUs: need 1024Mi, max free 0Mi)"]


def test_reasons_carry_numbers(gpu: Any, held: Any, ask: Any) -> None:
    gpus = [gpu("n1/a"), gpu("n1/b"), gpu("n2/a")]
    holdings = [held("n1/a", 50), held("n1/b", 70, 80), held("n2/a", 10, 90)]
    assert _why(fit([ask("45000Mi", 30)], gpus, holdings)) == [
        "CardInsufficientMemory (2/3 GPUs: need 45000Mi, max free 30720Mi)",
        "CardInsufficientCore (2/3 GPUs: need 30 cores, max free 20)",
    ]


@pytest.mark.parametrize(
    ("changes", "request_changes", "message"),
    [
        ({"slots": 0}, {}, "CardTimeSlicingExhausted (1/1 GPUs: no free slot)"),
        ({"healthy": False}, {}, "CardNotHealth (1/1 GPUs: tainted)"),
        ({}, {"matches": lambda _: False}, "CardTypeMismatch (1/1 GPUs: not selected by the class)"),
        (
            {},
            {"memory": 0},
            "AmountsZero (1/1 GPUs: memory is 0 without admin access)",
        ),
        (
            {},
            {"memory": None, "keeps_capacity": False},
            "AmountsDropped (1/1 GPUs: the API server drops capacity.requests and no memory is configured)",
        ),
    ],
    ids=["slots", "health", "type", "zero", "dropped"],
)
def test_other_reasons(gpu: Any, ask: Any, changes: Any, request_changes: Any, message: str) -> None:
    assert _why(fit([ask(**request_changes)], [gpu("n1/a", **changes)], [])) == [message]


def test_requests_that_fit_alone_but_not_together(gpu: Any, ask: Any) -> None:
    requests = [ask(50, name="a"), ask(50, name="b")]
    assert _why(fit(requests, [gpu("n1/a"), gpu("n2/a")], [])) == [
        "NodeInsufficientDevice (2/2 nodes: each fits alone, but no node has room for 2 shares of 2 requests together)"
    ]


@pytest.mark.parametrize(
    ("kind", "values", "fits"),
    [
        ("match", (0, 0), True),
        ("match", (0, 1), False),
        ("match", (-1, -1), False),
        ("distinct", (0, 1), True),
        ("distinct", (0, 0), False),
    ],
)
def test_constraints(gpu: Any, ask: Any, kind: Any, values: tuple[int, int], fits: bool) -> None:
    gpus = [gpu(f"n1/{name}", attributes={"numaNode": value}) for name, value in zip("ab", values, strict=True)]
    constraint = Constraint(claim="c1", attribute="numaNode", kind=kind, unknown=(-1,))
    answer = fit([ask(count=2)], gpus, [], constraints=[constraint])
    assert isinstance(answer, Placement) is fits
    if not fits:
        assert _why(answer)[0].startswith("ConstraintNotMet (1/1 nodes")
        assert f"{kind} numaNode" in _why(answer)[0]


def test_constraint_of_another_claim_or_request_does_not_bind(gpu: Any, ask: Any) -> None:
    gpus = [gpu("n1/a", attributes={"numaNode": 0}), gpu("n1/b", attributes={"numaNode": 1})]
    for constraint in (
        Constraint(claim="other", attribute="numaNode"),
        Constraint(claim="c1", attribute="numaNode", requests=("other",)),
    ):
        assert isinstance(fit([ask(count=2)], gpus, [], constraints=[constraint]), Placement)
    named = Constraint(claim="c1", attribute="numaNode", requests=("gpu",))
    assert isinstance(fit([ask(count=2, name="gpu/large")], gpus, [], constraints=[named]), Misfit)


def test_search_limit_is_said(gpu: Any, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fracgpu.controller.fit.search._MAX_STEPS", 2)
    requests = [ask(10, name=name) for name in "abc"]
    assert _why(fit(requests, [gpu("n1/a")], [])) == [
        "NodeInsufficientDevice (1/1 nodes: no place for 3 shares of 3 requests found within the search limit)"
    ]


def test_hard_claim_ends_in_bounded_work(gpu: Any, ask: Any) -> None:
    """32 shares of all sizes that miss fitting by little: the search ends, one way or the other."""
    gpus = [gpu(f"n1/{index:02}", 37 + index) for index in range(16)]
    requests = [ask(9 + index, name=f"r{index}") for index in range(32)]
    assert isinstance(fit(requests, gpus, []), Placement | Misfit)
