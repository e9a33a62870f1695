"""The emulator answers as the real API server does: one table of calls, asked of whichever this tier has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fracgpu.driver.names import CLASS_FRACTION
from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.node.api import Json
from tests.scenarios import api_bodies, api_claims, api_claims_refused, api_cluster, api_pods, api_status
from tests.scenarios.api_case import Case, Refused, Stored, check, perform

CASES = (
    *api_claims.CREATE,
    *api_claims_refused.REFUSED,
    *api_claims.CHANGES,
    *api_claims.TEMPLATES,
    *api_status.ALLOCATION,
    *api_status.CONSUMERS,
    *api_status.REPORTS,
    *api_status.DELETION,
    *api_cluster.SLICES,
    *api_cluster.POLICIES,
    *api_cluster.CLASSES,
    *api_pods.PODS,
    *api_pods.WORKLOADS,
)
ADMIN_LABEL = {"resource.kubernetes.io/admin-access": "true"}


@pytest.fixture(scope="module")
def place(cluster: ClusterUnderTest) -> Iterator[str]:
    """One namespace for all calls: every case names its own object and removes it."""
    with cluster.namespace("api-conformance") as name:
        yield name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_both_servers_answer_alike(cluster: ClusterUnderTest, place: str, case: Case) -> None:
    check(cluster.api, case, place)


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)


def test_an_answer_that_is_not_the_expected_one_is_found(cluster: ClusterUnderTest, place: str) -> None:
    good = api_bodies.claim(api_bodies.request())
    bad = api_bodies.claim(api_bodies.request(""))
    wrong: tuple[tuple[Json, Refused | Stored], ...] = (
        (good, Refused(422, "Invalid")),
        (good, Stored({"spec.devices.requests[0].exactly.count": 2})),
        (good, Stored({}, absent=("spec.devices.requests[0].exactly.count",))),
        (bad, Stored()),
        (bad, Refused(400, "BadRequest")),
        (bad, Refused(422, "Invalid", ("another text",))),
    )
    for number, (body, answer) in enumerate(wrong):
        with pytest.raises(AssertionError):
            check(cluster.api, Case(name=f"wrong expectation {number}", body=body, answer=answer), place)


def test_admin_access_is_for_labelled_namespaces(cluster: ClusterUnderTest) -> None:
    case = Case(
        name="admin access with the label",
        body=api_bodies.claim(api_bodies.request(adminAccess=True)),
        answer=Stored({"spec.devices.requests[0].exactly.adminAccess": True}),
    )
    with cluster.namespace("api-conformance-admin", ADMIN_LABEL) as name:
        check(cluster.api, case, name)


def test_selectors_by_attribute_are_accepted(cluster: ClusterUnderTest, place: str) -> None:
    expression = f"device.attributes['{CLASS_FRACTION}'].productName.startsWith('NVIDIA')"
    body = api_bodies.claim(api_bodies.request(selectors=[{"cel": {"expression": expression}}]))
    stored = perform(cluster.api, Case(name="selector by name", body=body, answer=Stored()), place)
    assert stored["spec"]["devices"]["requests"][0]["exactly"]["selectors"][0]["cel"]["expression"] == expression


@pytest.mark.needs("CEL compiler")
@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("device.driver ==", "Syntax error"),
        ("device.nothing == 1", "undefined field 'nothing'"),
        ("device.driver", "must evaluate to bool"),
    ],
)
def test_selectors_are_compiled(cluster: ClusterUnderTest, place: str, expression: str, complaint: str) -> None:
    body = api_bodies.claim(api_bodies.request(selectors=[{"cel": {"expression": expression}}]))
    case = Case(name="bad selector", body=body, answer=Refused(422, "Invalid", (complaint,)))
    check(cluster.api, case, place)
