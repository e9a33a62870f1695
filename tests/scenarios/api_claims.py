"""What a ResourceClaim and a ResourceClaimTemplate may say: defaults, what is dropped, what never changes."""

from __future__ import annotations

from typing import Any, Final

from fracgpu.sim.node.api import Json
from tests.scenarios.api_bodies import (
    CLASS,
    REQUEST,
    claim,
    invalid,
    one_of,
    opaque,
    option,
    patch,
    put,
    request,
    template,
)
from tests.scenarios.api_case import JSON_PATCH, STRATEGIC, Case, Refused, Stored


def _set(path: str, value: Any) -> Any:
    def edit(obj: Json) -> None:
        *parents, last = path.split(".")
        place: Any = obj
        for part in parents:
            place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
        place[last] = value

    return edit


def _clear_version(obj: Json) -> None:
    del obj["metadata"]["resourceVersion"]
    obj["metadata"]["labels"] = {"a": "b"}


CREATE: Final = (
    Case(
        name="claim defaults",
        body=claim(request()),
        answer=Stored(
            {f"{REQUEST}.allocationMode": "ExactCount", f"{REQUEST}.count": 1, "status": {}},
            absent=("metadata.generation", "metadata.finalizers"),
        ),
    ),
    Case(name="claim without requests", body=claim(), answer=Stored({}, absent=("spec.devices.requests[0]",))),
    Case(name="claim count zero is the default", body=claim(request(count=0)), answer=Stored({f"{REQUEST}.count": 1})),
    Case(
        name="claim all devices",
        body=claim(request(allocationMode="All")),
        answer=Stored({f"{REQUEST}.allocationMode": "All"}, absent=(f"{REQUEST}.count",)),
    ),
    Case(
        name="claim quantities are canonical",
        body=claim(request(capacity={"requests": {"memory": "8192Mi", "cores": "1000", "slots": 1}})),
        answer=Stored({f"{REQUEST}.capacity.requests": {"memory": "8Gi", "cores": "1k", "slots": "1"}}),
    ),
    Case(
        name="claim zero capacity",
        body=claim(request(capacity={"requests": {"memory": "0"}})),
        answer=Stored({f"{REQUEST}.capacity.requests.memory": "0"}),
    ),
    Case(
        name="claim capacity of any name and size",
        body=claim(request(capacity={"requests": {"mem-ory": "1Gi", "memory": "-1Gi"}})),
        answer=Stored({f"{REQUEST}.capacity.requests": {"mem-ory": "1Gi", "memory": "-1Gi"}}),
    ),
    Case(
        name="claim constraint of both kinds",
        body=claim(
            request(), constraints=[{"matchAttribute": "gpu.fracgpu.dev/a", "distinctAttribute": "gpu.fracgpu.dev/b"}]
        ),
        answer=Stored({"spec.devices.constraints[0].distinctAttribute": "gpu.fracgpu.dev/b"}),
    ),
    Case(
        name="claim status at creation is dropped",
        body=claim(request()) | {"status": {"reservedFor": [{"resource": "pods", "name": "a", "uid": "b"}]}},
        answer=Stored({"status": {}}),
    ),
    Case(
        name="claim unknown member is dropped",
        body=claim(request(tolerance="none")),
        answer=Stored({}, absent=(f"{REQUEST}.tolerance",)),
    ),
    Case(
        name="claim unknown member is refused when strict",
        body=claim(request(tolerance="none")),
        query="?fieldValidation=Strict",
        answer=Refused(
            400, "BadRequest", ("strict decoding error", 'unknown field "spec.devices.requests[0].exactly.tolerance"')
        ),
    ),
    Case(
        name="claim dry run",
        body=claim(request()),
        query="?dryRun=All",
        answer=Stored({f"{REQUEST}.count": 1}),
    ),
    Case(name="claim generated name", body=claim(request(), metadata={"generateName": "made-"}), answer=Stored()),
    Case(
        name="claim prioritized list",
        body=claim(one_of(option("large", count=2), option("small"))),
        answer=Stored(
            {
                "spec.devices.requests[0].firstAvailable[0].count": 2,
                "spec.devices.requests[0].firstAvailable[1].allocationMode": "ExactCount",
                "spec.devices.requests[0].firstAvailable[1].count": 1,
            }
        ),
    ),
    Case(
        name="claim admin access in a prioritized list is dropped",
        body=claim(one_of(option("large", adminAccess=True))),
        answer=Stored({}, absent=("spec.devices.requests[0].firstAvailable[0].adminAccess",)),
    ),
    Case(
        name="claim constraints and config by subrequest",
        body=claim(
            one_of(option("large")),
            request("more"),
            constraints=[{"requests": ["gpu/large", "more"], "matchAttribute": "gpu.fracgpu.dev/productName"}],
            config=[opaque({"any": "thing"}, requests=["gpu/large"]), opaque({})],
        ),
        answer=Stored({"spec.devices.config[0].requests": ["gpu/large"]}),
    ),
    Case(
        name="claim toleration defaults",
        body=claim(request(tolerations=[{"key": "example.com/taint"}])),
        answer=Stored({f"{REQUEST}.tolerations[0].operator": "Equal"}),
    ),
)

