"""Why requests that would each fit by themselves do not fit together: constraints, room, the quota or the bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.nodes import NodeState
from fracgpu.controller.fit.placing import Placing
from fracgpu.controller.fit.search import MAX_RESULTS, value_under
from fracgpu.controller.fit.views import Budget, Constraint, Demand, Placement
from fracgpu.controller.fit.wants import Want, exceeds, has_room, least_total
from fracgpu.driver.quantity import format_mib
from fracgpu.driver.reasons import Reason, ReasonCode

_CUT_OFF: Final = "no place found within the search limit; fewer requests and constraints are quicker to place"
_TOO_MANY: Final = f"a claim has at most {MAX_RESULTS} devices, and more than that are asked for"
Total = tuple[int, int, int]


def joint_reasons(
    demand: Demand, ledger: Ledger, nodes: Sequence[NodeState], without: Collection[str], budget: Budget | None
) -> list[Reason]:
    """Return why a demand fits on none of some nodes although each request would."""
    allowed = {node.name for node in nodes}

    def attempt(asked: Demand, limit: Budget | None = None) -> Placement | None:
        return Placing(asked, ledger, budget=limit).run(allowed.__contains__, without)

    placing = Placing(demand, ledger)
    found = placing.run(allowed.__contains__, without)
    if found is not None:
        return _in_spite_of(found, attempt(demand, budget), ledger, demand, budget)
    if placing.gave_up:
        return [_of_all(nodes, _CUT_OFF, ReasonCode.SEARCH_LIMIT_REACHED)]
    if demand.constraints and attempt(replace(demand, constraints=())) is not None:
        blamed = _blamed(demand, lambda asked: attempt(asked) is not None)
        return [_constraint_reason(item, demand, ledger, nodes) for item in blamed]
    return [_of_all(nodes, _TOO_MANY if placing.too_many else _no_room(demand, ledger, nodes))]


def _of_all(nodes: Sequence[NodeState], detail: str, code: ReasonCode = ReasonCode.NODE_INSUFFICIENT_DEVICE) -> Reason:
    return Reason(code=code, affected=len(nodes), total=len(nodes), unit="nodes", detail=detail)


def quota_reasons(choices: Sequence[Sequence[Want]], ledger: Ledger, budget: Budget) -> list[Reason]:
    """Return the quota as a reason if even the cheapest GPUs would take more than it has left."""
    asked = least_total(choices, ledger.examples())
    return [_quota(asked, budget)] if exceeds(asked, budget) else []


def _in_spite_of(
    found: Placement, affordable: Placement | None, ledger: Ledger, demand: Demand, budget: Budget | None
) -> list[Reason]:
    if affordable is not None:
        code = ReasonCode.NODE_INSUFFICIENT_DEVICE
        return [Reason(code=code, detail=f"there is room on node {affordable.node} by now; it will be tried again")]
    assert budget is not None  # noqa: S101  nothing else tells the two attempts apart
    if quota_reasons(Placing(demand, ledger).choices, ledger, budget):
        return []
    return [_quota(_sum(found), budget)]


def _sum(found: Placement) -> Total:
    amounts = [device.amounts for device in found.devices]
    return (
        sum(item.memory_bytes for item in amounts),
        sum(item.cores for item in amounts),
        sum(item.slots for item in amounts),
    )


def _quota(asked: Total, budget: Budget) -> Reason:
    parts: list[str] = []
    for name, want, left, form in (
        ("memory", asked[0], budget.memory_bytes, format_mib),
        ("cores", asked[1], budget.cores, str),
        ("slots", asked[2], budget.slots, str),
    ):
        if left is not None and 0 < want > left:
            parts.append(f"{name}: asked {form(want)}, left {form(max(0, left))} of the namespace's quota")
    return Reason(code=ReasonCode.RESOURCE_QUOTA_NOT_FIT, detail=", ".join(parts))


def _blamed(demand: Demand, fits: Callable[[Demand], bool]) -> Sequence[Constraint]:
    """Return the constraints without which alone it would fit; all of them when it takes several to be dropped."""
    alone = [
        item
        for item in demand.constraints
        if fits(replace(demand, constraints=tuple(other for other in demand.constraints if other is not item)))
    ]
    return alone or demand.constraints


def _constraint_reason(item: Constraint, demand: Demand, ledger: Ledger, nodes: Sequence[NodeState]) -> Reason:
    wants = [want for choice in Placing(demand, ledger).choices for want in choice if item.covers(want.request)]
    wanted = "the same" if item.kind == "match" else "a different"
    if len(wants) == 1 and not wants[0].every:
        want = wants[0]
        most = max(_agreeing(item, want, node) for node in nodes)
        detail = f"need {want.count} GPUs of one node with {wanted} {item.attribute}, at most {most} fit"
    else:
        names = ", ".join(dict.fromkeys(want.request.name for want in wants))
        detail = f"no node has room for requests {names} on GPUs with {wanted} {item.attribute}"
    return _of_all(nodes, detail, item.code)


def _agreeing(item: Constraint, want: Want, node: NodeState) -> int:
    """Return how many GPUs of a node could take the request and satisfy the constraint together."""
    usable = want.usable(node) or {}
    values = Counter(
        value
        for at, amounts in usable.items()
        if has_room(node.cards[at], amounts) and (value := value_under(item, node.cards[at].view)) is not None
    )
    return max(values.values(), default=0) if item.kind == "match" else len(values)


def _no_room(demand: Demand, ledger: Ledger, nodes: Sequence[NodeState]) -> str:
    choices = Placing(demand, ledger).choices
    shares = sum(want.count for want in (item[0] for item in choices))
    what = f"{shares} shares of {len(choices)} requests"
    detail = f"each fits alone, but no node has room for {what} together"
    need = least_total(choices, ledger.examples())[0]
    most = max(_free_memory(node) for node in nodes)
    return f"{detail}: need {format_mib(need)}, max free {format_mib(most)} on one node" if need > most else detail


def _free_memory(node: NodeState) -> int:
    return sum(max(0, card.memory) for card in node.cards)
