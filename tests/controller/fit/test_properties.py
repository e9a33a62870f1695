"""Laws of the fit engine, on random clusters small enough to compare with brute force."""

from __future__ import annotations

from fractions import Fraction
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracgpu.controller.fit.engine import explain, fit, ledger_of, place
from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.views import Budget, Demand, GpuView, Holding, Misfit, Placement
from fracgpu.driver.reasons import ReasonCode
from tests.controller.fit import clusters

CASE = clusters.cases()
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
THOROUGH = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _answer(case: clusters.Case) -> Placement | None:
    return place(case.demand, ledger_of(case.gpus, case.holdings), budget=case.budget)


def _pairs(case: clusters.Case, found: Placement) -> clusters.Assignment:
    by_name = {(request.claim, request.name): request for choice in case.demand.choices for request in choice}
    by_key = {gpu.key: gpu for gpu in case.gpus}
    return [(by_name[device.claim, device.request], by_key[device.key]) for device in found.devices]


def _used(case: clusters.Case, node: str) -> Fraction:
    own = [gpu for gpu in case.gpus if gpu.node == node]
    total = sum(gpu.memory_bytes for gpu in own)
    used = 0
    for gpu in own:
        held = [holding for holding in case.holdings if holding.key == gpu.key]
        parts = sum(holding.memory_bytes for holding in held if not holding.whole)
        used += max(parts, gpu.memory_bytes) if any(holding.whole for holding in held) else parts
    return Fraction(used, total)


@THOROUGH
@given(CASE)
def test_the_answer_is_one_of_brute_force_and_the_preferred_one(case: clusters.Case) -> None:
    """A placement is found exactly when there is one, exceeds nothing, and is where the policy wants it."""
    found = _answer(case)
    nodes = sorted({gpu.node for gpu in case.gpus})
    best = {node: min((ranks for ranks, _ in clusters.all_assignments(case, node)), default=None) for node in nodes}
    possible = {node: ranks for node, ranks in best.items() if ranks is not None}
    assert (found is not None) is bool(possible)
    if found is None:
        return
    sign = -1 if case.demand.node_policy == "Binpack" else 1
    assert found.node == min(possible, key=lambda node: (possible[node], sign * _used(case, node), node))
    pairs = _pairs(case, found)
    assert (possible[found.node], sorted(map(repr, pairs))) in [
        (ranks, sorted(map(repr, other))) for ranks, other in clusters.all_assignments(case, found.node)
    ]
    for (request, gpu), device in zip(pairs, found.devices, strict=True):
        assert device.amounts == request.amounts_on(gpu)
        assert device.admin is request.admin


@THOROUGH
@given(CASE)
def test_the_sum_of_all_holdings_stays_within_each_gpu(case: clusters.Case) -> None:
    """Whatever is placed, one after another: what was within a GPU stays within it, what was beyond grows no more."""
    holdings = list(case.holdings)
    ledger = ledger_of(case.gpus, holdings)
    for number in range(4):
        found = place(case.demand, ledger)
        if found is None:
            break
        given = [
            Holding(
                pool=device.pool,
                device=device.device,
                memory_bytes=device.amounts.memory_bytes,
                cores=device.amounts.cores,
                slots=device.amounts.slots,
            )
            for device in found.devices
        ]
        ledger.hold(f"owner-{number}", given)
        holdings += given
    for gpu in case.gpus:
        for part, total in (("memory_bytes", gpu.memory_bytes), ("cores", gpu.cores), ("slots", gpu.slots)):
            before = sum(getattr(item, part) for item in case.holdings if item.key == gpu.key)
            after = sum(getattr(item, part) for item in holdings if item.key == gpu.key)
            assert after <= max(total, before)


@QUICK
@given(CASE)
def test_no_placement_has_reasons_and_a_placement_has_none(case: clusters.Case) -> None:
    answer = fit(case.demand, case.gpus, case.holdings, budget=case.budget)
    assert (isinstance(answer, Placement)) is (_answer(case) is not None)
    if isinstance(answer, Misfit):
        assert answer.reasons
        assert len(set(answer.reasons)) == len(answer.reasons)
        assert all(reason.message for reason in answer.reasons)
        assert "by now" not in answer.message


@QUICK
@given(CASE, st.randoms(use_true_random=False))
def test_order_of_the_facts_does_not_matter(case: clusters.Case, random: Random) -> None:
    expected = fit(case.demand, case.gpus, case.holdings, budget=case.budget)
    gpus, holdings = list(case.gpus), list(case.holdings)
    random.shuffle(gpus)
    random.shuffle(holdings)
    assert fit(case.demand, gpus, holdings, budget=case.budget) == expected


@QUICK
@given(CASE, st.data())
def test_freeing_never_turns_a_fit_into_a_misfit(case: clusters.Case, data: st.DataObject) -> None:
    if not case.holdings or _answer(case) is None:
        return
    freed = data.draw(st.integers(0, len(case.holdings) - 1))
    fewer = case.holdings[:freed] + case.holdings[freed + 1 :]
    assert place(case.demand, ledger_of(case.gpus, fewer), budget=case.budget) is not None