CHANGES: Final = (
    Case(
        name="claim labels change",
        body=claim(request()),
        then=[put(_set("metadata.labels", {"team": "a"}))],
        answer=Stored({"metadata.labels": {"team": "a"}}),
    ),
    Case(
        name="claim put without version",
        body=claim(request()),
        then=[put(_clear_version)],
        answer=Stored({"metadata.labels": {"a": "b"}}),
    ),
    Case(
        name="claim put with an old version",
        body=claim(request()),
        then=[put(_set("metadata.resourceVersion", "1"))],
        answer=Refused(
            409, "Conflict", ("the object has been modified; please apply your changes to the latest version",)
        ),
    ),
    Case(
        name="claim put with another uid",
        body=claim(request()),
        then=[put(_set("metadata.uid", "b6a1cb6e-6e5c-4f8e-8d2a-3b1b62c7c7a1"))],
        answer=Refused(409, "Conflict", ("Precondition failed: UID in precondition",)),
    ),
    Case(
        name="claim put under another name",
        body=claim(request()),
        then=[put(_set("metadata.name", "other"))],
        answer=Refused(400, "BadRequest", ("the name of the object (other) does not match the name on the URL",)),
    ),
    Case(
        name="claim spec is immutable",
        body=claim(request()),
        then=[put(_set("spec.devices.requests.0.exactly.count", 2))],
        answer=invalid("spec: Invalid value", "field is immutable"),
    ),
    Case(
        name="claim spec is immutable for patches",
        body=claim(request()),
        then=[patch({"spec": {"devices": {"requests": []}}})],
        answer=invalid("spec: Invalid value", "field is immutable"),
    ),
    Case(
        name="claim omitted defaults are no change",
        body=claim(request()),
        then=[put(_set("spec.devices.requests.0.exactly", {"deviceClassName": CLASS}))],
        answer=Stored({f"{REQUEST}.count": 1}),
    ),
    Case(
        name="claim status in a put is dropped",
        body=claim(request()),
        then=[put(_set("status.reservedFor", [{"resource": "pods", "name": "a", "uid": "b"}]))],
        answer=Stored({"status": {}}),
    ),
    Case(
        name="claim merge patch",
        body=claim(request(), metadata={"labels": {"a": "1", "b": "2"}}),
        then=[patch({"metadata": {"labels": {"a": None, "c": "3"}}})],
        answer=Stored({"metadata.labels": {"b": "2", "c": "3"}}),
    ),
    Case(
        name="claim strategic patch",
        body=claim(request(), metadata={"finalizers": ["example.com/one"]}),
        then=[patch({"metadata": {"finalizers": ["example.com/two"]}}, STRATEGIC)],
        answer=Stored({"metadata.finalizers": ["example.com/two", "example.com/one"]}),
    ),
    Case(
        name="claim json patch",
        body=claim(request(), metadata={"labels": {"a": "1"}}),
        then=[
            patch(
                [
                    {"op": "test", "path": "/metadata/labels/a", "value": "1"},
                    {"op": "add", "path": "/metadata/labels/b", "value": "2"},
                ],
                JSON_PATCH,
            )
        ],
        answer=Stored({"metadata.labels": {"a": "1", "b": "2"}}),
    ),
    Case(
        name="claim json patch whose test fails",
        body=claim(request(), metadata={"labels": {"a": "1"}}),
        then=[patch([{"op": "test", "path": "/metadata/labels/a", "value": "2"}], JSON_PATCH)],
        answer=Refused(422, "Invalid", ("the server rejected our request due to an error in our request",)),
    ),
    Case(
        name="claim patch of an unknown kind",
        body=claim(request()),
        then=[patch({}, "application/json")],
        answer=Refused(415, "UnsupportedMediaType"),
    ),
    Case(
        name="claim patch dry run",
        body=claim(request()),
        then=[patch({"metadata": {"labels": {"a": "1"}}}, query="?dryRun=All"), patch({})],
        answer=Stored({}, absent=("metadata.labels",)),
    ),
    Case(
        name="claim patch guarded by an old version",
        body=claim(request()),
        then=[patch({"metadata": {"resourceVersion": "1", "labels": {"a": "1"}}})],
        answer=Refused(409, "Conflict", ("the object has been modified",)),
    ),
)

TEMPLATES: Final = (
    Case(
        name="template defaults",
        body=template(claim(request()), {"labels": {"team": "a"}}),
        answer=Stored(
            {"spec.spec.devices.requests[0].exactly.count": 1, "spec.metadata.labels": {"team": "a"}},
            absent=("metadata.generation", "status"),
        ),
    ),
    Case(
        name="template findings lie deeper",
        body=template(claim(request(""))),
        answer=invalid('spec.spec.devices.requests[0].name: Invalid value: ""'),
    ),
    Case(
        name="template of admin access without the label",
        body=template(claim(request(adminAccess=True))),
        answer=invalid("spec.devices.requests[0].adminAccess: Forbidden"),
    ),
    Case(
        name="template is immutable",
        body=template(claim(request())),
        then=[patch({"spec": {"metadata": {"labels": {"team": "b"}}}})],
        answer=invalid("spec: Invalid value", "field is immutable"),
    ),
    Case(
        name="template labels change",
        body=template(claim(request())),
        then=[patch({"metadata": {"labels": {"team": "b"}}})],
        answer=Stored({"metadata.labels": {"team": "b"}}),
    ),
)
