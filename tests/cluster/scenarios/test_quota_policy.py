"""FractionQuotas on a real API server: their definition, their table, and the policy that reads them.

The emulator is asked the same, in the same words.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.server import ApiServer
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.lone_plane import LonePlane, lone_plane
from tests.cluster.machine.layout import Layout
from tests.deploy import quotas
from tests.deploy.quotas import CASES, SCHEMA, STAGES, WITHIN, Case, Schema
from tests.deploy.servers import Requests

Json = dict[str, Any]
MANIFESTS = ("quota-crd.yaml", "quota-policy.yaml")


@pytest.fixture(scope="module")
def plane(artifacts: Artifacts, layout: Layout) -> Iterator[LonePlane]:
    """A control plane of this file's own: it loses the definition in the end."""
    with lone_plane(artifacts, layout, "quota-plane", number=10) as running:
        yield running


@pytest.fixture(scope="module")
def real(plane: LonePlane) -> Requests:
    """A real server with definition, policy and all stages."""
    for name in MANIFESTS:
        plane.kubectl.output("apply", "-f", "-", stdin=manifests.shipped(name))
    plane.kubectl.output("wait", "--for=condition=Established", "crd/fractionquotas.gpu.fracgpu.dev", "--timeout=30s")
    for stage in STAGES:
        quotas.set_stage(plane.admin, stage, lambda until: plane.wait(until, what="the policy's news of a quota"))
    return plane.admin


@pytest.fixture(scope="module")
def emulated() -> Iterator[Requests]:
    with ApiServer(access=Access(manifests.load(manifests.shipped("quota-policy.yaml")))) as server:
        manifests.apply(server.url, manifests.load(manifests.shipped("quota-crd.yaml"))[:1])
        requests = Requests(server.url)
        for stage in STAGES:
            quotas.set_stage(requests, stage, _at_once)
        yield requests


def _at_once(until: Callable[[], object]) -> None:
    assert until()


@pytest.mark.parametrize("case", SCHEMA, ids=str)
def test_both_servers_take_and_refuse_the_same_quotas(real: Requests, emulated: Requests, case: Schema) -> None:
    answers = [quotas.ask_schema(server, case, "default") for server in (real, emulated)]
    assert answers[0].verdict == answers[1].verdict
    assert [text for text in case.refusal if text not in answers[0].verdict[2]] == []
    if case.refusal:
        assert answers[0].code == case.code
        return
    parts = [{part: answer.body.get(part) for part in ("spec", "status")} for answer in answers]
    assert parts[0] == parts[1]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_servers_refuse_the_same_claims_in_the_same_words(real: Requests, emulated: Requests, case: Case) -> None:
    answers = [quotas.create(server, case) for server in (real, emulated)]
    assert answers[0].verdict == answers[1].verdict
    assert quotas.refusal_of(answers[0]) == case.refusal


@pytest.mark.usefixtures("real")
def test_the_policy_has_no_mistake_that_the_server_finds(plane: LonePlane) -> None:
    def status() -> Json:
        printed = plane.kubectl.output("get", "validatingadmissionpolicy", "fracgpu-quota", "-o", "json")
        found: Json = json.loads(printed).get("status", {})
        return found

    plane.wait(lambda: "typeChecking" in status(), what="the check of the policy's types")
    assert status()["typeChecking"] == {}


@pytest.mark.usefixtures("real")
def test_the_table_shows_use_and_limits(plane: LonePlane) -> None:
    head, row = plane.kubectl.output("get", "fq", "--namespace", WITHIN.namespace, "-o", "wide").splitlines()
    starts = {found[0]: found.start() for found in re.finditer(r"\S+( \S+)*", head)}
    assert list(starts) == [
        *("NAME", "MEMORY USED", "MEMORY", "CORES USED", "CORES", "SLOTS USED", "SLOTS"),
        *("EXCEEDED", "ENFORCED", "AGE"),
    ]
    shown = {name: row[start:].split()[0] for name, start in starts.items() if row[start] != " "}
    del shown["AGE"]
    assert shown == {
        "NAME": "q",
        "MEMORY USED": "56Gi",
        "MEMORY": "64Gi",
        "CORES USED": "190",
        "CORES": "200",
        "SLOTS USED": "7",
        "SLOTS": "8",
        "ENFORCED": "Admission",
    }
    assert plane.kubectl.output("get", "fracgpu", "--namespace", WITHIN.namespace, "-o", "name").split() == [
        "fractionquota.gpu.fracgpu.dev/q"
    ]


@pytest.mark.usefixtures("real")
def test_who_may_look_at_a_namespace_sees_its_quotas_and_may_not_set_them(plane: LonePlane) -> None:
    plane.kubectl.output(
        *("create", "rolebinding", "look", "--clusterrole=admin", "--user=jane", "--namespace", WITHIN.namespace)
    )

    def allowed(verb: str) -> bool:
        question = ("auth", "can-i", verb, "fractionquotas", "--as=jane", "--namespace", WITHIN.namespace)
        return plane.kubectl.run(*question).stdout.strip() == "yes"

    # A controller of the cluster adds the rule to the role.
    plane.wait(lambda: allowed("list"), what="the right to see quotas")
    assert [allowed(verb) for verb in ("get", "watch", "create", "update", "delete", "patch")] == [
        *(True, True),
        *(False, False, False, False),
    ]


def test_claims_from_templates_are_refused_and_the_pod_says_so(real: Requests, plane: LonePlane) -> None:
    request = {
        "name": "gpu",
        "exactly": {"deviceClassName": "gpu.fracgpu.dev", "capacity": {"requests": {"memory": "9Gi"}}},
    }
    inside = f"/namespaces/{WITHIN.namespace}"
    template = {"metadata": {"name": "t"}, "spec": {"spec": {"devices": {"requests": [request]}}}}
    plane.create(f"/apis/resource.k8s.io/v1{inside}/resourceclaimtemplates", template)
    container = {
        "name": "main",
        "image": "registry.example.com/none",
        "resources": {"claims": [{"name": "gpu"}]},
    }
    claims = [{"name": "gpu", "resourceClaimTemplateName": "t"}]
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [container], "resourceClaims": claims}}
    account = f"/api/v1{inside}/serviceaccounts/default"
    plane.wait(lambda: real.send("GET", account).code == 200, what="the account of pods")
    plane.create(f"/api/v1{inside}/pods", pod)

    def told() -> list[str]:
        events = real.send("GET", f"/api/v1{inside}/events").body["items"]
        return [event["message"] for event in events if event["reason"] == "FailedResourceClaimCreation"]

    plane.wait(told, what="the event of a claim that cannot be created")
    assert "FractionQuota q has too little left: memory: asked 9216Mi, used 57344Mi of 65536Mi" in told()[0]


def test_without_the_definition_claims_pass(real: Requests, plane: LonePlane) -> None:
    """No kind, no quotas; nobody's claims may depend on it. Last in this file: it takes the quotas away."""
    plane.kubectl.output("delete", "crd", "fractionquotas.gpu.fracgpu.dev", "--wait=true")
    waited = next(case for case in CASES if case.stage is WITHIN and case.refusal)
    plane.wait(lambda: quotas.create(real, waited).code == 201, what="claims in a namespace that had a quota")
    # A policy that starts without it, as with the API server, cannot be evaluated at all.
    plane.kubectl.output("replace", "--force", "-f", "-", stdin=manifests.shipped("quota-policy.yaml"))
    others = Case(quotas.NONE, "of others", ({"exactly": {"deviceClassName": "gpu.example.com"}},))
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for case in (waited, others):
            assert quotas.create(real, case).code == 201
        time.sleep(0.2)
