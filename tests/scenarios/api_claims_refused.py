"""What a ResourceClaim may not say, and in which words that is answered."""

from __future__ import annotations

from typing import Final

from tests.scenarios.api_bodies import claim, invalid, one_of, opaque, option, request
from tests.scenarios.api_case import Case, Refused

REFUSED: Final = (
    Case(
        name="claim request without name",
        body=claim(request("")),
        answer=invalid('spec.devices.requests[0].name: Invalid value: "": a lowercase RFC 1123 label'),
    ),
    Case(
        name="claim request name",
        body=claim(request("GPU")),
        answer=invalid('spec.devices.requests[0].name: Invalid value: "GPU"', "lowercase RFC 1123 label"),
    ),
    Case(
        name="claim request twice",
        body=claim(request(), request()),
        answer=invalid('spec.devices.requests[1]: Duplicate value: "gpu"'),
    ),
    Case(
        name="claim both kinds of request",
        body=claim(request() | {"firstAvailable": [option("a")]}),
        answer=invalid("spec.devices.requests[0]: Invalid value", "exactly one of `exactly` or `firstAvailable`"),
    ),
    Case(
        name="claim neither kind of request",
        body=claim({"name": "gpu"}),
        answer=invalid("spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable`"),
    ),
    Case(
        name="claim request without class",
        body=claim({"name": "gpu", "exactly": {"count": 1}}),
        answer=invalid("spec.devices.requests[0].exactly.deviceClassName: Required value"),
    ),
    Case(
        name="claim class name",
        body=claim(request(deviceClassName="No Such")),
        answer=invalid('deviceClassName: Invalid value: "No Such"', "lowercase RFC 1123 subdomain"),
    ),
    Case(
        name="claim allocation mode",
        body=claim(request(allocationMode="Some")),
        answer=invalid('allocationMode: Unsupported value: "Some": supported values: "All", "ExactCount"'),
    ),
    Case(
        name="claim all devices with a count",
        body=claim(request(allocationMode="All", count=2)),
        answer=invalid("exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'"),
    ),
    Case(
        name="claim negative count",
        body=claim(request(count=-1)),
        answer=invalid("exactly.count: Invalid value: -1: must be greater than zero"),
    ),
    Case(
        name="claim admin access without the label",
        body=claim(request(adminAccess=True)),
        answer=invalid(
            "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the "
            "`resource.kubernetes.io/admin-access: true` label on the containing namespace"
        ),
    ),
    Case(
        name="claim selector without expression",
        body=claim(request(selectors=[{"cel": {"expression": ""}}])),
        answer=invalid('exactly.selectors[0].cel.expression: Invalid value: "": compilation failed'),
    ),
    Case(
        name="claim selector of no kind",
        body=claim(request(selectors=[{}])),
        answer=invalid("exactly.selectors[0].cel: Required value"),
    ),
    Case(
        name="claim quantity",
        body=claim(request(capacity={"requests": {"memory": "much"}})),
        answer=Refused(400, "BadRequest", ("quantities must match the regular expression",)),
    ),
    Case(
        name="claim wrong type",
        body=claim(request(count="one")),
        answer=Refused(400, "BadRequest", ("cannot unmarshal string into Go struct field", "of type int64")),
    ),
    Case(
        name="claim too many requests",
        body=claim(*(request(f"gpu-{number}") for number in range(33))),
        answer=invalid("spec.devices.requests: Too many: 33: must have at most 32 items"),
    ),
    Case(
        name="claim too long a list",
        body=claim(one_of(*(option(f"option-{number}") for number in range(9)))),
        answer=invalid("spec.devices.requests[0].firstAvailable: Too many: 9: must have at most 8 items"),
    ),
    Case(
        name="claim two options of one name",
        body=claim(one_of(option("a"), option("a"))),
        answer=invalid('firstAvailable[1]: Duplicate value: "a"'),
    ),
    Case(
        name="claim option without name",
        body=claim(one_of(option(""))),
        answer=invalid('firstAvailable[0].name: Invalid value: "": a lowercase RFC 1123 label'),
    ),
    Case(
        name="claim constraint on nothing",
        body=claim(request(), constraints=[{"requests": ["gpu"]}]),
        answer=invalid("spec.devices.constraints[0]: Required value", "matchAttribute", "distinctAttribute"),
    ),
    Case(
        name="claim constraint without domain",
        body=claim(request(), constraints=[{"matchAttribute": "uuid"}]),
        answer=invalid(
            'constraints[0].matchAttribute: Invalid value: "uuid": a fully qualified name must be a domain and a name'
        ),
    ),
    Case(
        name="claim constraint on an unknown request",
        body=claim(request(), constraints=[{"requests": ["cpu"], "matchAttribute": "gpu.fracgpu.dev/a"}]),
        answer=invalid(
            'constraints[0].requests[0]: Invalid value: "cpu"', "must be the name of a request in the claim"
        ),
    ),
    Case(
        name="claim constraint names a request twice",
        body=claim(request(), constraints=[{"requests": ["gpu", "gpu"], "matchAttribute": "gpu.fracgpu.dev/a"}]),
        answer=invalid('constraints[0].requests[1]: Duplicate value: "gpu"'),
    ),
    Case(
        name="claim config of no kind",
        body=claim(request(), config=[{"requests": ["gpu"]}]),
        answer=invalid("spec.devices.config[0].opaque: Required value"),
    ),
    Case(
        name="claim config for an unknown request",
        body=claim(request(), config=[opaque({}, requests=["cpu"])]),
        answer=invalid('spec.devices.config[0].requests[0]: Invalid value: "cpu"'),
    ),
    Case(
        name="claim config without driver",
        body=claim(request(), config=[opaque({}, driver="")]),
        answer=invalid("spec.devices.config[0].opaque.driver: Required value"),
    ),
    Case(
        name="claim config without parameters",
        body=claim(request(), config=[opaque(None)]),
        answer=invalid("spec.devices.config[0].opaque.parameters: Required value"),
    ),
    Case(
        name="claim config of a list",
        body=claim(request(), config=[opaque([1])]),
        answer=invalid("spec.devices.config[0].opaque.parameters: Invalid value", "must be a valid JSON object"),
    ),
    Case(
        name="claim config too long",
        body=claim(request(), config=[opaque({"text": "x" * 10240})]),
        answer=invalid("opaque.parameters: Too long: may not be more than 10240 bytes"),
    ),
    Case(
        name="claim toleration operator",
        body=claim(request(tolerations=[{"key": "a", "operator": "Like"}])),
        answer=invalid('tolerations[0].operator: Unsupported value: "Like"', '"Equal", "Exists"'),
    ),
    Case(
        name="claim toleration effect",
        body=claim(request(tolerations=[{"key": "a", "effect": "Some"}])),
        answer=invalid('tolerations[0].effect: Unsupported value: "Some"'),
    ),
    Case(
        name="claim constraint of an identifier",
        body=claim(request(), constraints=[{"matchAttribute": "gpu.fracgpu.dev/product-name"}]),
        answer=invalid("constraints[0].matchAttribute: Invalid value", "a valid C identifier must start with"),
    ),
    Case(
        name="claim selector too long",
        body=claim(request(selectors=[{"cel": {"expression": "x" * 10241}}])),
        answer=invalid("exactly.selectors[0].cel.expression: Too long: may not be more than 10240 bytes"),
    ),
    Case(
        name="claim config driver",
        body=claim(request(), config=[opaque({}, driver="a_b")]),
        answer=invalid("spec.devices.config[0].opaque.driver: Invalid value"),
    ),
    Case(
        name="claim finalizer of no domain",
        body=claim(request(), metadata={"name": "bad-finalizer", "finalizers": ["one"]}),
        answer=invalid('metadata.finalizers[0]: Invalid value: "one"', "fully qualified"),
    ),
    Case(
        name="claim annotation name",
        body=claim(request(), metadata={"name": "bad-annotation", "annotations": {"a b": "c"}}),
        answer=invalid('metadata.annotations: Invalid value: "a b"'),
    ),
    Case(
        name="claim of a pod kind",
        body=claim(request()) | {"spec": ["a list"]},
        answer=Refused(400, "BadRequest", ("cannot unmarshal array into Go struct field",)),
    ),
    Case(
        name="claim without any name",
        body=claim(request(), metadata={"name": ""}),
        answer=invalid("metadata.name: Required value: name or generateName is required"),
    ),
    Case(
        name="claim bad name",
        body=claim(request(), metadata={"name": "Bad_Name"}),
        answer=invalid('metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain'),
    ),
    Case(
        name="claim bad label",
        body=claim(request(), metadata={"name": "bad-label", "labels": {"a": "b c"}}),
        answer=invalid('metadata.labels: Invalid value: "b c": a valid label must be an empty string'),
    ),
    Case(
        name="claim owner without uid",
        body=claim(
            request(),
            metadata={"name": "bad-owner", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a"}]},
        ),
        answer=invalid('metadata.ownerReferences.uid: Invalid value: "": must not be empty'),
    ),
    Case(
        name="claim with a version",
        body=claim(request(), metadata={"name": "with-version", "resourceVersion": "1"}),
        answer=Refused(500, "", ("resourceVersion should not be set on objects to be created",)),
    ),
    Case(
        name="claim of another kind",
        body=claim(request()) | {"apiVersion": "resource.k8s.io/v9"},
        answer=Refused(400, "BadRequest", ("resource.k8s.io/v9",)),
    ),
    Case(
        name="claim of another namespace",
        body=claim(request(), metadata={"name": "elsewhere", "namespace": "elsewhere"}),
        answer=Refused(
            400,
            "BadRequest",
            ("the namespace of the provided object does not match the namespace sent on the request",),
        ),
    ),
    Case(
        name="claim dry run of an invalid one",
        body=claim(request("GPU")),
        query="?dryRun=All",
        answer=invalid("spec.devices.requests[0].name"),
    ),
)
