"""What the fit engine chooses: amounts, policies, and everything that a request can ask for."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.fit.engine import fit, ledger_of, place
from fracgpu.controller.fit.views import Budget, Misfit, Placement, Taint, Toleration

MIB = 1024**2
GIB = 1024**3
SICK = Taint(key="gpu.fracgpu.dev/lost")


def test_amounts_come_with_the_placement(gpu: Any, ask: Any, demand: Any) -> None:
    answer = fit(demand(ask("3000Mi", 30, class_name="k")), [gpu("n1/a")], [])
    assert isinstance(answer, Placement)
    device = answer.devices[0]
    assert (answer.node, device.claim, device.request, device.device) == ("n1", "c1", "gpu", "a")
    assert (device.class_name, device.admin) == ("k", False)
    assert (device.amounts.memory_bytes, device.amounts.cores, device.amounts.slots) == (3000 * MIB, 30, 1)


@pytest.mark.parametrize(("policy", "gpus"), [("Spread", ["n1/b", "n1/c"]), ("Binpack", ["n1/a", "n1/a"])])
def test_gpu_policy(gpu: Any, held: Any, ask: Any, demand: Any, where: Any, policy: str, gpus: list[str]) -> None:
    views = [gpu("n1/a"), gpu("n1/b"), gpu("n1/c")]
    holdings = [held("n1/a", 20)]
    wanted = demand(ask(gpu_policy=policy))
    assert where(fit(wanted, views, holdings)) == gpus[:1]
    assert where(fit(wanted, views, [*holdings, held(gpus[0], 10)])) == gpus[1:]


def test_gpus_with_equal_memory_go_by_cores_and_then_by_name(
    gpu: Any, held: Any, ask: Any, demand: Any, where: Any
) -> None:
    gpus = [gpu("n1/a"), gpu("n1/b"), gpu("n1/c")]
    holdings = [held("n1/a", 10, 50), held("n1/b", 10, 20), held("n1/c", 10, 20)]
    assert where(fit(demand(ask(gpu_policy="Spread")), gpus, holdings)) == ["n1/b"]
    assert where(fit(demand(ask(gpu_policy="Binpack")), gpus, holdings)) == ["n1/a"]


@pytest.mark.parametrize(("policy", "node"), [("Binpack", "n2"), ("Spread", "n1")])
def test_node_policy(gpu: Any, held: Any, ask: Any, demand: Any, policy: Any, node: str) -> None:
    gpus = [gpu("n1/a"), gpu("n2/a"), gpu("n3/a")]
    answer = fit(demand(ask(), node_policy=policy), gpus, [held("n2/a", 30), held("n3/a", 10)])
    assert isinstance(answer, Placement)
    assert answer.node == node


@pytest.mark.parametrize("policy", ["Binpack", "Spread"])
def test_equal_nodes_go_by_name(gpu: Any, held: Any, ask: Any, demand: Any, where: Any, policy: Any) -> None:
    # A third of the memory is used on each, which no binary fraction can say.
    gpus = [gpu("n3/a", 30), gpu("n2/a", 48), gpu("n1/a", 3)]
    holdings = [held("n3/a", 10), held("n2/a", 16), held("n1/a", 1)]
    assert where(fit(demand(ask(1), node_policy=policy), gpus, holdings)) == ["n1/a"]


def test_binpack_goes_on_where_the_fullest_has_no_room(gpu: Any, held: Any, ask: Any, demand: Any, where: Any) -> None:
    gpus = [gpu("n1/a"), gpu("n2/a")]
    assert where(fit(demand(ask(60)), gpus, [held("n1/a", 40)])) == ["n2/a"]


def test_nodes_can_be_limited(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    assert where(fit(demand(ask()), [gpu("n1/a"), gpu("n2/a")], [], nodes=["n2"])) == ["n2/a"]


def test_admits_is_asked_in_order_and_of_nodes_with_room_only(gpu: Any, held: Any, ask: Any, demand: Any) -> None:
    ledger = ledger_of([gpu("n1/a"), gpu("n2/a"), gpu("n3/a"), gpu("n4/a")], [held("n1/a", 79), held("n2/a", 20)])
    asked: list[str] = []

    def admits(node: str) -> bool:
        asked.append(node)
        return node == "n3"

    found = place(demand(ask()), ledger, admits=admits)
    assert (found.node if found else None, asked) == ("n3", ["n2", "n3"])


def test_count_takes_distinct_gpus(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    assert sorted(where(fit(demand(ask(count=2)), [gpu("n1/a"), gpu("n1/b")], []))) == ["n1/a", "n1/b"]
    assert isinstance(fit(demand(ask(count=2)), [gpu("n1/a"), gpu("n2/a")], []), Misfit)


def test_two_requests_may_share_a_gpu(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    wanted = demand(ask(40, name="a"), ask(40, name="b"))
    assert where(fit(wanted, [gpu("n1/a")], [])) == ["n1/a", "n1/a"]


def test_claims_of_one_pod_land_on_one_node(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    gpus = [gpu("n1/a", 48), gpu("n2/a", 80)]
    wanted = demand(ask(40, claim="c1"), ask(40, claim="c2"))
    assert where(fit(wanted, gpus, [])) == ["n2/a", "n2/a"]


def test_search_goes_back_where_the_first_choice_blocks_the_second(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    gpus = [gpu("n1/a", 80), gpu("n1/b", 40)]
    assert where(fit(demand(ask(40, name="small"), ask(80, name="large")), gpus, [])) == ["n1/b", "n1/a"]


def test_percent_and_whole_are_of_each_card(gpu: Any, ask: Any, demand: Any) -> None:
    half = demand(ask(None, config={"memory_percent": 50}))
    for memory, expected in ((80, 40), (24, 12)):
        answer = fit(half, [gpu("n1/a", memory)], [])
        assert isinstance(answer, Placement)
        assert answer.devices[0].amounts.memory_bytes == expected * GIB
    whole = fit(demand(ask(None, config={"memory": "Whole"})), [gpu("n1/a", 24)], [])
    assert isinstance(whole, Placement)
    assert whole.devices[0].amounts.memory_bytes == 24 * GIB


def test_percent_on_a_node_with_different_cards(gpu: Any, held: Any, ask: Any, demand: Any, where: Any) -> None:
    """Half of the small card fits where half of the large one does not."""
    gpus = [gpu("n1/a", 80), gpu("n1/b", 24)]
    half = demand(ask(None, config={"memory_percent": 50}))
    assert where(fit(half, gpus, [held("n1/a", 50)])) == ["n1/b"]


def test_one_share_never_exceeds_the_card_however_oversubscribed(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    big = gpu("n1/a", 80, memory_bytes=160 * GIB)
    assert len(where(fit(demand(ask(80, name="a"), ask(80, name="b")), [big], []))) == 2
    assert isinstance(fit(demand(ask(81)), [big], []), Misfit)


# Admin access


def test_admin_access_fits_a_full_gpu(gpu: Any, held: Any, ask: Any, demand: Any) -> None:
    # Over-full, as after a scale was lowered.
    full = held("n1/a", 90, cores=110, slots=11)
    assert isinstance(fit(demand(ask()), [gpu("n1/a")], [full]), Misfit)
    answer = fit(demand(ask(None, admin=True)), [gpu("n1/a")], [full])
    assert isinstance(answer, Placement)
    assert (answer.devices[0].admin, answer.devices[0].amounts.memory_bytes) == (True, 0)


def test_admin_access_takes_nothing_from_the_others(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    wanted = demand(ask(None, name="look", admin=True), ask(80, name="use"))
    assert where(fit(wanted, [gpu("n1/a")], [], budget=Budget(slots=1))) == ["n1/a", "n1/a"]


def test_taints_keep_admin_access_off_too(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    sick = gpu("n1/a", taints=(SICK,))
    assert isinstance(fit(demand(ask(None, admin=True)), [sick], []), Misfit)
    tolerant = ask(None, admin=True, tolerations=(Toleration(operator="Exists"),))
    assert where(fit(demand(tolerant), [sick], [])) == ["n1/a"]


# Taints


@pytest.mark.parametrize(
    ("effect", "toleration", "fits"),
    [
        ("NoSchedule", None, False),
        ("NoExecute", None, False),
        ("None", None, True),
        ("NoSchedule", Toleration(key=SICK.key, operator="Exists"), True),
        ("NoSchedule", Toleration(key=SICK.key, operator="Exists", effect="NoExecute"), False),
        ("NoSchedule", Toleration(key=SICK.key, value="other"), False),
        ("NoExecute", Toleration(operator="Exists"), True),
        ("NoExecute", Toleration(), False),
    ],
)
def test_taints(gpu: Any, ask: Any, demand: Any, effect: str, toleration: Any, fits: bool) -> None:
    sick = gpu("n1/a", taints=(Taint(key=SICK.key, effect=effect),))
    request = ask(tolerations=(toleration,) if toleration else ())
    assert isinstance(fit(demand(request), [sick], []), Placement) is fits


def test_every_taint_must_be_tolerated(gpu: Any, ask: Any, demand: Any) -> None:
    sick = gpu("n1/a", taints=(SICK, Taint(key="other")))
    request = ask(tolerations=(Toleration(key=SICK.key, operator="Exists"),))
    assert isinstance(fit(demand(request), [sick], []), Misfit)


def test_a_healthy_gpu_beside_a_tainted_one_is_used(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    assert where(fit(demand(ask()), [gpu("n1/a", taints=(SICK,)), gpu("n1/b")], [])) == ["n1/b"]


# Selectors


def test_selector_limits_the_gpus(gpu: Any, ask: Any, demand: Any, where: Any, having: Any) -> None:
    gpus = [gpu("n1/a", attributes={"t": 1}), gpu("n2/a", attributes={"t": 2})]
    assert where(fit(demand(ask(selector=having("t", 2))), gpus, [])) == ["n2/a"]


def test_a_selector_that_fails_on_a_node_leaves_the_others(
    gpu: Any, ask: Any, demand: Any, where: Any, having: Any
) -> None:
    gpus = [gpu("n1/a"), gpu("n1/b", attributes={"t": 1}), gpu("n2/a", attributes={"t": 1})]
    assert where(fit(demand(ask(selector=having("t", 1))), gpus, [])) == ["n2/a"]


# allocationMode All


def test_every_takes_all_selected_gpus_of_a_node(gpu: Any, ask: Any, demand: Any, where: Any, having: Any) -> None:
    gpus = [gpu("n1/a", attributes={"t": 1}), gpu("n1/b", attributes={"t": 2}), gpu("n1/c", attributes={"t": 1})]
    assert where(fit(demand(ask(every=True, selector=having("t", 1))), gpus, [])) == ["n1/a", "n1/c"]


@pytest.mark.parametrize("obstacle", ["taken", "tainted", "small", "missing"])
def test_every_wants_each_one(gpu: Any, held: Any, ask: Any, demand: Any, having: Any, obstacle: str) -> None:
    bad: dict[str, dict[str, Any]] = {
        "tainted": {"taints": (SICK,)},
        "small": {"physical_memory_bytes": GIB, "memory_bytes": GIB},
    }
    gpus = [gpu("n1/a", attributes={"t": 1}), gpu("n1/b", attributes={"t": 1}, **bad.get(obstacle, {}))]
    holdings = [held("n1/b", 75)] if obstacle == "taken" else []
    wanted = having("t", 3 if obstacle == "missing" else 1)
    assert isinstance(fit(demand(ask(every=True, selector=wanted)), gpus, holdings), Misfit)


def test_every_has_room_beside_a_request_that_goes_elsewhere(
    gpu: Any, ask: Any, demand: Any, where: Any, having: Any
) -> None:
    """The request before it must leave the selected GPU alone, or not take too much of it."""
    gpus = [gpu("n1/a", 80, attributes={"t": 1}), gpu("n1/b", 80, attributes={"t": 2})]
    wanted = demand(ask(60, name="one"), ask(40, name="all", every=True, selector=having("t", 1)))
    assert where(fit(wanted, gpus, [])) == ["n1/b", "n1/a"]


def test_a_claim_has_32_results_at_most(gpu: Any, ask: Any, demand: Any) -> None:
    gpus = [gpu(f"n1/{number:02}") for number in range(33)]
    assert isinstance(fit(demand(ask(every=True)), gpus, []), Misfit)
    assert isinstance(fit(demand(ask(every=True)), gpus[:32], []), Placement)
    two = (ask(every=True, name="a"), ask(name="b"))
    assert isinstance(fit(demand(*two), gpus[:32], []), Misfit)
    other = (two[0], ask(name="b", claim="c2"))
    assert isinstance(fit(demand(*other), gpus[:32], []), Placement)


# Prioritized lists


def test_the_first_alternative_that_fits_is_taken(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    large, small = ask(60, name="gpu/large"), ask(20, name="gpu/small")
    answer = fit(demand([large, small]), [gpu("n1/a", 24)], [])
    assert isinstance(answer, Placement)
    assert [device.request for device in answer.devices] == ["gpu/small"]


def test_a_node_with_the_preferred_alternative_comes_before_the_policy(
    gpu: Any, held: Any, ask: Any, demand: Any
) -> None:
    gpus = [gpu("n1/a"), gpu("n2/a"), gpu("n3/a")]
    wanted = demand([ask(60, name="gpu/large"), ask(20, name="gpu/small")])
    answer = fit(wanted, gpus, [held("n1/a", 50), held("n2/a", 10)])
    assert isinstance(answer, Placement)
    assert (answer.node, answer.devices[0].request) == ("n2", "gpu/large")


def test_an_earlier_request_is_preferred_to_a_later_one(gpu: Any, ask: Any, demand: Any) -> None:
    """One large share fits: the first request gets it, whatever that leaves for the second."""
    first = [ask(60, name="a/large"), ask(20, name="a/small")]
    second = [ask(60, name="b/large"), ask(20, name="b/small")]
    answer = fit(demand(first, second), [gpu("n1/a", 80)], [])
    assert isinstance(answer, Placement)
    assert [device.request for device in answer.devices] == ["a/large", "b/small"]


def test_an_alternative_is_given_up_for_a_later_request(gpu: Any, ask: Any, demand: Any) -> None:
    answer = fit(demand([ask(60, name="a/large"), ask(20, name="a/small")], ask(50, name="b")), [gpu("n1/a")], [])
    assert isinstance(answer, Placement)
    assert [device.request for device in answer.devices] == ["a/small", "b"]


def test_a_request_takes_the_gpu_that_leaves_the_next_one_its_preferred_alternative(
    gpu: Any, ask: Any, demand: Any, where: Any
) -> None:
    gpus = [gpu("n1/a", slots=1), gpu("n1/b", slots=2)]
    wanted = demand(ask(name="r0"), [ask(name="r1/two", count=2), ask(name="r1/one")])
    assert where(fit(wanted, gpus, [])) == ["n1/b", "n1/a", "n1/b"]


# Budget


@pytest.mark.parametrize(
    ("budget", "fits"),
    [
        (Budget(), True),
        (Budget(memory_bytes=20 * GIB, cores=60, slots=2), True),
        (Budget(memory_bytes=20 * GIB - 1), False),
        (Budget(cores=59), False),
        (Budget(slots=1), False),
        (Budget(memory_bytes=-1), False),
    ],
)
def test_budget(gpu: Any, ask: Any, demand: Any, budget: Budget, fits: bool) -> None:
    found = place(demand(ask(10, 30, count=2)), ledger_of([gpu("n1/a"), gpu("n1/b")]), budget=budget)
    assert (found is not None) is fits


def test_a_smaller_card_is_found_within_the_budget(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    half = demand(ask(None, config={"memory_percent": 50}))
    gpus = [gpu("n1/a", 80), gpu("n1/b", 24)]
    assert where(fit(half, gpus, [], budget=Budget(memory_bytes=12 * GIB))) == ["n1/b"]


def test_who_asks_for_no_cores_needs_no_budget_of_them(gpu: Any, ask: Any, demand: Any, where: Any) -> None:
    assert where(fit(demand(ask(10)), [gpu("n1/a")], [], budget=Budget(cores=-5))) == ["n1/a"]


# What a glance must not hide


def test_asking_for_no_cores_where_less_than_none_are_left(
    gpu: Any, held: Any, ask: Any, demand: Any, where: Any
) -> None:
    assert where(fit(demand(ask(10, 0)), [gpu("n1/a")], [held("n1/a", 10, 120)])) == ["n1/a"]


@pytest.mark.parametrize(("memory", "cores", "gpus"), [(60, 10, ["n1/a"]), (30, 50, ["n1/b"]), (5, 90, ["n1/c"])])
def test_much_memory_on_one_gpu_and_many_cores_on_another(
    gpu: Any, held: Any, ask: Any, demand: Any, where: Any, memory: int, cores: int, gpus: list[str]
) -> None:
    views = [gpu("n1/a"), gpu("n1/b"), gpu("n1/c")]
    holdings = [held("n1/a", 10, 90), held("n1/b", 50, 50), held("n1/c", 75, 10)]
    assert where(fit(demand(ask(memory, cores)), views, holdings)) == gpus
    assert isinstance(fit(demand(ask(memory + 15, cores + 15)), views, holdings), Misfit)


# Re-placement


def test_without_takes_holdings_as_free(gpu: Any, held: Any, ask: Any, demand: Any, where: Any) -> None:
    ledger = ledger_of([gpu("n1/a"), gpu("n2/a")])
    ledger.hold("x", [held("n1/a", 75)])
    ledger.hold("y", [held("n2/a", 70), held("n1/a", 1)])
    assert place(demand(ask(60)), ledger) is None
    assert place(demand(ask(79)), ledger, without=["x", "nobody"]) is not None
    assert where(place(demand(ask(60)), ledger, without=["x"])) == ["n1/a"]
    assert where(place(demand(ask(80)), ledger, without=["x", "y"])) == ["n1/a"]
    assert place(demand(ask(60)), ledger) is None, "the question changed the ledger"
    assert ledger.free(("n1", "a")).memory_bytes == 4 * GIB  # type: ignore[union-attr]


def test_without_counts_for_the_policy(gpu: Any, held: Any, ask: Any, demand: Any, where: Any) -> None:
    ledger = ledger_of([gpu("n1/a"), gpu("n2/a"), gpu("n3/a")], [held("n2/a", 20)])
    ledger.hold("x", [held("n1/a", 30)])
    assert where(place(demand(ask()), ledger)) == ["n1/a"]
    assert where(place(demand(ask()), ledger, without=["x"])) == ["n2/a"]
    assert where(place(demand(ask(), node_policy="Spread"), ledger, without=["x"])) == ["n1/a"]
