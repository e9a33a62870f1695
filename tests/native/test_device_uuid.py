"""UUIDs in text and bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.native.device_uuid import uuid_bytes, uuid_text
from fracgpu.native.errors import DeviceUuidInvalid


@given(st.binary(min_size=16, max_size=16))
def test_text_form_reads_back(data: bytes) -> None:
    assert uuid_bytes(uuid_text(data)) == data


def test_bytes_stand_in_the_order_they_print() -> None:
    assert uuid_bytes("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f") == bytes(range(16))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GPU-",
        "00010203-0405-0607-0809-0a0b0c0d0e0f",
        "MIG-00010203-0405-0607-0809-0a0b0c0d0e0f",
        "GPU-00010203-0405-0607-0809-0a0b0c0d0e0",
        "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f ",
        "GPU-" + "0" * 36,
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DeviceUuidInvalid, match="nvidia-smi -L"):
        uuid_bytes(text)


def test_wrong_number_of_bytes_is_refused() -> None:
    with pytest.raises(DeviceUuidInvalid, match="15 bytes"):
        uuid_text(bytes(15))
