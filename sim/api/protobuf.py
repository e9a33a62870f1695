"""ResourceClaims in protobuf, the form in which opaque parameters keep the bytes that are stored.

JSON cannot promise that, so a driver needs this way for claims that were written with spaces. The
conversion walks the message descriptors of fracgpu.proto: names there are JSON's, and the few types that are written
differently in JSON are named below. Like Go, it writes numbers and texts that are no pointers even when they are
empty, and leaves them out of JSON again.

Source: k8s.io/apimachinery/pkg/runtime/serializer/protobuf and k8s.io/api/resource/v1 of Kubernetes 1.36.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from fracgpu.proto.resource.v1 import generated_pb2 as messages
from fracgpu.sim.api.errors import bad_request
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.rawjson import RawJson, dumps

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\0"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FRACTION: Final = re.compile(r"\.(\d+)")
# Pointers in Go: absent is not the same as empty. Messages always are, as far as JSON can tell.
_POINTERS: Final = frozenset(
    {
        ("ObjectMeta", "deletionGracePeriodSeconds"),
        ("OwnerReference", "controller"),
        ("OwnerReference", "blockOwnerDeletion"),
        ("ExactDeviceRequest", "adminAccess"),
        ("DeviceToleration", "tolerationSeconds"),
        ("DeviceConstraint", "matchAttribute"),
        ("DeviceConstraint", "distinctAttribute"),
        ("DeviceRequestAllocationResult", "adminAccess"),
        ("DeviceRequestAllocationResult", "shareID"),
        ("AllocatedDeviceStatus", "shareID"),
    }
)
# No pointers, but JSON has them even when they are empty (no omitempty).
_ALWAYS_IN_JSON: Final = frozenset({("Condition", "reason"), ("Condition", "message"), ("Condition", "status")})


def encode_claim(obj: JsonObject) -> bytes:
    """Return a stored ResourceClaim as the body of an answer: magic number, envelope, object."""
    claim = messages.ResourceClaim()
    _fill(claim, {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")})
    return _envelope(str(obj["apiVersion"]), str(obj["kind"]), claim.SerializeToString())


def decode_claim(body: bytes) -> JsonObject:
    """Return the object in a protobuf body; its opaque parameters are the bytes sent. Raises ApiError 400."""
    if not body.startswith(_MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix 0x6b, 0x38, 0x73")
    try:
        envelope = messages.Unknown.FromString(body[len(_MAGIC) :])
        claim = messages.ResourceClaim.FromString(envelope.raw)
        tree = _tree(claim)
    except (DecodeError, ValueError, OverflowError) as error:
        raise bad_request(f"unable to decode protobuf: {error}") from error
    kind = {"apiVersion": envelope.typeMeta.apiVersion, "kind": envelope.typeMeta.kind}
    return {key: value for key, value in kind.items() if value} | tree


def encode_status(status: JsonObject) -> bytes:
    """Return a metav1.Status in protobuf: a client that asks for protobuf gets its errors in it too."""
    raw = b"".join(
        _field(number, str(status.get(key, "")).encode())
        for number, key in ((2, "status"), (3, "message"), (4, "reason"))
    )
    return _envelope("v1", "Status", raw + b"\x30" + _varint(int(status.get("code", 0))))


def _envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    meta = messages.TypeMeta(apiVersion=api_version, kind=kind)
    return _MAGIC + messages.Unknown(typeMeta=meta, raw=raw).SerializeToString()


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(number: int) -> bytes:
    head, rest = number & 127, number >> 7
    return bytes([head | 128]) + _varint(rest) if rest else bytes([head])


# ---- JSON -> protobuf ----


def _fill(message: Any, tree: JsonObject) -> None:
    """Set the fields of a message from a JSON object whose members are known ones (sim/api/schema.py)."""
    kind: Descriptor = message.DESCRIPTOR
    for field in kind.fields:
        if field.name == "deviceConfiguration":
            # Inlined in JSON: its members stand beside those of the holder.
            _fill(message.deviceConfiguration, {"opaque": tree["opaque"]} if "opaque" in tree else {})
        elif field.name in tree:
            _set(message, field, tree[field.name])
        elif _is_go_value(kind, field):
            setattr(message, field.name, field.default_value)


def _is_go_value(kind: Descriptor, field: FieldDescriptor) -> bool:
    scalar = not field.is_repeated and field.message_type is None
    return scalar and (kind.name, field.name) not in _POINTERS | _ALWAYS_IN_JSON


def _set(message: Any, field: FieldDescriptor, value: Any) -> None:
    target = getattr(message, field.name)
    if _is_map(field):
        for key, item in value.items():
            if _holds_messages(field):
                _set_message(target[key], item)
            else:
                target[key] = item
    elif field.is_repeated and field.message_type is not None:
        for item in value:
            _set_message(target.add(), item)
    elif field.is_repeated:
        target.extend(value)
    elif field.message_type is not None:
        target.SetInParent()
        _set_message(target, value)
    else:
        setattr(message, field.name, value)


def _set_message(message: Any, value: Any) -> None:
    name = message.DESCRIPTOR.name
    if name == "Quantity":
        message.string = str(value)
    elif name == "Time":
        message.seconds, message.nanos = _moment(value)
    elif name == "RawExtension":
        message.raw = value.text.encode() if isinstance(value, RawJson) else dumps(value)
    elif name == "FieldsV1":
        message.Raw = dumps(value)
    else:
        _fill(message, value)


def _moment(text: str) -> tuple[int, int]:
    # metav1.Time has whole seconds; a fraction that a client sent is lost here as it is there.
    moment = datetime.fromisoformat(_FRACTION.sub("", text).replace("Z", "+00:00"))
    return int((moment - _EPOCH).total_seconds()), 0


# ---- protobuf -> JSON ----


def _tree(message: Any) -> JsonObject:
    kind: Descriptor = message.DESCRIPTOR
    tree: JsonObject = {}
    for field, value in message.ListFields():
        if field.name == "deviceConfiguration":
            tree |= _tree(value)
        elif _is_go_value(kind, field) and value == field.default_value:
            continue
        else:
            tree[field.name] = _value(field, value)
    return tree


def _value(field: FieldDescriptor, value: Any) -> Any:
    if _is_map(field):
        return {key: _message_value(value[key]) if _holds_messages(field) else value[key] for key in value}
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    return [_message_value(item) for item in value] if field.is_repeated else _message_value(value)


def _message_value(message: Any) -> Any:
    name = message.DESCRIPTOR.name
    if name == "Quantity":
        return message.string
    if name == "Time":
        return (_EPOCH + timedelta(seconds=message.seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    if name == "RawExtension":
        return RawJson(message.raw.decode())
    if name == "AllocatedDeviceStatus":
        return _device_status(message)
    if name == "FieldsV1":
        return json.loads(message.Raw)
    return _tree(message)


def _device_status(message: Any) -> JsonObject:
    """`data` is raw JSON as well, but nothing compares its bytes, so the store has it decoded."""
    tree = _tree(message)
    if isinstance(tree.get("data"), RawJson):
        try:
            tree["data"] = tree["data"].value()
        except ValueError:
            # Stays a text: validation refuses what is no JSON object, with the field's name.
            tree["data"] = tree["data"].text
    return tree


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _holds_messages(field: FieldDescriptor) -> bool:
    """Tell whether the values of a map are messages."""
    entry = field.message_type
    return entry is not None and entry.fields_by_name["value"].message_type is not None
