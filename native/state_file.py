"""The state file: what the processes of one allocation have charged, as the host sees it.

A container may write anything into its state file, and may cut it short at any moment. The host therefore reads it
once with pread, never through a mapping (a truncated mapping kills its reader), checks every number that steers
the reading, clamps every number that it passes on, and takes a process for alive only when the kernel says that the
lock of its slot is held.
"""

import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fracgpu.native import abi
from fracgpu.native.device_uuid import uuid_bytes, uuid_text
from fracgpu.native.errors import StateFileInvalid

# As many as the interceptor accepts: what is read at once stays below 17 MB, whatever the header says.
_MAX_SLOTS: Final = 4096
_MAX_STRIDE_BYTES: Final = 4096
_STRIDE_UNIT_BYTES: Final = 64
_MAX_HEADER_BYTES: Final = 65536
# No real amount of memory reaches this; two amounts of each of _MAX_SLOTS slots add up to less than 2^63 (int64).
_CLAMP: Final = 2**48
_COUNTER_CLAMP: Final = 2**63 - 1
# struct flock of 64-bit Linux: type, whence, start, length, pid (which must be 0 for OFD commands).
_FLOCK: Final = struct.Struct("@hhqqi4x")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSnapshot:
    """One live process: its pid in its own pid namespace, when it started (clock ticks), and its bytes by kind."""

    index: int
    pid: int
    start_time_ticks: int
    pid_namespace_inode: int
    generation: int
    committed_bytes: int
    pending_bytes: int
    overhead_bytes: int
    pool_bytes: int
    managed_bytes: int
    host_pinned_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSnapshot:
    """One reading of a state file. All amounts are bytes and clamped to what a machine can hold.

    `slots_used` is how many slots have ever been taken, by what the container says: 0 means that no process has joined
    the allocation yet.
    """

    device_uuid: str
    used_bytes: int
    peak_bytes: int
    refusals: int
    last_refusal_ns: int
    last_refused_bytes: int
    reaped_slots: int
    slot_count: int
    slots_used: int
    processes: tuple[SlotSnapshot, ...]


def new_state_file(device_uuid: str) -> bytes:
    """Return the content of a fresh state file for the GPU `device_uuid` (text form): no slot taken, all counters 0.

    Raises DeviceUuidInvalid.
    """
    raw: Any = abi.ffi.new("struct fracgpu_state_header *")
    raw.magic = abi.STATE_MAGIC
    raw.abi_version = abi.ABI_VERSION
    raw.header_bytes = abi.STATE_HEADER_BYTES
    raw.slot_count = abi.SLOT_COUNT
    raw.slot_stride_bytes = abi.SLOT_STRIDE_BYTES
    raw.device_uuid = uuid_bytes(device_uuid)
    return bytes(abi.ffi.buffer(raw)).ljust(abi.STATE_FILE_BYTES, b"\0")


