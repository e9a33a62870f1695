import hashlib

import pytest

from fracgpu.driver.errors import NameInvalid
from fracgpu.driver.names import (
    allocation_env_key,
    allocation_env_value,
    allocation_id,
    base_request,
    cdi_device_id,
    device_name,
)

UID = "0b9d5a5e-3f6e-4c0c-9a0e-5a8f4f1d2c3b"
UUID = "GPU-8F2C1a00-1111-2222-3333-444455556666"
SHARE = "ABCDEF01-3f6e-4c0c-9a0e-5a8f4f1d2c3b"


def test_device_name_is_the_first_eight_hex_digits_in_lower_case() -> None:
    assert device_name(UUID) == "gpu-8f2c1a00"


@pytest.mark.parametrize(
    "uuid", ["", "8f2c1a00-1111-2222-3333-444455556666", "GPU-8f2c1a00", "MIG-8f2c1a00-1111-2222-3333-444455556666"]
)
def test_device_name_refuses_anything_but_a_gpu_uuid(uuid: str) -> None:
    with pytest.raises(NameInvalid, match="GPU-xxxxxxxx"):
        device_name(uuid)


@pytest.mark.parametrize(
    ("share_id", "ordinal", "last"),
    [(SHARE, 0, "abcdef01"), (SHARE, 7, "abcdef01"), (None, 0, "0"), (None, 12, "12")],
    ids=["share", "share-wins-over-ordinal", "ordinal-0", "ordinal-12"],
)
def test_allocation_id(share_id: str | None, ordinal: int, last: str) -> None:
    assert allocation_id(UID, "gpu", "gpu-8f2c1a00", share_id, ordinal) == f"{UID}-gpu-gpu-8f2c1a00-{last}"


def test_allocation_id_strips_the_subrequest() -> None:
    assert allocation_id(UID, "gpu/m44", "gpu-8f2c1a00", None, 0) == allocation_id(UID, "gpu", "gpu-8f2c1a00", None, 0)
    assert base_request("gpu/m44") == "gpu"


@pytest.mark.parametrize(
    ("uid", "request_name", "device", "share_id", "ordinal"),
    [
        ("", "gpu", "gpu-1", None, 0),
        (UID, "a b", "gpu-1", None, 0),
        (UID, "gpu", "../gpu", None, 0),
        (UID, "gpu", "gpu-1", "short", 0),
        (UID, "gpu", "gpu-1", None, -1),
    ],
    ids=["empty-uid", "space", "path", "share-not-uuid", "negative"],
)
def test_allocation_id_refuses_what_cdi_or_a_path_cannot_hold(
    uid: str, request_name: str, device: str, share_id: str | None, ordinal: int
) -> None:
    with pytest.raises(NameInvalid):
        allocation_id(uid, request_name, device, share_id, ordinal)


def test_cdi_id_and_environment() -> None:
    allocation = allocation_id(UID, "gpu", "gpu-8f2c1a00", None, 0)
    digest = hashlib.sha256(allocation.encode()).hexdigest()
    assert cdi_device_id(allocation) == f"gpu.fracgpu.dev/claim={allocation}"
    assert allocation_env_key(allocation) == f"FRACGPU_ALLOCATION_{digest[:16]}"
    assert allocation_env_value("gpu/m44", UUID, 3000, 30) == f"gpu {UUID} 3000Mi 30"
