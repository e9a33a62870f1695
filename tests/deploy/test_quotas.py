"""What the definition of FractionQuotas and the policy about them refuse: on the emulator.

tests/cluster asks a real API server the same, and compares the words.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator

import pytest

from fracgpu.controller.quota.amounts import NOTHING
from fracgpu.controller.quota.asked import asked_of
from fracgpu.controller.quota.book import QuotaBook
from fracgpu.driver.names import CAPACITIES
from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.policies import PolicyNotSupported
from fracgpu.sim.api.server import ApiServer
from tests.deploy import quotas
from tests.deploy.quotas import CASES, SCHEMA, STAGES, Case, Schema
from tests.deploy.servers import Requests
from tests.deploy.test_admission import expressions

Json = dict[str, object]


def documents(name: str) -> list[Json]:
    return [dict(obj) for obj in manifests.load(manifests.shipped(name))]


@pytest.fixture(scope="module")
def admin() -> Iterator[Requests]:
    with ApiServer(access=Access(documents("quota-policy.yaml"))) as server:
        manifests.apply(server.url, [documents("quota-crd.yaml")[0]])
        requests = Requests(server.url)
        for stage in STAGES:
            quotas.set_stage(requests, stage, at_once)
        yield requests


def at_once(until: Callable[[], object]) -> None:
    assert until()


@pytest.mark.parametrize("case", SCHEMA, ids=str)
def test_a_quota_that_says_nothing_sensible_is_refused(admin: Requests, case: Schema) -> None:
    answer = quotas.ask_schema(admin, case, "default")
    if not case.refusal:
        assert answer.code in (200, 201), answer.raw
        return
    assert answer.code == case.code
    assert [text for text in case.refusal if text not in answer.body["message"]] == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_claim_that_asks_for_more_than_is_left_is_refused(admin: Requests, case: Case) -> None:
    assert quotas.refusal_of(quotas.create(admin, case)) == case.refusal


def test_the_controller_counts_what_the_policy_compares(admin: Requests) -> None:
    """Whoever is let in by one sum must be in the next one with the same amounts: the sum is found out by refusals."""
    counted = 0
    for case in CASES:
        numbers = {
            name: int(text.partition(" asked ")[2].partition(",")[0].removesuffix("Mi"))
            for part in case.refusal.partition("has too little left: ")[2].split("; ")
            for name, _, text in [part.partition(":")]
            if text
        }
        requests = [{"name": f"r{index}"} | request for index, request in enumerate(case.requests)]
        book = QuotaBook(lambda _key: None)
        book.charge("c", "n", asked_of({"spec": {"devices": {"requests": requests}}}, largest_memory=lambda: 0))
        used = book.used("n")
        asked = {name: used.of(name) // (1024**2 if name == "memory" else 1) for name in CAPACITIES}
        assert {name: asked[name] for name in numbers} == numbers, case
        counted += len(numbers)
        if case.name in ("nothing", "admin access", "somebody else's class", "a name that only looks like ours"):
            assert used == NOTHING
    assert counted > 10


def test_the_emulator_takes_no_expression_for_another() -> None:
    count = len(list(expressions(documents("quota-policy.yaml"))))
    assert count >= 10
    for number in range(count):
        objects = documents("quota-policy.yaml")
        holder, key = list(expressions(objects))[number]
        holder[key] += " || true"
        with pytest.raises(PolicyNotSupported, match="has no meaning for"):
            Access(objects)


def test_the_emulator_takes_no_parameters_for_others() -> None:
    policy, binding = documents("quota-policy.yaml")
    for change in ({"name": "q"}, {"selector": {}, "parameterNotFoundAction": "Deny"}):
        other = copy.deepcopy(binding)
        other["spec"]["paramRef"] = change  # type: ignore[index]
        with pytest.raises(PolicyNotSupported, match="the reference to parameters"):
            Access([policy, other])
    other = copy.deepcopy(policy)
    other["spec"]["paramKind"] = {"apiVersion": "v1", "kind": "ConfigMap"}  # type: ignore[index]
    with pytest.raises(PolicyNotSupported, match="parameters of kind"):
        Access([other, binding])


def test_policy_definition_and_code_have_the_same_names() -> None:
    definition, _ = documents("quota-crd.yaml")
    text = json.dumps(definition)
    assert f"k in {list(CAPACITIES)}" in text
    assert "fractionquotas.gpu.fracgpu.dev" in text