def read_state_file(path: Path) -> StateSnapshot:
    """Read the state file at `path` and ask the kernel which of its slots are held.

    Raises StateFileInvalid naming what is wrong when the file can not be a state file of this ABI version: missing, not
    a regular file, cut short or grown, not readable, bad magic, impossible sizes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StateFileInvalid(f"state file {path}", f"can not be opened: {error.strerror}") from error
    try:
        return _read(path, descriptor)
    except OSError as error:
        raise StateFileInvalid(f"state file {path}", f"can not be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read(path: Path, descriptor: int) -> StateSnapshot:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise StateFileInvalid(f"state file {path}", "is not a regular file")
    header = _read_header(path, os.pread(descriptor, abi.ffi.sizeof("struct fracgpu_state_header"), 0))
    expected = header.header_bytes + header.slot_count * header.slot_stride_bytes
    if status.st_size != expected:
        raise StateFileInvalid(f"state file {path}", f"is {status.st_size} bytes long, its header says {expected}")
    slots = os.pread(descriptor, expected - header.header_bytes, header.header_bytes)
    if len(slots) != expected - header.header_bytes:
        raise StateFileInvalid(f"state file {path}", "was cut short while it was read")
    processes = _live_slots(descriptor, header, slots)
    return StateSnapshot(
        device_uuid=uuid_text(bytes(header.device_uuid)),
        used_bytes=sum(slot.committed_bytes + slot.overhead_bytes for slot in processes),
        peak_bytes=min(header.peak_bytes, _CLAMP),
        refusals=min(header.refusals, _COUNTER_CLAMP),
        last_refusal_ns=min(header.last_refusal_ns, _COUNTER_CLAMP),
        last_refused_bytes=min(header.last_refused_bytes, _CLAMP),
        reaped_slots=min(header.reaped_slots, _COUNTER_CLAMP),
        slot_count=header.slot_count,
        slots_used=min(header.slot_high_water, header.slot_count),
        processes=processes,
    )


def _read_header(path: Path, data: bytes) -> Any:
    name = f"state file {path}"
    if len(data) != abi.ffi.sizeof("struct fracgpu_state_header"):
        raise StateFileInvalid(name, f"is {len(data)} bytes long, too short for a header")
    owner = abi.ffi.new("struct fracgpu_state_header *")
    abi.ffi.buffer(owner)[:] = data
    header: Any = owner
    if header.magic != abi.STATE_MAGIC:
        raise StateFileInvalid(name, f"magic {header.magic:#018x}, expected {abi.STATE_MAGIC:#018x}")
    if header.abi_version != abi.ABI_VERSION:
        raise StateFileInvalid(name, f"ABI version {header.abi_version}, expected {abi.ABI_VERSION}")
    if not len(data) <= header.header_bytes <= _MAX_HEADER_BYTES:
        raise StateFileInvalid(name, f"header of {header.header_bytes} bytes")
    stride = header.slot_stride_bytes
    if stride % _STRIDE_UNIT_BYTES or not abi.SLOT_STRIDE_BYTES <= stride <= _MAX_STRIDE_BYTES:
        raise StateFileInvalid(name, f"slots of {stride} bytes")
    if not 1 <= header.slot_count <= _MAX_SLOTS:
        raise StateFileInvalid(name, f"{header.slot_count} slots")
    return header


def _live_slots(descriptor: int, header: Any, slots: bytes) -> tuple[SlotSnapshot, ...]:
    # The high-water mark only speeds up the interceptor's scans. Here it is a number that a container could
    # lower to hide its slots, so every slot is looked at.
    stride = header.slot_stride_bytes
    states = memoryview(slots).cast("I")[:: stride // 4]
    return tuple(
        _slot(index, slots[index * stride : index * stride + abi.SLOT_STRIDE_BYTES])
        for index, state in enumerate(states)
        if state == abi.SLOT_LIVE and _is_locked(descriptor, header.header_bytes + index * stride)
    )


def _slot(index: int, data: bytes) -> SlotSnapshot:
    raw: Any = abi.ffi.from_buffer("struct fracgpu_slot *", data)
    return SlotSnapshot(
        index=index,
        pid=raw.pid,
        start_time_ticks=min(raw.start_time_ticks, _COUNTER_CLAMP),
        pid_namespace_inode=min(raw.pid_namespace_inode, _COUNTER_CLAMP),
        generation=min(raw.generation, _COUNTER_CLAMP),
        committed_bytes=_amount(raw.committed_bytes),
        pending_bytes=_amount(raw.pending_bytes),
        overhead_bytes=_amount(raw.overhead_bytes),
        pool_bytes=_amount(raw.pool_bytes),
        managed_bytes=_amount(raw.managed_bytes),
        host_pinned_bytes=_amount(raw.host_pinned_bytes),
    )


def _amount(counter: int) -> int:
    # A thread may take away what another one is about to add: below zero, for a moment, is nothing.
    return 0 if counter > _COUNTER_CLAMP else min(counter, _CLAMP)


def _is_locked(descriptor: int, offset: int) -> bool:
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, request)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
