"""The config page: one allocation's limits, written by the host and read by the interceptor.

The page is the only place a container's limit comes from, so both directions are strict: what can not be
enforced is refused when it is encoded, and what an interceptor would refuse is refused when it is decoded.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from fracgpu.native import abi
from fracgpu.native.device_uuid import uuid_bytes, uuid_text
from fracgpu.native.errors import ConfigPageInvalid, DeviceUuidInvalid

_MAX_CORES_PERCENT: Final = 100


class UtilizationView(IntEnum):
    """In percent of what programs are told their own use of the GPU: of their share of it, or of the whole device."""

    SLICE = abi.UTILIZATION_SLICE
    DEVICE = abi.UTILIZATION_DEVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigPage:
    """The content of one config page.

    device_uuid is the text form (`GPU-...`). memory_limit_bytes None means no limit. cores_percent is 0 (no cap) or
    1..100 percent of one GPU. generation is even, and grows by two with each change; an odd one marks a write in
    progress. observe means: account, never refuse. suspend means: hold new work until it is cleared. count_overhead
    False means: contexts, modules and what else only the driver sees are not charged.
    """

    allocation_id: str
    device_uuid: str
    memory_limit_bytes: int | None
    cores_percent: int
    generation: int = 2
    suspend: bool = False
    observe: bool = False
    count_overhead: bool = True
    utilization_view: UtilizationView = UtilizationView.SLICE


def encode_config_page(page: ConfigPage) -> bytes:
    """Return the bytes of the config file for `page`: the page, padded with zeros, and a feedback section that says
    nothing yet (fracgpu.native.feedback writes it).

    Raises ConfigPageInvalid for values that the interceptor could not enforce.
    """
    _check(page)
    try:
        uuid = uuid_bytes(page.device_uuid)
    except DeviceUuidInvalid as error:
        raise _invalid(page.allocation_id, str(error)) from error
    raw: Any = abi.ffi.new("struct fracgpu_config *")
    raw.magic = abi.CONFIG_MAGIC
    raw.abi_version = abi.ABI_VERSION
    raw.header_bytes = abi.CONFIG_BYTES
    raw.generation = page.generation
    raw.device_uuid = uuid
    raw.memory_limit_bytes = abi.NO_LIMIT if page.memory_limit_bytes is None else page.memory_limit_bytes
    raw.cores_percent = page.cores_percent
    raw.flags = (
        (abi.FLAG_SUSPEND if page.suspend else 0)
        | (abi.FLAG_OBSERVE if page.observe else 0)
        | (0 if page.count_overhead else abi.FLAG_IGNORE_OVERHEAD)
    )
    raw.feedback_offset_bytes = abi.FEEDBACK_OFFSET_BYTES
    raw.feedback_slot_count = abi.SLOT_COUNT
    raw.utilization_view = page.utilization_view
    raw.allocation_id = page.allocation_id.encode("ascii")
    head = bytes(abi.ffi.buffer(raw)).ljust(abi.FEEDBACK_OFFSET_BYTES, b"\0")
    return (head + _silent_feedback()).ljust(abi.CONFIG_FILE_WITH_FEEDBACK_BYTES, b"\0")


def decode_config_page(data: bytes) -> ConfigPage:
    """Return what the config file content `data` says.

    Raises ConfigPageInvalid naming what is wrong: length, magic, version, size of the header, an odd generation, or a
    value out of range. Accepts exactly the pages that the interceptor accepts, those of older hosts included, which
    have no feedback section.
    """
    if len(data) < abi.CONFIG_FILE_BYTES:
        raise _invalid("", f"{len(data)} bytes long, expected {abi.CONFIG_FILE_BYTES}")
    raw: Any = abi.ffi.from_buffer("struct fracgpu_config *", data)
    if raw.magic != abi.CONFIG_MAGIC:
        raise _invalid("", f"magic {raw.magic:#018x}, expected {abi.CONFIG_MAGIC:#018x}")
    if raw.abi_version != abi.ABI_VERSION:
        raise _invalid("", f"ABI version {raw.abi_version}, expected {abi.ABI_VERSION}")
    if not abi.CONFIG_BYTES <= raw.header_bytes <= abi.CONFIG_FILE_BYTES:
        raise _invalid("", f"header of {raw.header_bytes} bytes, expected at least {abi.CONFIG_BYTES}")
    page = ConfigPage(
        allocation_id=_allocation_id(bytes(abi.ffi.buffer(raw.allocation_id))),
        device_uuid=uuid_text(bytes(raw.device_uuid)),
        memory_limit_bytes=None if raw.memory_limit_bytes == abi.NO_LIMIT else raw.memory_limit_bytes,
        cores_percent=raw.cores_percent,
        generation=raw.generation,
        suspend=bool(raw.flags & abi.FLAG_SUSPEND),
        observe=bool(raw.flags & abi.FLAG_OBSERVE),
        count_overhead=not raw.flags & abi.FLAG_IGNORE_OVERHEAD,
        utilization_view=_view(raw.utilization_view),
    )
    _check(page)
    return page


def _silent_feedback() -> bytes:
    header: Any = abi.ffi.new("struct fracgpu_feedback_header *")
    header.slot_stride_bytes = abi.FEEDBACK_STRIDE_BYTES
    header.slot_count = abi.SLOT_COUNT
    return bytes(abi.ffi.buffer(header))


def _view(value: int) -> UtilizationView:
    # A later host may know more views; what this version shows then is the slice.
    return UtilizationView.DEVICE if value == abi.UTILIZATION_DEVICE else UtilizationView.SLICE


def _allocation_id(field: bytes) -> str:
    text, terminator, _ = field.partition(b"\0")
    if not terminator:
        raise _invalid("", "allocation id without a terminating NUL")
    try:
        return text.decode("ascii")
    except UnicodeDecodeError as error:
        raise _invalid("", "allocation id is not ASCII") from error


def _check(page: ConfigPage) -> None:
    name = page.allocation_id
    if not name or not name.isascii() or not name.isprintable() or len(name) >= abi.ALLOCATION_ID_BYTES:
        raise _invalid(name, f"allocation id must be 1..{abi.ALLOCATION_ID_BYTES - 1} printable ASCII characters")
    if page.memory_limit_bytes is not None and not 0 < page.memory_limit_bytes < abi.NO_LIMIT:
        raise _invalid(name, f"memory limit {page.memory_limit_bytes} bytes is outside 1..2^64-2")
    if not 0 <= page.cores_percent <= _MAX_CORES_PERCENT:
        raise _invalid(name, f"cores {page.cores_percent} percent is outside 0..{_MAX_CORES_PERCENT}")
    if page.generation % 2 or not 0 <= page.generation < 2**64:
        raise _invalid(name, f"generation {page.generation} is odd or out of range")


def _invalid(allocation_id: str, what: str) -> ConfigPageInvalid:
    return ConfigPageInvalid(f"config page {allocation_id}".rstrip(), what)
