"""A plugin keeps to its own slices and its own entries in claims, whoever gets hold of its token.

Said twice: the real API server refuses, and it refuses with the very words of the emulator, on which all that the fast
tier says about rights rests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.lab.credentials import shipped_access
from tests.cluster.lone_plane import LonePlane
from tests.deploy import admission
from tests.deploy.servers import Answer, EmulatedServer
from tests.deploy.writes import ROLE_CASES, SLICE_CASES, STATUS_CASES, Case, Users

Json = dict[str, Any]
CASES = [*SLICE_CASES, *STATUS_CASES, *ROLE_CASES]


@pytest.fixture(scope="module")
def real(plane: LonePlane) -> Users:
    return Users.of(plane)


@pytest.fixture(scope="module")
def emulated() -> Iterator[Users]:
    access = shipped_access()
    with ApiServer(access=access) as server:
        yield Users.of(EmulatedServer(server, access))


def comparable(answer: Answer) -> tuple[int, str, str]:
    """Return what two servers must agree on: all but the struct of its own that the real one prints in one message."""
    code, reason, message = answer.verdict
    return (
        code,
        reason,
        re.sub(r"Invalid value: {.*}: field is immutable", "Invalid value: {}: field is immutable", message),
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_servers_answer_alike(real: Users, emulated: Users, case: Case) -> None:
    name = f"case-{CASES.index(case)}"
    answers = [case.ask(users, name) for users in (real, emulated)]
    assert comparable(answers[0]) == comparable(answers[1])
    assert [answer.code for answer in answers] == [case.code] * 2


@pytest.mark.parametrize("case", [*admission.CASES, *admission.FINDINGS], ids=str)
def test_claims_and_classes_are_refused_in_the_same_words(real: Users, emulated: Users, case: admission.Case) -> None:
    for users in (real, emulated):
        admission.make_place(users.admin)
    answers = [admission.create(users.admin, case) for users in (real, emulated)]
    assert answers[0].verdict == answers[1].verdict
    assert case.refusal in answers[0].verdict[2]
    assert answers[0].code == (422 if case.refusal else 201)
    if not case.refusal:
        specs = [answer.body["spec"] for answer in answers]
        assert _without_nulls(specs[0]) == _without_nulls(specs[1])
        annotations = [answer.body["metadata"].get("annotations") for answer in answers]
        assert annotations[0] == annotations[1]


def _without_nulls(spec: Json) -> Json:
    """Return a spec without its empty list of requests, which the real server shows as null."""
    devices = {key: value for key, value in spec.get("devices", {}).items() if value}
    return {**spec, "devices": devices}
