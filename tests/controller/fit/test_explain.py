"""What the engine says when nothing fits, to the word: events and alerts are built on it."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.fit.engine import explain, fit, ledger_of
from fracgpu.controller.fit.views import Budget, Constraint, Taint
from fracgpu.controller.objects.selectors import selector_of
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.reasons import ReasonCode

GIB = 1024**3
ATTRIBUTES = f"device.attributes['{DRIVER_NAME}']"


def test_reasons_carry_numbers(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    gpus = [gpu("n1/a"), gpu("n1/b"), gpu("n2/a")]
    holdings = [held("n1/a", 50), held("n1/b", 70, 80), held("n2/a", 10, 90)]
    assert why(fit(demand(ask("45000Mi", 30)), gpus, holdings)) == [
        "CardInsufficientMemory (2/3 GPUs: need 45000Mi, max free 30720Mi)",
        "CardInsufficientCore (2/3 GPUs: need 30 cores, max free 20)",
    ]


def test_need_and_free_of_a_percentage_are_of_one_card(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    """Half of 80 and half of 24: the card that misses least is told, not the least need and the most free memory."""
    half = demand(ask(None, config={"memory_percent": 50}))
    holdings = [held("n1/a", 50), held("n1/b", 20)]
    assert why(fit(half, [gpu("n1/a", 80), gpu("n1/b", 24)], holdings)) == [
        "CardInsufficientMemory (2/2 GPUs: need 12288Mi, max free 4096Mi)"
    ]


def test_holdings_beyond_the_card_are_no_gift(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    over = [held("n1/a", 60), held("n1/a", 60), held("n9/z", 1)]
    assert why(fit(demand(ask(1)), [gpu("n1/a")], over)) == [
        "CardInsufficientMemory (1/1 GPUs: need 1024Mi, max free 0Mi)"
    ]


@pytest.mark.parametrize(
    ("changes", "request_changes", "message"),
    [
        ({"slots": 0}, {}, "CardTimeSlicingExhausted (1/1 GPUs: no free slot)"),
        (
            {"taints": (Taint(key="b"), Taint(key="a", effect="NoExecute"), Taint(key="c", effect="None"))},
            {},
            "CardNotHealth (1/1 GPUs: untolerated taint a:NoExecute, b:NoSchedule)",
        ),
        ({}, {"memory": 0}, "AmountsZero (1/1 GPUs: memory is 0 without admin access)"),
        ({}, {"memory": 81}, "AmountsExceedDevice (1/1 GPUs: memory 81Gi is more than the GPU's 80Gi)"),
        (
            {},
            {"memory": None, "keeps_capacity": False},
            "AmountsDropped (1/1 GPUs: the API server drops capacity.requests and no memory is configured)",
        ),
    ],
    ids=["slots", "taint", "zero", "large", "dropped"],
)
def test_other_reasons(
    gpu: Any, ask: Any, demand: Any, why: Any, changes: Any, request_changes: Any, message: str
) -> None:
    assert why(fit(demand(ask(**request_changes)), [gpu("n1/a", **changes)], [])) == [message]


def test_a_gpu_that_is_held_whole(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    assert why(fit(demand(ask()), [gpu("n1/a")], [held("n1/a", 0, whole=True)])) == [
        "ExclusiveDeviceAllocateConflict (1/1 GPUs: held whole by another allocation)"
    ]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (f"{ATTRIBUTES}.uuid == 'x'", "CardUuidMismatch (1/2 GPUs: not selected by {})"),
        (f"{ATTRIBUTES}.productName.startsWith('L')", "CardTypeMismatch (1/2 GPUs: not selected by {})"),
        (f"{ATTRIBUTES}.numaNode == 1", "SelectorMismatch (1/2 GPUs: not selected by {})"),
    ],
)
def test_selectors_that_do_not_hold(gpu: Any, ask: Any, demand: Any, why: Any, expression: str, message: str) -> None:
    attributes = {"uuid": "y", "productName": "T4", "numaNode": 0}
    full = {"uuid": "x", "productName": "L4", "numaNode": 1}
    gpus = [gpu("n1/a", attributes=attributes), gpu("n1/b", 1, attributes=full)]
    selector = selector_of(["device.driver != ''", expression], "claim c")
    assert why(fit(demand(ask(selector=selector)), gpus, [])) == [
        "AmountsExceedDevice (1/2 GPUs: memory 10Gi is more than the GPU's 1Gi)",
        message.format(expression),
    ]


def test_a_selector_that_fails(gpu: Any, ask: Any, demand: Any, why: Any) -> None:
    selector = selector_of([f"{ATTRIBUTES}.tier == 'gold'"], "claim c")
    (message,) = why(fit(demand(ask(selector=selector)), [gpu("n1/a"), gpu("n1/b")], []))
    assert message.startswith("SelectorFailed (2/2 GPUs: CEL expression")
    assert ".tier == 'gold'" in message
    assert '"tier"' in message


def test_a_plain_selector_has_no_words(gpu: Any, ask: Any, demand: Any, why: Any, having: Any) -> None:
    gpus = [gpu("n1/a", attributes={"t": 1})]
    assert why(fit(demand(ask(selector=having("t", 2))), gpus, [])) == ["SelectorMismatch (1/1 GPUs: not selected)"]


# Counts and All


def test_count(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    gpus = [gpu("n1/a"), gpu("n1/b"), gpu("n2/a")]
    assert why(fit(demand(ask(count=3)), gpus, [])) == [
        "NodeInsufficientDevice (2/2 nodes: need 3 GPUs on one node, at most 2 fit)"
    ]
    assert why(fit(demand(ask(60, count=2)), gpus, [held("n1/b", 30)])) == [
        "NodeInsufficientDevice (2/2 nodes: need 2 GPUs on one node, at most 1 fit)",
        "CardInsufficientMemory (1/3 GPUs: need 61440Mi, max free 51200Mi)",
    ]


def test_every(gpu: Any, held: Any, ask: Any, demand: Any, why: Any, having: Any) -> None:
    gpus = [gpu("n1/a"), gpu("n1/b"), gpu("n2/a"), gpu("n2/b"), gpu("n2/c")]
    holdings = [held("n1/a", 79), held("n1/b", 79), held("n2/c", 75)]
    assert why(fit(demand(ask(every=True)), gpus, holdings)) == [
        "NodeInsufficientDevice (2/2 nodes: need every selected GPU of a node, at best 2 of 3 fit)",
        "CardInsufficientMemory (3/5 GPUs: need 10240Mi, max free 5120Mi)",
    ]
    none = [gpu("n1/a", attributes={"t": 1})]
    assert why(fit(demand(ask(every=True, selector=having("t", 2))), none, [])) == [
        "NodeInsufficientDevice (1/1 nodes: need every selected GPU of a node, none is selected)",
        "SelectorMismatch (1/1 GPUs: not selected)",
    ]


def test_every_tells_of_the_node_that_misses_least(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    gpus = [gpu(f"n1/{name}") for name in "abcd"] + [gpu("n2/a"), gpu("n2/b")]
    gpus += [gpu(f"n3/{name}", taints=(Taint(key="k"),) if name != "d" else ()) for name in "abcd"]
    holdings = [held("n1/a", 79), held("n1/b", 79), held("n2/a", 79)]
    assert "at best 1 of 2 fit" in why(fit(demand(ask(every=True)), gpus, holdings))[0]


@pytest.mark.parametrize("policy", ["Binpack", "Spread"])
def test_the_card_that_is_told_does_not_depend_on_the_order_of_nodes(
    gpu: Any, held: Any, ask: Any, demand: Any, why: Any, policy: Any
) -> None:
    """Both miss by 10Gi: the one that needs less is told."""
    half = demand(ask(None, 50, config={"memory_percent": 50}), node_policy=policy)
    holdings = [held("n1/a", 50, 60), held("n2/a", 30, 70)]
    assert why(fit(half, [gpu("n1/a", 80), gpu("n2/a", 40)], holdings)) == [
        "CardInsufficientMemory (2/2 GPUs: need 20480Mi, max free 10240Mi)",
        "CardInsufficientCore (2/2 GPUs: need 50 cores, max free 40)",
    ]


def test_too_many_results(gpu: Any, ask: Any, demand: Any, why: Any) -> None:
    gpus = [gpu(f"n1/{number:02}") for number in range(33)]
    assert why(fit(demand(ask(every=True)), gpus, [])) == [
        "NodeInsufficientDevice (1/1 nodes: a claim has at most 32 devices, and more than that are asked for)"
    ]
    small = demand(*[ask(1, name=f"r{number}") for number in range(33)])
    assert "at most 32 devices" in why(fit(small, gpus, []))[0]


# Several requests


def test_requests_are_named_where_only_some_of_them_fail(gpu: Any, ask: Any, demand: Any, why: Any) -> None:
    wanted = demand(ask(10, name="a"), ask(60, name="b"), ask(60, name="c"), ask(70, name="d"))
    assert why(fit(wanted, [gpu("n1/a", 80, memory_bytes=50 * GIB)], [])) == [
        "CardInsufficientMemory (1/1 GPUs: requests b, c: need 61440Mi, max free 51200Mi)",
        "CardInsufficientMemory (1/1 GPUs: request d: need 71680Mi, max free 51200Mi)",
    ]


def test_claims_are_named_where_there_are_several(gpu: Any, ask: Any, demand: Any, why: Any) -> None:
    wanted = demand(ask(10, claim="1", claim_name="ns/x"), ask(60, claim="2", claim_name="ns/y"))
    assert why(fit(wanted, [gpu("n1/a", 80, memory_bytes=50 * GIB)], [])) == [
        "CardInsufficientMemory (1/1 GPUs: request ns/y gpu: need 61440Mi, max free 51200Mi)"
    ]


def test_all_alternatives_are_explained(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    wanted = demand([ask(60, name="gpu/large"), ask(40, name="gpu/small")])
    assert why(fit(wanted, [gpu("n1/a")], [held("n1/a", 50)])) == [
        "CardInsufficientMemory (1/1 GPUs: request gpu/large: need 61440Mi, max free 30720Mi)",
        "CardInsufficientMemory (1/1 GPUs: request gpu/small: need 40960Mi, max free 30720Mi)",
    ]


def test_a_reason_that_all_requests_share_is_told_once(gpu: Any, ask: Any, demand: Any, why: Any) -> None:
    wanted = demand(*[ask(name=f"r{number}") for number in range(5)])
    assert why(fit(wanted, [gpu("n1/a", slots=0)], [])) == ["CardTimeSlicingExhausted (1/1 GPUs: no free slot)"]


def test_requests_that_fit_alone_but_not_together(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    requests = [ask(50, name="a"), ask(50, name="b")]
    assert why(fit(demand(*requests), [gpu("n1/a"), gpu("n2/a")], [])) == [
        "NodeInsufficientDevice (2/2 nodes: each fits alone, but no node has room for 2 shares of 2 requests together: "
        "need 102400Mi, max free 81920Mi on one node)"
    ]
    # Enough memory on the node, but not in two pieces of that size.
    gpus = [gpu("n1/a"), gpu("n1/b")]
    assert why(fit(demand(*requests), gpus, [held("n1/b", 50)])) == [
        "NodeInsufficientDevice (1/1 nodes: each fits alone, but no node has room for 2 shares of 2 requests together)"
    ]


# Constraints


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("match", "NumaNotFit (1/1 nodes: need 3 GPUs of one node with the same numaNode, at most 2 fit)"),
        ("distinct", "NumaNotFit (1/1 nodes: need 3 GPUs of one node with a different numaNode, at most 2 fit)"),
    ],
)
def test_constraints(gpu: Any, ask: Any, demand: Any, why: Any, kind: Any, message: str) -> None:
    gpus = [
        gpu(f"n1/{name}", attributes={"numaNode": value}) for name, value in zip("abcd", (0, 0, 1, -1), strict=True)
    ]
    blamed = Constraint(claim="c1", attribute="numaNode", kind=kind, unknown=(-1,), code=ReasonCode.NUMA_NOT_FIT)
    innocent = Constraint(claim="c1", attribute="numaNode", requests=("other",))
    assert why(fit(demand(ask(count=3), constraints=(innocent, blamed)), gpus, [])) == [message]


def test_a_constraint_on_several_requests(gpu: Any, ask: Any, demand: Any, why: Any) -> None:
    gpus = [gpu("n1/a", 40, attributes={"numaNode": 0}), gpu("n1/b", 40, attributes={"numaNode": 1})]
    wanted = demand(ask(30, name="a"), ask(30, name="b"), constraints=(Constraint(claim="c1", attribute="numaNode"),))
    assert why(fit(wanted, gpus, [])) == [
        "ConstraintNotMet (1/1 nodes: no node has room for requests a, b on GPUs with the same numaNode)"
    ]


# Nodes and quota


def test_nodes_that_the_pod_cannot_run_on(gpu: Any, ask: Any, demand: Any) -> None:
    ledger = ledger_of([gpu(f"n{number}/a", 80 if number < 4 else 1) for number in range(1, 6)])
    taint, cpu = "node(s) had untolerated taint(s)", "insufficient cpu"
    rejections = {"n1": taint, "n2": cpu, "n3": taint, "other": cpu}
    misfit = explain(demand(ask()), ledger, rejections=rejections)
    assert misfit.message == (
        "AmountsExceedDevice (2/2 GPUs: memory 10Gi is more than the GPU's 1Gi); "
        "NodeMismatch (3/5 nodes: 2 node(s) had untolerated taint(s), 1 insufficient cpu)"
    )
    everywhere = explain(demand(ask()), ledger, admits=lambda _: False)
    assert everywhere.message == "NodeMismatch (5/5 nodes: 5 cannot run the pod)"


def test_no_gpus(gpu: Any, ask: Any, demand: Any, why: Any) -> None:
    message = "NodeInsufficientDevice (no GPU is published on a node that the pod can run on)"
    assert why(fit(demand(ask()), [], [])) == [message]
    assert why(fit(demand(ask()), [gpu("n1/a")], [], nodes=[])) == [message]


def test_quota(gpu: Any, ask: Any, demand: Any, why: Any) -> None:
    budget = Budget(memory_bytes=4 * GIB, cores=-5, slots=3)
    assert why(fit(demand(ask(8, 30)), [gpu("n1/a")], [], budget=budget)) == [
        "ResourceQuotaNotFit (memory: asked 8192Mi, left 4096Mi of the namespace's quota, "
        "cores: asked 30, left 0 of the namespace's quota)"
    ]


def test_quota_that_only_the_cards_with_room_exceed(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    """Half of the small card would be within the quota, but it is full."""
    half = demand(ask(None, config={"memory_percent": 50}))
    gpus, budget = [gpu("n1/a", 80), gpu("n1/b", 24)], Budget(memory_bytes=12 * GIB)
    assert why(fit(half, gpus, [held("n1/b", 20)], budget=budget)) == [
        "ResourceQuotaNotFit (memory: asked 40960Mi, left 12288Mi of the namespace's quota)"
    ]


def test_quota_that_every_card_exceeds_is_told_once(gpu: Any, ask: Any, demand: Any, why: Any) -> None:
    half = demand(ask(None, config={"memory_percent": 50}))
    gpus, budget = [gpu("n1/a", 80), gpu("n1/b", 24)], Budget(memory_bytes=GIB)
    assert why(fit(half, gpus, [], budget=budget)) == [
        "ResourceQuotaNotFit (memory: asked 12288Mi, left 1024Mi of the namespace's quota)"
    ]


def test_quota_and_shortage_are_both_told(gpu: Any, held: Any, ask: Any, demand: Any, why: Any) -> None:
    assert why(fit(demand(ask(8)), [gpu("n1/a")], [held("n1/a", 79)], budget=Budget(slots=0))) == [
        "CardInsufficientMemory (1/1 GPUs: need 8192Mi, max free 1024Mi)",
        "ResourceQuotaNotFit (slots: asked 1, left 0 of the namespace's quota)",
    ]


def test_holdings_without_which_it_is_explained(gpu: Any, held: Any, ask: Any, demand: Any) -> None:
    ledger = ledger_of([gpu("n1/a")])
    ledger.hold("x", [held("n1/a", 60)])
    assert "max free 20480Mi" in explain(demand(ask(80)), ledger).message
    ledger.hold("y", [held("n1/a", 10)])
    assert "max free 71680Mi" in explain(demand(ask(80)), ledger, without=["x"]).message


def test_what_fits_by_now_is_said_so(gpu: Any, ask: Any, demand: Any) -> None:
    misfit = explain(demand(ask()), ledger_of([gpu("n1/a")]))
    assert misfit.message == "NodeInsufficientDevice (there is room on node n1 by now; it will be tried again)"
