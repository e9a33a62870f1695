"""Both answers to the same cases, and in what they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fracgpu.controller.fit.views import Placement
from fracgpu.driver.names import CAPACITIES
from fracgpu.driver.quantity import quantity_int
from tests.cluster.agreement.cases import Case
from tests.cluster.agreement.ours import Ours
from tests.cluster.agreement.question import Question
from tests.cluster.agreement.theirs import Theirs, is_bound, refusal

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One case with both answers; `differs` says in words what is not the same, empty if they agree."""

    case: Case
    question: Question
    fits: bool
    differs: str

    def story(self) -> str:
        """Return everything that is needed to look into it."""
        question = self.question
        parts = {
            "nodes": [
                {key: node[key] for key in ("metadata", "spec")} | {"at": node["status"]["allocatable"]}
                for node in question.nodes
            ],
            "devices": {one["spec"]["nodeName"]: one["spec"]["devices"] for one in question.slices},
            "held": [one["status"]["allocation"]["devices"]["results"] for one in question.holders],
            "fillers": [one["spec"] for one in question.fillers],
            "claims": [one["spec"]["devices"] for one in question.claims],
            "pod": question.pod["spec"],
        }
        lines = [f"{name}: {json.dumps(part, separators=(',', ':'))}" for name, part in parts.items()]
        return "\n".join([f"case {self.case.number}: {self.differs}", *lines])


def answer_all(theirs: Theirs, cases: Sequence[Case]) -> list[Answer]:
    """Put the cases to both and compare; the control plane is empty afterwards."""
    questions = theirs.put(cases)
    ours = [Ours(question) for question in questions]
    placements = [one.place() for one in ours]
    pods = theirs.decide(cases, [placement is not None for placement in placements])
    claims = theirs.claims()
    answers = []
    for case, question, engine, placement, pod in zip(cases, questions, ours, placements, pods, strict=True):
        allocated = [claims[claim["metadata"]["name"]] for claim in case.claims]
        differs = compare(engine, placement, pod, allocated)
        answers.append(Answer(case=case, question=question, fits=is_bound(pod), differs=differs))
    theirs.clear()
    return answers


def compare(engine: Ours, placement: Placement | None, pod: Json, claims: Sequence[Json]) -> str:
    """Return in what our `placement` differs from what became of the pod and its claims; empty if in nothing."""
    if not is_bound(pod):
        if placement is None:
            return ""
        return f"we place it on {placement.node}: {_ours(placement)}, kube-scheduler says: {refusal(pod)}"
    node = pod["spec"]["nodeName"]
    there = engine.place(only=node)
    if there is None:
        return f"kube-scheduler places it on {node}: {_brief(claims)}, we do not: {engine.refusal or 'no room'}"
    if placement is None:
        return f"we place it on {node} when asked for that node, and on none when asked for any"
    return "; ".join(_wrong_amounts(engine, claims))


def _results(claims: Sequence[Json]) -> list[tuple[Json, Json]]:
    return [(claim, result) for claim in claims for result in claim["status"]["allocation"]["devices"]["results"]]


def _ours(placement: Placement) -> list[tuple[str, str]]:
    return [(device.request, device.device) for device in placement.devices]


def _brief(claims: Sequence[Json]) -> list[tuple[str, str]]:
    return [(result["request"], result["device"]) for _, result in _results(claims)]


def _wrong_amounts(engine: Ours, claims: Sequence[Json]) -> list[str]:
    found = []
    for claim, result in _results(claims):
        expected = engine.amounts(result["request"], claim["metadata"]["uid"], (result["pool"], result["device"]))
        consumed = result["consumedCapacity"]
        if any(_number(consumed[name]) != _number(expected[name]) for name in CAPACITIES):
            found.append(f"{claim['metadata']['name']} {result['request']}: they charge {consumed}, we {expected}")
    return found


def _number(quantity: str) -> int:
    return quantity_int(quantity, unit="")
