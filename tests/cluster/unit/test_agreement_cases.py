"""The random cases: always the same ones, of all kinds, and both answers are seen to differ when they do."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from fracgpu.driver.names import CLASS_FRACTION, DRIVER_NAME
from tests.cluster.agreement.cases import Case, make_case
from tests.cluster.agreement.compare import compare
from tests.cluster.agreement.ours import Ours
from tests.cluster.agreement.question import Question
from tests.cluster.hollow import HollowNode, card
from tests.cluster.oracle import excess

Json = dict[str, Any]
MANIFEST = Path(__file__).parents[3] / "deploy" / "deviceclasses.yaml"
CASES = 400


def stored(body: Json) -> Json:
    metadata = {**body["metadata"], "uid": str(uuid.uuid4()), "namespace": "agreement"}
    return {**body, "metadata": metadata}


def question(case: Case) -> Question:
    documents = yaml.safe_load_all(MANIFEST.read_text())
    return Question(
        nodes=[node.node() for node in case.nodes],
        slices=[case.slice(node, "uid") for node in case.nodes],
        holders=[stored(claim) for claim in case.holders],
        fillers=case.fillers,
        claims=[stored(claim) for claim in case.claims],
        pod=case.pod,
        classes={document["metadata"]["name"]: document for document in documents},
    )


def test_a_case_is_what_its_number_and_seed_make_of_it() -> None:
    assert make_case(7, 1) == make_case(7, 1)
    assert make_case(7, 1) != make_case(7, 2)
    assert make_case(7, 1) != make_case(8, 1)


def test_all_kinds_of_cases_are_there() -> None:
    cases = [make_case(number, 1) for number in range(CASES)]
    text = json.dumps([[case.claims, case.pod, case.holders, case.fillers] for case in cases])
    wanted = (
        *("firstAvailable", "matchAttribute", "distinctAttribute", '"All"', "adminAccess", "tolerations", "selectors"),
        *("initContainers", "nodeAffinity", "matchFields", '"count": 2', "101", "semver", "quantity", "whole.gpu"),
    )
    assert [word for word in wanted if word not in text] == []
    assert {len(case.nodes) for case in cases} == {1, 2, 3}
    assert {len(case.claims) for case in cases} == {1, 2}
    assert any(case.device_taints for case in cases)


def test_nothing_that_is_held_is_more_than_there_is() -> None:
    for number in range(CASES):
        case = make_case(number, 1)
        slices = [case.slice(node, "uid") for node in case.nodes]
        shares = [held for held in case.holders if all("shareID" in one for one in _results(held))]
        assert excess(slices, shares) == []


def test_no_two_cases_share_a_gpu() -> None:
    names = Counter(
        gpu.device_name for number in range(CASES) for node in make_case(number, 1).nodes for gpu in node.gpus
    )
    assert max(names.values()) == 1


def test_our_engine_answers_now_this_and_now_that() -> None:
    fitting = sum(Ours(question(make_case(number, 1))).place() is not None for number in range(CASES))
    assert CASES // 5 < fitting < CASES * 4 // 5


def simple(memory: str) -> tuple[Ours, Question]:
    node = HollowNode(name="n", gpus=[card(1)], allocator="scheduler")
    exactly = {"deviceClassName": CLASS_FRACTION, "capacity": {"requests": {"memory": memory}}}
    claim = {"metadata": {"name": "claim"}, "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}}
    pod = {"metadata": {"name": "pod"}, "spec": {"containers": [{"name": "main"}]}}
    case = Case(number=0, nodes=[node], device_taints={}, holders=[], fillers=[], claims=[claim], pod=pod)
    asked = question(case)
    return Ours(asked), asked


def bound(asked: Question, memory: str) -> tuple[Json, list[Json]]:
    """Return the pod and its claim as kube-scheduler leaves them when it charges `memory`."""
    consumed = {"memory": memory, "cores": "0", "slots": "1"}
    result = {"request": "r", "driver": DRIVER_NAME, "pool": "n", "device": card(1).device_name}
    devices = {"results": [{**result, "consumedCapacity": consumed}]}
    claim = {**asked.claims[0], "status": {"allocation": {"devices": devices}}}
    return {"spec": {"nodeName": "n"}, "status": {}}, [claim]


def refused(asked: Question) -> tuple[Json, list[Json]]:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    return {"spec": {}, "status": {"conditions": [condition]}}, list(asked.claims)


def test_two_answers_that_agree_do_not_differ() -> None:
    engine, asked = simple("8Gi")
    assert compare(engine, engine.place(), *bound(asked, "8Gi")) == ""
    engine, asked = simple("80Gi")
    assert compare(engine, engine.place(), *refused(asked)) == ""


def test_every_difference_is_seen() -> None:
    engine, asked = simple("8Gi")
    assert "we place it on n" in compare(engine, engine.place(), *refused(asked))
    assert "they charge" in compare(engine, engine.place(), *bound(asked, "8Mi"))
    engine, asked = simple("80Gi")
    assert "we do not" in compare(engine, engine.place(), *bound(asked, "80Gi"))


def _results(held: Json) -> list[Json]:
    return list(held["status"]["allocation"]["devices"]["results"])
