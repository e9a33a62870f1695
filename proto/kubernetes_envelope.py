"""The protobuf form in which the API server sends and takes a ResourceClaim: four magic bytes, an envelope, the claim.

Source: k8s.io/apimachinery/pkg/runtime/serializer/protobuf.
"""

from typing import Final

from google.protobuf.message import DecodeError

from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim, TypeMeta, Unknown

PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
"""The media type."""
_MAGIC: Final = b"k8s\0"


def wrap_claim(claim: ResourceClaim) -> bytes:
    """Return the body of a request."""
    kind = TypeMeta(apiVersion="resource.k8s.io/v1", kind="ResourceClaim")
    return _MAGIC + Unknown(typeMeta=kind, raw=claim.SerializeToString()).SerializeToString()


def unwrap_claim(content: bytes) -> ResourceClaim:
    """Return the claim in an answer. Raises ValueError, which says what it is instead."""
    if not content.startswith(_MAGIC):
        raise ValueError("the answer is no protobuf")
    try:
        return ResourceClaim.FromString(Unknown.FromString(content[len(_MAGIC) :]).raw)
    except DecodeError as error:
        raise ValueError(f"the answer is no ResourceClaim: {error}") from error
