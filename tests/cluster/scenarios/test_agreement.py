"""Our fit engine and kube-scheduler say the same about the same claims: random cases, put to both.

    FRACGPU_AGREEMENT_CASES=2000 FRACGPU_AGREEMENT_SEED=7 make e2e PYTEST_ARGS="-k agreement"

What is left out because it means something else to them on purpose is said in tests/cluster/agreement/cases.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.cluster.agreement.cases import make_case
from tests.cluster.agreement.compare import Answer, answer_all
from tests.cluster.agreement.theirs import Theirs
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.lone_plane import LonePlane, lone_plane
from tests.cluster.machine.layout import Layout

CASES: Final = int(os.environ.get("FRACGPU_AGREEMENT_CASES", "150"))
SEED: Final = int(os.environ.get("FRACGPU_AGREEMENT_SEED", "1"))
ROUND: Final = 150


@pytest.fixture(scope="module")
def agreement_plane(artifacts: Artifacts, layout: Layout) -> Iterator[LonePlane]:
    with lone_plane(artifacts, layout, "agreement", number=4) as running:
        yield running


def test_kube_scheduler_and_our_engine_agree(agreement_plane: LonePlane) -> None:
    theirs = Theirs(agreement_plane.plane.admin_kubeconfig)
    answers: list[Answer] = []
    for begin in range(0, CASES, ROUND):
        cases = [make_case(number, SEED) for number in range(begin, min(begin + ROUND, CASES))]
        answers += answer_all(theirs, cases)
    differing = [answer for answer in answers if answer.differs]
    fitting = sum(answer.fits for answer in answers)
    print(f"{len(answers)} cases, {fitting} fit, {len(differing)} differ")  # noqa: T201
    assert not differing, "\n\n".join(answer.story() for answer in differing)
    # Neither of them says always the same.
    assert len(answers) // 5 < fitting < len(answers) * 4 // 5, fitting
