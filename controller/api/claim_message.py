"""Our two writes of a claim, made in the API server's protobuf form of it.

A claim whose creator wrote opaque parameters with spaces can not be updated over JSON: re-encoding them looks to the
API server like a change of an immutable field. In protobuf they are bytes that nobody touches. Here only what we write
is translated from JSON: finalizers, annotations, the allocation.

Source: k8s.io/api/resource/v1/generated.proto.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from google.protobuf import json_format

from fracgpu.driver.errors import ConfigInvalid, FracgpuError
from fracgpu.driver.kube.transport import encode
from fracgpu.driver.parameters import canonical_json
from fracgpu.proto.resource.v1.generated_pb2 import AllocationResult, ResourceClaim

Json = dict[str, Any]
_NANOS: Final = 1000


class NoMessage(FracgpuError):
    """An allocation has something that our protobuf description of it does not know."""


def update_metadata(message: ResourceClaim, claim: Json) -> None:
    """Give `message` the finalizers and annotations of `claim`."""
    metadata = claim["metadata"]
    message.metadata.finalizers[:] = metadata.get("finalizers") or []
    message.metadata.annotations.clear()
    message.metadata.annotations.update(metadata.get("annotations") or {})


def update_status(message: ResourceClaim, claim: Json) -> None:
    """Give `message` the allocation of `claim`, or take it away with all that hangs on it. Raises NoMessage.

    An allocation that is there already stays as it is, byte for byte: the API server would not let it change anyway.
    """
    allocation = (claim.get("status") or {}).get("allocation")
    if allocation is None:
        message.ClearField("status")
    elif not message.status.HasField("allocation"):
        message.status.allocation.CopyFrom(allocation_message(allocation))


def allocation_message(allocation: Json) -> AllocationResult:
    """Return status.allocation as protobuf. Raises NoMessage for a field that is not known here."""
    body = dict(allocation)
    if "allocationTimestamp" in body:
        body["allocationTimestamp"] = _time(body["allocationTimestamp"])
    if "devices" in body:
        devices = dict(body["devices"])
        devices["results"] = [_result(one) for one in devices.get("results") or ()]
        devices["config"] = [_config(one) for one in devices.get("config") or ()]
        body["devices"] = devices
    message = AllocationResult()
    try:
        json_format.ParseDict(body, message)
    except json_format.ParseError as error:
        remedy = "update fracgpu, or have claims written with canonical parameters"
        raise NoMessage("allocation", f"can not be written as protobuf: {error}", remedy=remedy) from error
    return message


def _result(result: Json) -> Json:
    consumed = result.get("consumedCapacity")
    if consumed is None:
        return result
    return {**result, "consumedCapacity": {name: {"string": str(amount)} for name, amount in consumed.items()}}


def _config(entry: Json) -> Json:
    # What JSON inlines has a field of its own in protobuf, and parameters are bytes there.
    outer = {name: value for name, value in entry.items() if name != "opaque"}
    opaque = entry.get("opaque")
    if opaque is None:
        return outer
    raw = base64.b64encode(_encoded(opaque.get("parameters") or {})).decode()
    return {**outer, "deviceConfiguration": {"opaque": {**opaque, "parameters": {"raw": raw}}}}


def _encoded(parameters: Mapping[str, Any]) -> bytes:
    try:
        return canonical_json(parameters)
    except ConfigInvalid:
        # Another driver's parameters may have fractions or null: valid all the same, and not ours to judge.
        return encode(dict(parameters))


def _time(text: str) -> Json:
    moment = datetime.fromisoformat(text)
    return {"seconds": str(int(moment.replace(microsecond=0).timestamp())), "nanos": moment.microsecond * _NANOS}
