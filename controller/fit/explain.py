"""Why nothing fits: stable reasons with numbers, in a stable order.

Each request is held against every GPU first; only when each would fit by itself, the reason is looked for in what they
ask together. The pod's nodes and the namespace's quota come last: they are somebody else's to change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from fracgpu.controller.fit.joint import joint_reasons, quota_reasons
from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.nodes import NodeState
from fracgpu.controller.fit.placing import Placing
from fracgpu.controller.fit.survey import Survey
from fracgpu.controller.fit.views import Budget, Demand, Misfit
from fracgpu.controller.fit.wants import Want
from fracgpu.driver.reasons import Reason, ReasonCode

_NO_GPUS: Final = "no GPU is published on a node that the pod can run on"
_NOT_ADMITTED: Final = "cannot run the pod"
_MOST_NAMES: Final = 3


def explain(
    demand: Demand,
    ledger: Ledger,
    *,
    admits: Callable[[str], bool] | None = None,
    rejections: Mapping[str, str] | None = None,
    without: Collection[str] = (),
    budget: Budget | None = None,
) -> Misfit:
    """Return the reasons for which a demand fits on no node; at least one, without repetition.

    `rejections` has, for nodes that the pod cannot run on, why, in words that follow a number (`node(s) had untolerated
    taint(s)`); nodes that `admits` refuses are out as well. GPUs are counted on the other nodes only. `without` and
    `budget` are as for place.
    """
    refused = rejections or {}
    nodes = list(ledger.states(demand.node_policy, without))
    out = {
        node.name: refused.get(node.name, _NOT_ADMITTED)
        for node in nodes
        if node.name in refused or (admits is not None and not admits(node.name))
    }
    allowed = [node for node in nodes if node.name not in out]
    reasons: list[Reason] = []
    if not nodes:
        reasons.append(Reason(code=ReasonCode.NODE_INSUFFICIENT_DEVICE, detail=_NO_GPUS))
    if allowed:
        reasons += _of_requests(demand, ledger, allowed)
        reasons = reasons or joint_reasons(demand, ledger, allowed, without, budget)
    if budget is not None:
        reasons += quota_reasons(Placing(demand, ledger).choices, ledger, budget)
    if out:
        reasons.append(_of_nodes(out, len(nodes)))
    return Misfit(tuple(dict.fromkeys(reasons)))


def _of_requests(demand: Demand, ledger: Ledger, nodes: Sequence[NodeState]) -> list[Reason]:
    """Return why single requests fit nowhere; nothing when each would fit by itself."""
    choices = Placing(demand, ledger).choices
    found: dict[Reason, list[str]] = {}
    wants = 0
    for item in choices:
        surveys = [Survey(want, nodes) for want in item]
        wants += len(surveys)
        if any(survey.enough for survey in surveys):
            continue
        for survey in surveys:
            for reason in survey.reasons():
                found.setdefault(reason, []).append(_name(survey.want, demand))
    return [_named(reason, names) if len(names) < wants else reason for reason, names in found.items()]


def _name(want: Want, demand: Demand) -> str:
    claims = {request.claim for item in demand.choices for request in item}
    request = want.request
    return request.name if len(claims) == 1 else f"{request.claim_name or request.claim} {request.name}"


def _named(reason: Reason, names: Sequence[str]) -> Reason:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    noun = "request" if len(names) == 1 else "requests"
    return replace(reason, detail=f"{noun} {', '.join(names[:_MOST_NAMES])}{more}: {reason.detail}")


def _of_nodes(out: Mapping[str, str], total: int) -> Reason:
    counted = Counter(out.values())
    parts = _most_first(counted.items())
    detail = ", ".join(f"{count} {words}" for words, count in parts)
    return Reason(code=ReasonCode.NODE_MISMATCH, affected=len(out), total=total, unit="nodes", detail=detail)


def _most_first(counted: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(counted, key=lambda item: (-item[1], item[0]))