@QUICK
@given(CASE)
def test_the_numbers_of_an_explanation_can_be_counted_again(case: clusters.Case) -> None:
    """For one request without alternatives: each GPU is counted under every reason that is true of it."""
    request = case.demand.choices[0][0]
    answer = fit(Demand(choices=((request,),)), case.gpus, case.holdings)
    if isinstance(answer, Placement):
        return
    counted = dict.fromkeys(ReasonCode, 0)
    for gpu in case.gpus:
        for code in _true_of(case, request, gpu):
            counted[code] += 1
    of_gpus = [reason for reason in answer.reasons if reason.unit == "GPUs" and reason.total is not None]
    assert all(reason.total == len(case.gpus) for reason in of_gpus)
    told = dict.fromkeys(ReasonCode, 0)
    for reason in of_gpus:
        told[reason.code] += reason.affected or 0
    assert told == counted


def _true_of(case: clusters.Case, request: Any, gpu: GpuView) -> list[ReasonCode]:
    if not request.selector.matches(gpu):
        return [ReasonCode.SELECTOR_MISMATCH]
    if not request.tolerations and any(taint.effect == "NoSchedule" for taint in gpu.taints):
        return [ReasonCode.CARD_NOT_HEALTH]
    if request.admin:
        return []
    amounts = clusters.memory_of(request, gpu), int(request.requests["cores"])
    if amounts[0] > gpu.physical_memory_bytes:
        return [ReasonCode.AMOUNTS_EXCEED_DEVICE]
    held = [holding for holding in case.holdings if holding.key == gpu.key]
    if any(holding.whole for holding in held):
        return [ReasonCode.EXCLUSIVE_DEVICE_ALLOCATE_CONFLICT]
    codes = []
    if amounts[0] > gpu.memory_bytes - sum(holding.memory_bytes for holding in held):
        codes.append(ReasonCode.CARD_INSUFFICIENT_MEMORY)
    if amounts[1] and amounts[1] > gpu.cores - sum(holding.cores for holding in held):
        codes.append(ReasonCode.CARD_INSUFFICIENT_CORE)
    if gpu.slots - sum(holding.slots for holding in held) < 1:
        codes.append(ReasonCode.CARD_TIME_SLICING_EXHAUSTED)
    return codes


@st.composite
def _news(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Random news: GPUs of a node, holdings of an owner, releases, questions in between."""
    found: list[tuple[str, Any]] = []
    for _ in range(draw(st.integers(1, 15))):
        kind = draw(st.sampled_from(["gpus", "hold", "hold", "release", "ask"]))
        if kind == "gpus":
            node = draw(st.sampled_from(["n0", "n1", "n2"]))
            views = [gpu for gpu in draw(clusters.gpus()) if gpu.node == node]
            found.append((kind, (node, views)))
        elif kind == "hold":
            found.append((kind, (draw(st.sampled_from("xyz")), draw(clusters.holdings(most=3)))))
        elif kind == "release":
            found.append((kind, draw(st.sampled_from("xyz"))))
        else:
            found.append((kind, draw(clusters.demands())))
    return found


@THOROUGH
@given(_news(), clusters.demands(), st.lists(st.sampled_from("xyz"), max_size=2))
def test_a_ledger_that_was_told_by_and_by_equals_one_told_at_once(
    news: list[tuple[str, Any]], demand: Demand, without: list[str]
) -> None:
    ledger = Ledger()
    gpus: dict[str, list[GpuView]] = {}
    owners: dict[str, list[Holding]] = {}
    for kind, what in news:
        if kind == "gpus":
            gpus[what[0]] = what[1]
            ledger.set_gpus(*what)
        elif kind == "hold":
            owners[what[0]] = what[1]
            ledger.hold(*what)
        elif kind == "release":
            owners.pop(what, None)
            ledger.release(what)
        else:
            place(what, ledger, without=without)
    rest = {owner: held for owner, held in owners.items() if owner not in without}
    fresh, less = _told(gpus, owners), _told(gpus, rest)
    for node in ("n0", "n1", "n2"):
        assert ledger.gpus_of(node) == fresh.gpus_of(node)
        for gpu in fresh.gpus_of(node):
            assert ledger.gpu(gpu.key) == gpu
            assert ledger.free(gpu.key) == fresh.free(gpu.key)
            assert ledger.holders(gpu.key) == fresh.holders(gpu.key)
    assert list(ledger.nodes()) == list(fresh.nodes())
    for policy in ("Binpack", "Spread"):
        states = [(state.name, state.load) for state in ledger.states(policy)]
        assert states == [(state.name, state.load) for state in fresh.states(policy)]
    assert place(demand, ledger) == place(demand, fresh)
    assert explain(demand, ledger) == explain(demand, fresh)
    assert place(demand, ledger, without=without) == place(demand, less)
    assert explain(demand, ledger, without=without) == explain(demand, less)


def _told(gpus: dict[str, list[GpuView]], owners: dict[str, list[Holding]]) -> Ledger:
    ledger = Ledger()
    for owner, held in owners.items():
        ledger.hold(owner, held)
    for node, views in gpus.items():
        ledger.set_gpus(node, views)
    return ledger


@QUICK
@given(CASE, st.integers(0, 40))
def test_a_larger_budget_never_hurts(case: clusters.Case, more: int) -> None:
    ledger = ledger_of(case.gpus, case.holdings)
    if place(case.demand, ledger, budget=Budget(memory_bytes=more * clusters.GIB)) is not None:
        assert place(case.demand, ledger, budget=Budget(memory_bytes=(more + 1) * clusters.GIB)) is not None
        assert place(case.demand, ledger) is not None
