"""A ResourceClaim through our protobuf form and back: what it is for is that nothing changes on the way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.proto.resource.v1 import generated_pb2 as resource

# As a Python client with default json.dumps would have stored it: spaces, unsorted, and a float that Go rewrites.
PARAMETERS = b'{"kind": "FractionConfig",  "apiVersion": "gpu.fracgpu.dev/v1alpha1", "memory": "8Gi", "x": 1.0}'


def varint(number: int) -> bytes:
    head, rest = number & 127, number >> 7
    return bytes([head | 128]) + varint(rest) if rest else bytes([head])


def field(number: int, payload: bytes) -> bytes:
    """Encode one length-delimited field by hand."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def opaque() -> bytes:
    return field(1, field(1, b"gpu.fracgpu.dev") + field(2, field(1, PARAMETERS)))


SPEC = field(
    1,
    field(
        1,
        field(1, b"gpu")
        + field(2, field(1, b"gpu.fracgpu.dev") + field(7, field(1, field(1, b"memory") + field(2, field(1, b"8Gi"))))),
    )
    + field(3, field(1, b"gpu") + field(2, opaque())),
)
RESULT = (
    field(1, b"gpu")
    + field(2, b"gpu.fracgpu.dev")
    + field(3, b"n1")
    + field(4, b"gpu-8f2c1a00")
    + field(9, b"0b9d5a5e-3f6e-4c0c-9a0e-5a8f4f1d2c3b")
    + field(10, field(1, b"memory") + field(2, field(1, b"8Gi")))
)
STATUS = field(
    1,
    field(1, field(1, RESULT) + field(2, field(1, b"FromClaim") + field(2, b"gpu") + field(3, opaque())))
    + field(3, field(1, field(2, field(1, b"metadata.name") + field(2, b"In") + field(3, b"n1"))))
    + field(5, b"\x08\x80\xcc\xd5\xca\x06"),
)
METADATA = field(1, b"a") + field(3, b"ns") + field(5, b"uid") + field(14, b"resource.kubernetes.io/delete-protection")
CLAIM = field(1, METADATA) + field(2, SPEC) + field(3, STATUS)


def test_golden_bytes_are_read_as_the_claim_they_are() -> None:
    claim = resource.ResourceClaim.FromString(CLAIM)
    assert (claim.metadata.name, claim.metadata.namespace, claim.metadata.uid) == ("a", "ns", "uid")
    assert list(claim.metadata.finalizers) == ["resource.kubernetes.io/delete-protection"]
    (request,) = claim.spec.devices.requests
    assert request.exactly.capacity.requests["memory"].string == "8Gi"
    (config,) = claim.spec.devices.config
    assert config.deviceConfiguration.opaque.parameters.raw == PARAMETERS
    (result,) = claim.status.allocation.devices.results
    assert (result.pool, result.device, result.shareID[:8]) == ("n1", "gpu-8f2c1a00", "0b9d5a5e")
    assert result.consumedCapacity["memory"].string == "8Gi"
    (granted,) = claim.status.allocation.devices.config
    assert (granted.source, list(granted.requests)) == ("FromClaim", ["gpu"])
    assert granted.deviceConfiguration.opaque.parameters.raw == PARAMETERS
    (term,) = claim.status.allocation.nodeSelector.nodeSelectorTerms
    assert list(term.matchFields[0].values) == ["n1"]
    assert claim.status.allocation.allocationTimestamp.seconds == 1767204352
    assert claim.SerializeToString() == CLAIM


@pytest.mark.parametrize(
    "path",
    ["", "metadata", "spec", "spec.devices", "status", "status.allocation", "status.allocation.devices"],
    ids=lambda path: path or "claim",
)
def test_fields_that_we_do_not_know_survive(path: str) -> None:
    unknown = field(200, b"from a newer API server")
    claim = resource.ResourceClaim.FromString(CLAIM)
    part = claim
    for name in filter(None, path.split(".")):
        part = getattr(part, name)
    part.MergeFromString(unknown)
    stored = claim.SerializeToString()
    assert unknown in stored
    again = resource.ResourceClaim.FromString(stored)
    again.status.devices.add(driver="gpu.fracgpu.dev", pool="n1", device="gpu-8f2c1a00")
    written = again.SerializeToString()
    assert unknown in written
    del again.status.devices[:]
    assert again.SerializeToString() == stored


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_opaque_bytes_are_never_touched_by_a_status_write(in_spec: bytes, in_allocation: bytes) -> None:
    claim = resource.ResourceClaim()
    claim.spec.devices.config.add().deviceConfiguration.opaque.parameters.raw = in_spec
    claim.status.allocation.devices.config.add().deviceConfiguration.opaque.parameters.raw = in_allocation
    before = claim.spec.SerializeToString()
    again = resource.ResourceClaim.FromString(claim.SerializeToString())
    again.status.devices.add(driver="gpu.fracgpu.dev").data.raw = b"{}"
    final = resource.ResourceClaim.FromString(again.SerializeToString())
    assert final.spec.SerializeToString() == before
    assert final.spec.devices.config[0].deviceConfiguration.opaque.parameters.raw == in_spec
    assert final.status.allocation.devices.config[0].deviceConfiguration.opaque.parameters.raw == in_allocation


def test_presence_survives() -> None:
    """Go writes zero values of fields that are not pointers; they must come back as they were."""
    stored = field(1, field(1, b"a") + field(2, b"") + b"\x38\x00")
    claim = resource.ResourceClaim.FromString(stored)
    assert claim.metadata.HasField("generateName")
    assert claim.metadata.HasField("generation")
    assert not claim.metadata.HasField("namespace")
    assert claim.SerializeToString() == stored


def test_the_envelope() -> None:
    envelope = resource.Unknown(
        typeMeta=resource.TypeMeta(apiVersion="resource.k8s.io/v1", kind="ResourceClaim"), raw=CLAIM
    )
    encoded = envelope.SerializeToString()
    assert encoded.startswith(b"\x0a\x23\x0a\x12resource.k8s.io/v1\x12\x0dResourceClaim\x12")
    assert resource.Unknown.FromString(encoded).raw == CLAIM
