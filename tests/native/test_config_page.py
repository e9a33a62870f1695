"""Config pages: what the host writes, and what it refuses to write or to believe."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.native import abi
from fracgpu.native.config_page import ConfigPage, UtilizationView, decode_config_page, encode_config_page
from fracgpu.native.errors import ConfigPageInvalid

UUID = "GPU-11111111-2222-3333-4444-555555555555"
PAGE = ConfigPage(
    allocation_id="uid-gpu-gpu-11111111-0", device_uuid=UUID, memory_limit_bytes=3 << 30, cores_percent=30
)

pages = st.builds(
    ConfigPage,
    allocation_id=st.from_regex(r"[a-z0-9-]{1,255}", fullmatch=True),
    device_uuid=st.just(UUID),
    memory_limit_bytes=st.none() | st.integers(1, 2**64 - 2),
    cores_percent=st.integers(0, 100),
    generation=st.integers(0, 2**63 - 1).map(lambda value: value * 2),
    suspend=st.booleans(),
    observe=st.booleans(),
    count_overhead=st.booleans(),
    utilization_view=st.sampled_from(UtilizationView),
)


@given(pages)
def test_page_reads_back(page: ConfigPage) -> None:
    data = encode_config_page(page)
    assert len(data) == 4096 + 4096 + 1024 * 32
    assert decode_config_page(data) == page


def test_file_of_an_older_host_has_no_feedback_section() -> None:
    older = bytearray(encode_config_page(PAGE)[:4096])
    struct.pack_into("<3I", older, 56, 0, 0, 0)
    assert decode_config_page(bytes(older)) == PAGE


def test_unknown_utilization_view_is_the_slice() -> None:
    assert decode_config_page(patched(64, "<I", 7)).utilization_view is UtilizationView.SLICE


def test_page_starts_with_its_magic_and_pads_with_zeros() -> None:
    data = encode_config_page(PAGE)
    assert data.startswith(b"FRACCFG1")
    assert not any(data[abi.CONFIG_BYTES : abi.CONFIG_FILE_BYTES])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"allocation_id": ""}, "allocation id"),
        ({"allocation_id": "x" * 256}, "allocation id"),
        ({"allocation_id": "ä"}, "allocation id"),
        ({"allocation_id": "a\nb"}, "allocation id"),
        ({"device_uuid": "gpu-0"}, "device UUID"),
        ({"memory_limit_bytes": 0}, "memory limit 0"),
        ({"memory_limit_bytes": -1}, "memory limit -1"),
        ({"memory_limit_bytes": 2**64 - 1}, "memory limit"),
        ({"cores_percent": 101}, "cores 101"),
        ({"cores_percent": -1}, "cores -1"),
        ({"generation": 3}, "generation 3"),
        ({"generation": 2**64}, "generation"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_unenforceable_page_is_not_written(change: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigPageInvalid, match=what):
        encode_config_page(replace(PAGE, **change))  # type: ignore[arg-type]


def patched(offset: int, layout: str, value: object) -> bytes:
    data = bytearray(encode_config_page(PAGE))
    struct.pack_into(layout, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "0 bytes"),
        (encode_config_page(PAGE)[:4095], "4095 bytes"),
        (patched(0, "<Q", 0), "magic"),
        (patched(8, "<I", 2), "ABI version 2"),
        (patched(12, "<I", 8), "header of 8 bytes"),
        (patched(12, "<I", 4097), "header of 4097 bytes"),
        (patched(16, "<Q", 3), "generation 3"),
        (patched(40, "<Q", 0), "memory limit 0"),
        (patched(48, "<I", 101), "cores 101"),
        (patched(120, "256s", b"\0"), "allocation id"),
        (patched(120, "256s", b"x" * 256), "terminating NUL"),
        (patched(120, "256s", b"\xff"), "ASCII"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_damaged_page_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(ConfigPageInvalid, match=what) as caught:
        decode_config_page(data)
    assert str(caught.value).endswith("let the node plugin prepare the claim again")


def test_later_writers_may_append_fields_and_flags() -> None:
    data = bytearray(patched(12, "<I", abi.CONFIG_BYTES + 64))
    struct.pack_into("<I", data, 52, 1 << 31)
    assert decode_config_page(bytes(data)) == PAGE
