"""ResourceClaims in protobuf: nothing is lost on the way, and the raw-bytes trap is as it is in a real cluster."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracgpu.proto.resource.v1 import generated_pb2 as messages
from fracgpu.sim.api.errors import ApiError
from fracgpu.sim.api.protobuf import MEDIA_TYPE, decode_claim, encode_claim
from fracgpu.sim.api.rawjson import RawJson
from fracgpu.sim.api.resources import RESOURCE_CLAIMS
from fracgpu.sim.api.schema import decode

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
MERGE = "application/merge-patch+json"
PROTO = {"Accept": MEDIA_TYPE, "Content_Type": MEDIA_TYPE}

STORED = {
    "sorted and compact": b'{"a":1,"b":"x"}',
    "unsorted": b'{"b":"x","a":1}',
    "spaces": b'{"a": 1, "b": "x"}',
    "float": b'{"a":1.0,"b":"x"}',
    "exponent": b'{"a":1e3,"b":"x"}',
    "not ascii": '{"a":1,"b":"é"}'.encode(),
    "angle as sent by kubectl": rb'{"a":1,"b":"\u003c"}',
    "angle": b'{"a":1,"b":"<"}',
}

TEXT = st.text("abcxyz-./é", min_size=1, max_size=8)
PLAIN = st.dictionaries(TEXT, st.integers(-5, 5) | st.booleans() | TEXT, max_size=3)
LEAVES: dict[str, Any] = {
    "Time": st.datetimes(datetime(1970, 1, 1), datetime(2300, 1, 1)).map(
        lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    ),
    "Quantity": st.sampled_from(["8Gi", "3000Mi", "100", "1k", "500m", "0"]),
    "FieldsV1": PLAIN,
}
RAW = st.sampled_from([RawJson(text.decode()) for text in STORED.values()])


def members_of(kind: Any) -> Any:
    """Make JSON objects with any choice of the fields of a message: never an empty one where Go has no pointer."""
    members: dict[str, Any] = {}
    for field in kind.fields:
        if field.name == "deviceConfiguration":
            members["opaque"] = members_of(messages.OpaqueDeviceConfiguration.DESCRIPTOR)
        else:
            members[field.name] = values_of(kind, field)
    return st.fixed_dictionaries({}, optional=members)


def values_of(kind: Any, field: Any) -> Any:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        value = inner.fields_by_name["value"]
        return st.dictionaries(TEXT, values_of(inner, value), min_size=1, max_size=2)
    if inner is None:
        scalar = {field.TYPE_STRING: TEXT, field.TYPE_BOOL: st.booleans()}.get(field.type, st.integers(1, 2**31))
    elif inner.name == "RawExtension":
        scalar = RAW if kind.name == "OpaqueDeviceConfiguration" else PLAIN
    else:
        scalar = LEAVES[inner.name] if inner.name in LEAVES else members_of(inner)
    return st.lists(scalar, min_size=1, max_size=2) if field.is_repeated else scalar


TREES = members_of(messages.ResourceClaim.DESCRIPTOR).map(
    lambda tree: {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", **tree}
)


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_nothing_is_lost_and_the_names_are_those_of_kubernetes(tree: dict[str, Any]) -> None:
    assert decode_claim(encode_claim(tree)) == tree
    # The official client's models know the members by the same names.
    decode(RESOURCE_CLAIMS, tree, strict=True)


def create(raw: Any, parameters: bytes) -> None:
    body = (
        b'{"metadata":{"name":"c"},"spec":{"devices":{"requests":[{"name":"gpu","exactly":{"deviceClassName":"k"}}],'
        b'"config":[{"opaque":{"driver":"gpu.fracgpu.dev","parameters":%s}}]}}}' % parameters
    )
    assert raw("POST", CLAIMS, body).code == 201


def allocate(raw: Any, allocation: dict[str, Any], parameters: bytes) -> None:
    """As the scheduler does: over protobuf, with the parameters as they are stored."""
    claim = read(raw)
    status = {"allocation": allocation}
    filled = messages.ResourceClaim.FromString(
        envelope(encode_claim({"apiVersion": "", "kind": "", "status": status})).raw
    )
    entry = filled.status.allocation.devices.config.add(source="FromClaim")
    entry.deviceConfiguration.opaque.driver = "gpu.fracgpu.dev"
    entry.deviceConfiguration.opaque.parameters.raw = parameters
    claim.status.CopyFrom(filled.status)
    assert write(raw, claim, "/status").code == 200


def envelope(content: bytes) -> messages.Unknown:
    assert content.startswith(b"k8s\0")
    return messages.Unknown.FromString(content[4:])


def read(raw: Any) -> messages.ResourceClaim:
    answer = raw("GET", f"{CLAIMS}/c", Accept=MEDIA_TYPE)
    assert answer.code == 200
    unknown = envelope(answer.raw)
    assert (unknown.typeMeta.apiVersion, unknown.typeMeta.kind) == ("resource.k8s.io/v1", "ResourceClaim")
    return messages.ResourceClaim.FromString(unknown.raw)


def write(raw: Any, claim: messages.ResourceClaim, part: str = "") -> Any:
    meta = messages.TypeMeta(apiVersion="resource.k8s.io/v1", kind="ResourceClaim")
    body = b"k8s\0" + messages.Unknown(typeMeta=meta, raw=claim.SerializeToString()).SerializeToString()
    return raw("PUT", f"{CLAIMS}/c{part}", body, **PROTO)


def add_status(raw: Any, way: str) -> Any:
    """Write one entry of status.devices, as a driver does, in one of the ways that there are."""
    entry = {"driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-1", "data": {"limit": 5}}
    if way == "merge patch":
        return raw("PATCH", f"{CLAIMS}/c/status", {"status": {"devices": [entry]}}, Content_Type=MERGE)
    if way == "protobuf":
        claim = read(raw)
        claim.status.devices.add(driver="gpu.fracgpu.dev", pool="n1", device="gpu-1").data.raw = b'{"limit": 5}'
        return write(raw, claim, "/status")
    seen = raw("GET", f"{CLAIMS}/c").body
    seen["status"]["devices"] = [entry]
    return raw(
        "PUT",
        f"{CLAIMS}/c/status",
        json.dumps(seen, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(),
    )


# What a JSON client that encodes canonically may still write. Protobuf always may.
CANONICAL_PUT = {"sorted and compact", "not ascii", "float", "angle"}
MERGE_PATCH = {"sorted and compact", "not ascii", "float", "unsorted", "exponent", "angle as sent by kubectl"}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("way", ["GET+PUT", "merge patch", "protobuf"])
def test_matrix_of_stored_parameters_and_ways_to_write_a_status(
    raw: Any, make_allocation: Any, stored: str, way: str
) -> None:
    create(raw, STORED[stored])
    allocate(raw, make_allocation(), STORED[stored])
    answer = add_status(raw, way)
    allowed = {"GET+PUT": CANONICAL_PUT, "merge patch": MERGE_PATCH, "protobuf": set(STORED)}[way]
    if stored not in allowed:
        assert answer.code == 422
        assert answer.causes[0].startswith("status.allocation: ")
        assert answer.causes[0].endswith("field is immutable")
    else:
        assert answer.code == 200
        (device,) = raw("GET", f"{CLAIMS}/c").body["status"]["devices"]
        assert device["data"] == {"limit": 5}
    after = read(raw)
    in_spec, in_allocation = after.spec.devices.config[0], after.status.allocation.devices.config[0]
    assert in_spec.deviceConfiguration.opaque.parameters.raw == STORED[stored]
    assert in_allocation.deviceConfiguration.opaque.parameters.raw == STORED[stored]


@pytest.mark.parametrize("stored", STORED)
def test_the_main_resource_can_be_written_over_protobuf(raw: Any, stored: str) -> None:
    create(raw, STORED[stored])
    claim = read(raw)
    claim.metadata.finalizers.append("example.com/f")
    assert write(raw, claim).code == 200
    assert raw("GET", f"{CLAIMS}/c").body["metadata"]["finalizers"] == ["example.com/f"]
    assert read(raw).spec.devices.config[0].deviceConfiguration.opaque.parameters.raw == STORED[stored]


def test_one_space_more_is_a_change(raw: Any) -> None:
    create(raw, STORED["sorted and compact"])
    claim = read(raw)
    claim.spec.devices.config[0].deviceConfiguration.opaque.parameters.raw += b" "
    answer = write(raw, claim)
    assert answer.code == 422
    # A client that asks for protobuf gets its errors in it too.
    status = envelope(answer.raw)
    assert (status.typeMeta.apiVersion, status.typeMeta.kind) == ("v1", "Status")
    assert b"field is immutable" in status.raw
    assert b"Invalid" in status.raw


def test_a_stale_version_is_a_conflict(raw: Any) -> None:
    create(raw, STORED["spaces"])
    claim = read(raw)
    claim.metadata.labels["a"] = "b"
    assert write(raw, claim).code == 200
    claim.metadata.labels["a"] = "c"
    assert write(raw, claim).code == 409


def test_values_that_are_no_pointers_in_go_are_written_empty_and_not_stored(raw: Any) -> None:
    create(raw, STORED["spaces"])
    claim = read(raw)
    assert claim.metadata.HasField("generateName")
    assert claim.metadata.HasField("generation")
    assert not claim.spec.devices.requests[0].exactly.HasField("adminAccess")
    before = raw("GET", f"{CLAIMS}/c").body
    assert write(raw, claim).code == 200
    assert raw("GET", f"{CLAIMS}/c").body == before
    assert "generateName" not in before["metadata"]


def test_parameters_that_are_no_json_are_refused_by_name(raw: Any, make_allocation: Any) -> None:
    create(raw, STORED["spaces"])
    claim = read(raw)
    claim.status.allocation.devices.config.add(source="FromClaim").deviceConfiguration.opaque.parameters.raw = b"{"
    answer = write(raw, claim, "/status")
    assert answer.code == 422
    assert b"status.allocation.devices.config[0].opaque.parameters" in answer.raw


@pytest.mark.parametrize("data", [b"[1]", b"{", b"5"])
def test_data_of_a_device_must_be_an_object(raw: Any, make_allocation: Any, data: bytes) -> None:
    create(raw, STORED["spaces"])
    allocate(raw, make_allocation(), STORED["spaces"])
    claim = read(raw)
    claim.status.devices.add(driver="gpu.fracgpu.dev", pool="n1", device="gpu-1").data.raw = data
    answer = write(raw, claim, "/status")
    assert (answer.code, b"status.devices[0].data" in answer.raw) == (422, True)


@pytest.mark.parametrize("body", [b"", b"k8s\0\xff", b'{"kind":"ResourceClaim"}', b"k8s\0\x12\x01\xff"])
def test_what_is_no_protobuf_is_a_bad_request(raw: Any, body: bytes) -> None:
    create(raw, STORED["spaces"])
    assert raw("PUT", f"{CLAIMS}/c", body, Content_Type=MEDIA_TYPE).code == 400
    with pytest.raises(ApiError):
        decode_claim(body)


@pytest.mark.parametrize("path", [CLAIMS, "/api/v1/nodes", f"{CLAIMS}/c?watch=1"])
def test_only_single_claims_have_a_protobuf_form(raw: Any, path: str) -> None:
    assert raw("GET", path, Accept=MEDIA_TYPE).code == 406
    assert raw("GET", CLAIMS, Accept=f"{MEDIA_TYPE}, application/json").body["kind"] == "ResourceClaimList"


def test_other_resources_take_no_protobuf(raw: Any) -> None:
    assert raw("POST", "/api/v1/nodes", b"k8s\0", Content_Type=MEDIA_TYPE).code == 415
    assert raw("POST", CLAIMS, b"k8s\0", Content_Type=MEDIA_TYPE).code == 415


def test_a_time_that_is_none_never_gets_into_the_store(raw: Any, make_claim: Any, make_allocation: Any) -> None:
    stored = raw("POST", CLAIMS, make_claim()).body
    allocation = make_allocation() | {"allocationTimestamp": "2026-13-45T00:00:00Z"}
    assert raw("PUT", f"{CLAIMS}/c/status", stored | {"status": {"allocation": allocation}}).code == 400
    precise = make_allocation() | {"allocationTimestamp": "2026-01-02T03:04:05.678901+01:00"}
    assert raw("PUT", f"{CLAIMS}/c/status", stored | {"status": {"allocation": precise}}).code == 200
    assert read(raw).status.allocation.allocationTimestamp.seconds == 1767319445
