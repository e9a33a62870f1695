"""Custom resources: served while their definition is there, checked by its schema."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client, watch

from fracgpu.controller.fit.views import Holding
from fracgpu.controller.quota.book import QuotaBook
from fracgpu.controller.quota.reporter import QuotaReporter
from fracgpu.sim import manifests
from fracgpu.sim.api.server import ApiServer
from tests.controller.quota.conftest import Serial
from tests.sim.api.conftest import Answer, Raw

Json = dict[str, Any]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
DEFINITION = f"{DEFINITIONS}/fractionquotas.gpu.fracgpu.dev"
GROUP = "/apis/gpu.fracgpu.dev/v1alpha1"
QUOTAS = f"{GROUP}/namespaces/default/fractionquotas"


def shipped() -> Json:
    return dict(manifests.load(manifests.shipped("quota-crd.yaml"))[0])


def quota(name: str = "q", **hard: Any) -> Json:
    envelope = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionQuota", "metadata": {"name": name}}
    return envelope | {"spec": {"hard": hard}}


@pytest.fixture
def served(raw: Raw) -> Raw:
    assert raw("POST", DEFINITIONS, shipped()).code == 201
    return raw


def test_it_is_there_while_its_definition_is(raw: Raw) -> None:
    def groups() -> set[str]:
        return {group["name"] for group in raw("GET", "/apis").body["groups"]}

    assert raw("GET", QUOTAS).code == raw("POST", QUOTAS, quota(memory=1)).code == raw("GET", GROUP).code == 404
    assert "gpu.fracgpu.dev" not in groups()
    created = raw("POST", DEFINITIONS, shipped())
    conditions = {entry["type"]: entry["status"] for entry in created.body["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    assert "gpu.fracgpu.dev" in groups()
    main, status = raw("GET", GROUP).body["resources"]
    assert (main["name"], main["shortNames"], main["categories"]) == ("fractionquotas", ["fq"], ["fracgpu"])
    assert status["name"] == "fractionquotas/status"
    assert raw("POST", QUOTAS, quota(memory=1)).code == 201
    # With the definition its objects go.
    assert raw("DELETE", DEFINITION).code == 200
    assert raw("GET", QUOTAS).code == 404
    raw("POST", DEFINITIONS, shipped())
    assert raw("GET", QUOTAS).body["items"] == []


def test_the_life_of_an_object(served: Raw) -> None:
    created = served("POST", QUOTAS, quota(memory="64Gi") | {"status": {"enforcedAt": "Admission"}})
    assert (created.code, created.body["metadata"]["generation"]) == (201, 1)
    assert "status" not in created.body
    # A status changes nothing but the status, a spec everything else.
    sent = copy.deepcopy(created.body)
    sent |= {"status": {"used": {"memory": "1Gi"}}, "spec": {"hard": {"memory": "1Gi"}}}
    reported = served("PUT", f"{QUOTAS}/q/status", sent)
    assert (reported.body["spec"], reported.body["status"]) == (created.body["spec"], {"used": {"memory": "1Gi"}})
    assert reported.body["metadata"]["generation"] == 1
    stale = served("PUT", f"{QUOTAS}/q/status", sent)
    assert (stale.code, stale.body["reason"]) == (409, "Conflict")
    sent = reported.body | {"spec": {"hard": {"memory": "2Gi"}}, "status": {}}
    changed = served("PUT", f"{QUOTAS}/q", sent)
    assert (changed.body["metadata"]["generation"], changed.body["status"]) == (2, {"used": {"memory": "1Gi"}})
    (listed,) = served("GET", QUOTAS).body["items"]
    assert listed == changed.body
    assert listed["kind"] == "FractionQuota"
    gone = served("DELETE", f"{QUOTAS}/q")
    assert (gone.code, gone.body["kind"]) == (200, "Status")


def test_patches_are_those_that_a_custom_resource_knows(served: Raw) -> None:
    served("POST", QUOTAS, quota(memory="64Gi"))

    def patch(kind: str) -> Answer:
        return served("PATCH", f"{QUOTAS}/q", {"spec": {"hard": {"cores": 50}}}, Content_Type=f"application/{kind}")

    assert patch("merge-patch+json").body["spec"]["hard"] == {"memory": "64Gi", "cores": 50}
    refused = patch("strategic-merge-patch+json")
    assert refused.code == 415
    assert "application/merge-patch+json, application/apply-patch+yaml" in refused.body["message"]
    bad = served("PATCH", f"{QUOTAS}/q", {"spec": {"hard": None}}, Content_Type="application/merge-patch+json")
    assert (bad.code, bad.causes[0]) == (422, "spec.hard: Required value")


def test_what_is_not_served_otherwise_is_refused(served: Raw) -> None:
    without = quota(memory=1)
    del without["kind"]
    assert "Object 'Kind' is missing" in served("POST", QUOTAS, without).body["message"]
    served("POST", QUOTAS, quota(memory=1))
    unseen = served("PUT", f"{QUOTAS}/q", quota(memory=2))
    assert unseen.code == 422
    assert unseen.body["message"].startswith('fractionquotas.gpu.fracgpu.dev "q" is invalid: metadata.resourceVersion')
    selected = served("GET", f"{QUOTAS}?fieldSelector=spec.hard=1")
    assert (selected.code, selected.body["message"]) == (400, "field label not supported: spec.hard")


def change_name(definition: Json) -> None:
    definition["metadata"]["name"] = "quotas.gpu.fracgpu.dev"


def change_rule(definition: Json) -> None:
    hard = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["hard"]
    hard["x-kubernetes-validations"][0]["rule"] = "true"


def change_word(definition: Json) -> None:
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["oneOf"] = []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            change_name,
            'metadata.name: Invalid value: "quotas.gpu.fracgpu.dev": must be spec.names.plural+"."+spec.group',
        ),
        (change_rule, "the emulator has no meaning for this rule"),
        (change_word, "the emulator does not know this word of the schema language"),
    ],
)
def test_a_definition_that_cannot_be_kept_is_refused(raw: Raw, change: Callable[[Json], None], complaint: str) -> None:
    definition = copy.deepcopy(shipped())
    change(definition)
    answer = raw("POST", DEFINITIONS, definition)
    assert answer.code == 422
    assert any(complaint in cause for cause in answer.causes)


def test_the_official_client_lists_and_watches_it(server: ApiServer, served: Raw, api: client.ApiClient) -> None:
    custom = client.CustomObjectsApi(api)
    place = ("gpu.fracgpu.dev", "v1alpha1", "default", "fractionquotas")
    version = custom.list_namespaced_custom_object(*place)["metadata"]["resourceVersion"]
    manifests.apply(server.url, [quota(memory="1Gi"), quota(memory="2Gi")])
    served("DELETE", f"{QUOTAS}/q")
    seen = [
        (event["type"], event["object"]["spec"]["hard"]["memory"])
        for event in watch.Watch().stream(
            custom.list_namespaced_custom_object, *place, resource_version=version, timeout_seconds=1
        )
    ]
    assert seen == [("ADDED", "1Gi"), ("MODIFIED", "2Gi"), ("DELETED", "2Gi")]


def test_the_controllers_status_is_taken_in_whole(served: Raw) -> None:
    """What the controller writes has to survive the schema: what that does not know would be dropped."""

    class Api:
        def replace_quota_status(self, body: Json) -> Json:
            answer = served("PUT", f"{QUOTAS}/{body['metadata']['name']}/status", body)
            assert answer.code == 200, answer.raw
            assert answer.body["status"] == body["status"]
            return answer.body

    book = QuotaBook(lambda _key: None)
    for one in (quota(memory="1Gi", cores=10, slots=1), quota("odd", memory="10E")):
        book.put(served("POST", QUOTAS, one).body)
    book.charge("c", "default", [Holding(pool="n", device="g", memory_bytes=3 * 1024**3, cores=30)])
    reporter = QuotaReporter(
        Api(),
        book,
        enforced_at="Allocation",
        clock=lambda: 0.0,
        now=lambda: "2026-01-01T00:00:00Z",
        executor=Serial(),
    )
    told = {(notice.about["metadata"]["name"], notice.reason) for notice in reporter.step()}
    assert told == {("q", "QuotaExceeded"), ("odd", "QuotaInvalid")}
    stored = served("GET", f"{QUOTAS}/q").body["status"]
    assert stored["used"] == {"memory": "3Gi", "cores": "30", "slots": "1"}
    assert stored["enforcedAt"] == "Allocation"
