"""What may be written to the status of a ResourceClaim: allocation, consumers, reports about devices; and deletion."""

from __future__ import annotations

from typing import Any, Final

from fracgpu.sim.node.api import Json
from tests.scenarios.api_bodies import claim, invalid, one_of, opaque, option, patch, put, request
from tests.scenarios.api_case import MERGE, Case, Refused, Stored, Then

SHARE: Final = "0c4c7b7e-6a0e-4a8f-9f0e-1f3b8f0c2d11"
_POOL: Final = "no-such-node"
_ON_NODE: Final = {
    "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [_POOL]}]}]
}
_POD: Final = {"resource": "pods", "name": "nobody", "uid": "5f1ffb07-5b0d-4b9c-9d52-6a0b8f0f3d10"}
# Deallocation leaves the claim alone when nothing marks it as allocated by the cluster.
_CLAIM: Final = claim(request())


def result(**members: Any) -> Json:
    """Return one result of an allocation."""
    return {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": _POOL, "device": "gpu-0"} | members


def allocation(*results: Json, **members: Any) -> Json:
    """Return an allocation on one node."""
    return {"devices": {"results": list(results), **members.pop("devices", {})}, "nodeSelector": _ON_NODE} | members


def report(**members: Any) -> Json:
    """Return a report about the device of `result`."""
    return {"driver": "gpu.fracgpu.dev", "pool": _POOL, "device": "gpu-0"} | members


def condition(**members: Any) -> Json:
    """Return a condition of a device."""
    return {
        "type": "Ready",
        "status": "True",
        "reason": "Fine",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    } | members


def write(**status: Any) -> Then:
    """Return a PUT of members of the status."""

    def edit(obj: Json) -> None:
        obj["status"] = obj.get("status", {}) | status

    return put(edit, subresource="status")


def _relabel(obj: Json) -> None:
    obj["metadata"]["labels"] = {"a": "b"}
    obj["metadata"]["finalizers"] = ["example.com/one"]
    obj["spec"]["devices"]["requests"] = []
    obj["status"] = {"allocation": allocation(result())}


def _case(name: str, *steps: Then, answer: Refused | Stored, body: Json = _CLAIM) -> Case:
    return Case(name=f"status {name}", body=body, then=steps, answer=answer)


_ALLOCATE: Final = write(allocation=allocation(result()))
_ALLOCATE_SHARE: Final = write(
    allocation=allocation(result(shareID=SHARE, consumedCapacity={"memory": "8192Mi", "cores": 30}))
)

ALLOCATION: Final = (
    _case(
        "allocation of an unknown device",
        _ALLOCATE,
        answer=Stored(
            {"status.allocation.devices.results[0].device": "gpu-0", "status.allocation.nodeSelector": _ON_NODE},
            absent=("status.allocation.allocationTimestamp", "status.allocation.devices.results[0].shareID"),
        ),
    ),
    _case(
        "allocation of a share",
        _ALLOCATE_SHARE,
        answer=Stored(
            {"status.allocation.devices.results[0].consumedCapacity": {"memory": "8Gi", "cores": "30"}},
        ),
    ),
    _case(
        "allocation of more than was asked for",
        write(allocation=allocation(result(), result())),
        answer=Stored({"status.allocation.devices.results[1].device": "gpu-0"}),
    ),
    _case(
        "put changes nothing else",
        put(_relabel, subresource="status"),
        patch({}),
        answer=Stored(
            {"spec.devices.requests[0].name": "gpu", "status.allocation.devices.results[0].pool": _POOL},
            absent=("metadata.labels", "metadata.finalizers"),
        ),
    ),
    _case(
        "allocation for a subrequest",
        write(allocation=allocation(result(request="gpu/small"))),
        body=claim(one_of(option("large"), option("small"))),
        answer=Stored({"status.allocation.devices.results[0].request": "gpu/small"}),
    ),
    _case(
        "allocation for an unknown request",
        write(allocation=allocation(result(request="cpu"))),
        answer=invalid(
            'status.allocation.devices.results[0].request: Invalid value: "cpu"', "must be the name of a request"
        ),
    ),
    _case(
        "allocation without driver",
        write(allocation=allocation(result(driver=""))),
        answer=invalid("status.allocation.devices.results[0].driver: Required value"),
    ),
    _case(
        "allocation without pool",
        write(allocation=allocation(result(pool=""))),
        answer=invalid("status.allocation.devices.results[0].pool: Required value"),
    ),
    _case(
        "allocation of a pool of no name",
        write(allocation=allocation(result(pool="a//b"))),
        answer=invalid("status.allocation.devices.results[0].pool: Invalid value"),
    ),
    _case(
        "allocation of a device of no name",
        write(allocation=allocation(result(device="GPU_0"))),
        answer=invalid('status.allocation.devices.results[0].device: Invalid value: "GPU_0"'),
    ),
    _case(
        "allocation of a share of no id",
        write(allocation=allocation(result(shareID="ABC"))),
        answer=invalid('results[0].shareID: Invalid value: "ABC": error validating uid: invalid UUID length: 3'),
    ),
    _case(
        "allocation of a share in capitals",
        write(allocation=allocation(result(shareID=SHARE.upper()))),
        answer=invalid("results[0].shareID: Invalid value", "RFC 4122"),
    ),
    _case(
        "allocation of any capacity",
        write(allocation=allocation(result(shareID=SHARE, consumedCapacity={"mem-ory": "1"}))),
        answer=Stored({"status.allocation.devices.results[0].consumedCapacity": {"mem-ory": "1"}}),
    ),
    _case(
        "allocation of one share twice",
        write(allocation=allocation(result(shareID=SHARE), result(shareID=SHARE))),
        answer=Stored({"status.allocation.devices.results[1].shareID": SHARE}),
    ),
    _case(
        "allocation on no node",
        write(allocation=allocation(result(), nodeSelector={"nodeSelectorTerms": []})),
        answer=invalid("status.allocation.nodeSelector.nodeSelectorTerms: Required value"),
    ),
    _case(
        "allocation by another field",
        write(
            allocation=allocation(
                result(),
                nodeSelector={
                    "nodeSelectorTerms": [{"matchFields": [{"key": "spec.a", "operator": "In", "values": ["b"]}]}]
                },
            )
        ),
        answer=invalid("matchFields[0].key: Invalid value"),
    ),
    _case(
        "allocation with config",
        write(allocation=allocation(result(), devices={"config": [{"source": "FromClass", **opaque({"a": 1})}]})),
        answer=Stored({"status.allocation.devices.config[0].opaque.parameters": {"a": 1}}),
    ),
    _case(
        "allocation with config of no source",
        write(allocation=allocation(result(), devices={"config": [opaque({"a": 1})]})),
        answer=invalid("status.allocation.devices.config[0].source: Required value"),
    ),
    _case(
        "allocation with config of another source",
        write(allocation=allocation(result(), devices={"config": [{"source": "FromMe", **opaque({})}]})),
        answer=invalid('config[0].source: Unsupported value: "FromMe"', '"FromClaim", "FromClass"'),
    ),
    _case(
        "allocation is immutable",
        _ALLOCATE,
        write(allocation=allocation(result(device="gpu-1"))),
        answer=invalid("status.allocation: Invalid value", "field is immutable"),
    ),
    _case(
        "allocation timestamp cannot come later",
        _ALLOCATE,
        write(allocation=allocation(result(), allocationTimestamp="2026-01-01T00:00:00Z")),
        answer=invalid("status.allocation: Invalid value", "field is immutable"),
    ),
    _case("allocation is removed", _ALLOCATE, write(allocation=None), answer=Stored({"status": {}})),
    _case(
        "allocation by merge patch",
        patch({"status": {"allocation": allocation(result())}}, subresource="status"),
        answer=Stored({"status.allocation.devices.results[0].device": "gpu-0"}),
    ),
)

CONSUMERS: Final = (
    _case(
        "consumer without allocation",
        write(reservedFor=[_POD]),
        answer=invalid("status.reservedFor: Forbidden: may not be specified when `allocated` is not set"),
    ),
    _case(
        "consumer without uid",
        write(allocation=allocation(result()), reservedFor=[{"resource": "pods", "name": "a", "uid": ""}]),
        answer=invalid("status.reservedFor[0].uid: Required value"),
    ),
    _case(
        "consumer of no kind",
        write(allocation=allocation(result()), reservedFor=[{"name": "a", "resource": "", "uid": "b"}]),
        answer=invalid("status.reservedFor[0].resource: Required value"),
    ),
    _case(
        "consumer twice",
        write(allocation=allocation(result()), reservedFor=[_POD, _POD]),
        answer=invalid("status.reservedFor[1]: Duplicate value"),
    ),
)

REPORTS: Final = (
    _case(
        "report",
        _ALLOCATE,
        write(devices=[report(conditions=[condition()], data={"a": [1]})]),
        answer=Stored({"status.devices[0].conditions[0].type": "Ready", "status.devices[0].data": {"a": [1]}}),
    ),
    _case(
        "report about a share",
        _ALLOCATE_SHARE,
        write(devices=[report(shareID=SHARE)]),
        answer=Stored({"status.devices[0].shareID": SHARE}),
    ),
    _case(
        "report about a share that names none",
        _ALLOCATE_SHARE,
        write(devices=[report()]),
        answer=invalid("status.devices[0]: Invalid value", "must be an allocated device in the claim"),
    ),
    _case(
        "report about another device",
        _ALLOCATE,
        write(devices=[report(device="gpu-1")]),
        answer=invalid("status.devices[0]: Invalid value", "must be an allocated device in the claim"),
    ),
    _case(
        "report twice",
        _ALLOCATE,
        write(devices=[report(), report()]),
        answer=invalid("status.devices[1]", "Duplicate value"),
    ),
    _case(
        "report in nine conditions",
        _ALLOCATE,
        write(devices=[report(conditions=[condition(type=f"Type{number}") for number in range(9)])]),
        answer=invalid("status.devices[0].conditions: Too many: 9: must have at most 8 items"),
    ),
    _case(
        "report in two conditions of one type",
        _ALLOCATE,
        write(devices=[report(conditions=[condition(), condition()])]),
        answer=invalid("status.devices[0].conditions[1]", "Duplicate value"),
    ),
    _case(
        "report with a condition of no truth",
        _ALLOCATE,
        write(devices=[report(conditions=[condition(status="Perhaps")])]),
        answer=invalid('status.devices[0].conditions[0].status: Unsupported value: "Perhaps"'),
    ),
    _case(
        "report with a condition of no reason",
        _ALLOCATE,
        write(devices=[report(conditions=[condition(reason="")])]),
        answer=invalid("status.devices[0].conditions[0].reason: Required value"),
    ),
    _case(
        "report with a condition of a bad reason",
        _ALLOCATE,
        write(devices=[report(conditions=[condition(reason="not a word")])]),
        answer=invalid('status.devices[0].conditions[0].reason: Invalid value: "not a word"'),
    ),
    _case(
        "report of a text",
        _ALLOCATE,
        write(devices=[report(data="text")]),
        answer=invalid("status.devices[0].data: Invalid value", "must be a valid JSON object"),
    ),
    _case(
        "report too long",
        _ALLOCATE,
        write(devices=[report(data={"text": "x" * 10240})]),
        answer=invalid("status.devices[0].data: Too long: may not be more than 10240 bytes"),
    ),
    _case(
        "report goes with the allocation",
        _ALLOCATE,
        write(devices=[report()]),
        write(allocation=None),
        answer=Stored({"status": {}}),
    ),
    _case(
        "report by merge patch",
        _ALLOCATE,
        patch({"status": {"devices": [report(data={"b": 1, "a": 2})]}}, MERGE, subresource="status"),
        answer=Stored({"status.devices[0].data": {"a": 2, "b": 1}}),
    ),
)


def _delete(**options: Any) -> Then:
    return Then(method="DELETE", edit=lambda _: {"kind": "DeleteOptions", "apiVersion": "v1"} | options)


DELETION: Final = (
    _case(
        "deleted claim is answered",
        _delete(),
        answer=Stored({"kind": "ResourceClaim", "spec.devices.requests[0].name": "gpu"}),
    ),
    _case(
        "deletion of another uid",
        _delete(preconditions={"uid": "b6a1cb6e-6e5c-4f8e-8d2a-3b1b62c7c7a1"}),
        answer=Refused(409, "Conflict", ("the UID in the precondition",)),
    ),
    _case(
        "deletion of another version",
        _delete(preconditions={"resourceVersion": "1"}),
        answer=Refused(409, "Conflict", ("ResourceVersion in the precondition",)),
    ),
    _case(
        "deletion waits for finalizers",
        _delete(),
        patch({}),
        body=claim(request(), metadata={"finalizers": ["example.com/one"]}),
        answer=Stored({"metadata.finalizers": ["example.com/one"], "metadata.deletionGracePeriodSeconds": 0}),
    ),
    _case(
        "no new finalizer after deletion",
        _delete(),
        patch({"metadata": {"finalizers": ["example.com/one", "example.com/two"]}}),
        body=claim(request(), metadata={"finalizers": ["example.com/one"]}),
        answer=invalid("metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted"),
    ),
    _case(
        "allocation after deletion",
        _delete(),
        _ALLOCATE,
        body=claim(request(), metadata={"finalizers": ["example.com/one"]}),
        answer=Stored({"status.allocation.devices.results[0].device": "gpu-0"}),
    ),
    _case(
        "no new consumer after deletion",
        _ALLOCATE,
        _delete(),
        write(reservedFor=[_POD]),
        body=claim(request(), metadata={"finalizers": ["example.com/one"]}),
        answer=invalid("status.reservedFor: Forbidden: new entries may not be added"),
    ),
    _case(
        "deletion twice",
        _delete(),
        Then(method="GET", edit=lambda _: None),
        answer=Refused(404, "NotFound", ('resourceclaims.resource.k8s.io "status-deletion-twice" not found',)),
    ),
)
