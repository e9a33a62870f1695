"""The modelled machine: a file that stands for the GPUs of a node, for tests and the demo.

The fake libcuda and libnvidia-ml of `native/fake` find it through FRACGPU_FAKE_GPU. This module makes such files and
reads them as an omniscient observer: what every living process holds, and the most a GPU ever held, which is how a
test proves that a limit was never exceeded, not even between two looks.

The C header `fake/machine_layout.h` is the only description of the file; cffi reads the marked part of it.
"""

import fcntl
import os
import re
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cffi

from fracgpu.native.device_uuid import uuid_bytes, uuid_text
from fracgpu.native.errors import NativeError

MIB: Final = 1 << 20
MACHINE_ENV: Final = "FRACGPU_FAKE_GPU"
VISIBLE_ENV: Final = "FRACGPU_FAKE_VISIBLE"
DEVICES_ENV: Final = "FRACGPU_FAKE_DEVICES"
LAYOUT_HEADER: Final = Path(__file__).parent / "fake" / "machine_layout.h"

_MAGIC: Final = b"FAKEGPU1"
_PCI_BUS_ID: Final = re.compile(r"([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.0")
_COMPUTE_CAPABILITY: Final = re.compile(r"([0-9]{1,2})\.([0-9])")
_BRAND_NVIDIA: Final = 14
# nvmlDeviceArchitecture_t by compute capability, newest first.
_ARCHITECTURES: Final = (((10, 0), 10), ((9, 0), 9), ((8, 9), 8), ((8, 0), 7), ((7, 5), 6), ((7, 0), 5), ((6, 0), 4))
_ARCHITECTURE_MAXWELL: Final = 3
# struct flock of 64-bit Linux: type, whence, start, length, pid (which must be 0 for OFD commands).
_FLOCK: Final = struct.Struct("@hhqqi4x")


class FakeMachineInvalid(NativeError):
    """A modelled machine can not be made as described, or a file is not one."""

    default_remedy = "make the machine anew with create_machine"


class FakeMachineInUse(NativeError):
    """A modelled machine can not be restarted under the processes that hold its memory."""

    default_remedy = "end these processes first"


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeGpuSpec:
    """One modelled GPU.

    `memory_bytes` is what NVML calls total; `reserved_bytes` of it belong to the driver and can not be allocated;
    each context of a process costs `context_bytes` (real ones cost 150 to 600 MiB; the default is deliberately small so
    that small modelled GPUs hold many processes). `minor` is the number in /dev/nvidia<minor>.
    """

    uuid: str
    memory_bytes: int
    name: str = "NVIDIA H200"
    minor: int = 0
    pci_bus_id: str = "0000:01:00.0"
    compute_capability: str = "9.0"
    multiprocessors: int = 132
    context_bytes: int = 64 * MIB
    reserved_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeProcessUsage:
    """Bytes that one living process holds on one GPU, contexts included; `pid` in its own pid namespace."""

    pid: int
    used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeGpuUsage:
    """One GPU at one moment; `peak_used_bytes` is the most it held since the machine was made or reset_peak.

    Memory that several processes hold counts once, with the process that made it or another that holds it; memory that
    only a file descriptor holds is in `used_bytes` and with no process.
    """

    uuid: str
    minor: int
    memory_bytes: int
    used_bytes: int
    peak_used_bytes: int
    processes: tuple[FakeProcessUsage, ...]


def _load_layout() -> cffi.FFI:
    parts = re.findall(
        r"/\* LAYOUT-BEGIN \*/\n(.*?)/\* LAYOUT-END \*/", LAYOUT_HEADER.read_text(encoding="ascii"), flags=re.DOTALL
    )
    if len(parts) != 1:
        raise ValueError(f"{LAYOUT_HEADER}: {len(parts)} marked parts, expected one; restore the LAYOUT markers")
    ffi = cffi.FFI()
    ffi.cdef(parts[0])
    return ffi


ffi: Final = _load_layout()
_SIZES: Final[dict[str, int]] = dict(ffi.typeof("enum fake_layout").relements)
_GPUS_OFFSET: Final = _SIZES["FAKE_HEADER_BYTES"]
_SLOTS_OFFSET: Final = _GPUS_OFFSET + _SIZES["FAKE_GPU_COUNT_MAX"] * _SIZES["FAKE_GPU_BYTES"]
_SHARED_OFFSET: Final = _SLOTS_OFFSET + _SIZES["FAKE_SLOT_COUNT"] * _SIZES["FAKE_SLOT_BYTES"]
MACHINE_FILE_BYTES: Final = _SHARED_OFFSET + _SIZES["FAKE_SHARED_COUNT"] * _SIZES["FAKE_SHARED_BYTES"]


def create_machine(path: Path, specs: Sequence[FakeGpuSpec]) -> None:
    """Make the machine file `path` with these GPUs, in this order, replacing atomically one that is there.

    Whatever the umask, everybody may read and write the file, as it is with /dev/nvidia*: a process that uses a GPU
    writes its account there, and containers run under any uid. Processes on a replaced machine, and bind mounts of it,
    keep the old one. Raises FakeMachineInvalid naming the GPU and the field at fault, OSError when the directory can
    not be written.
    """
    if len(specs) > _SIZES["FAKE_GPU_COUNT_MAX"]:
        raise FakeMachineInvalid(f"machine {path}", f"has {len(specs)} GPUs, at most {_SIZES['FAKE_GPU_COUNT_MAX']}")
    for what in ("uuid", "minor", "pci_bus_id"):
        repeated = [value for value, count in Counter(getattr(spec, what) for spec in specs).items() if count > 1]
        if repeated:
            raise FakeMachineInvalid(f"machine {path}", f"has several GPUs with {what} {repeated[0]}")
    content = bytearray(MACHINE_FILE_BYTES)
    header: Any = ffi.new("struct fake_header *")
    header.magic = int.from_bytes(_MAGIC, "little")
    header.layout_version = _SIZES["FAKE_LAYOUT_VERSION"]
    header.gpu_count = len(specs)
    header.file_bytes = MACHINE_FILE_BYTES
    encoded = bytes(ffi.buffer(header))
    content[: len(encoded)] = encoded
    for index, spec in enumerate(specs):
        record = _encode_gpu(spec)
        offset = _GPUS_OFFSET + index * len(record)
        content[offset : offset + len(record)] = record
    _write_atomically(path, bytes(content))


def _encode_gpu(spec: FakeGpuSpec) -> bytes:
    pci, capability = _check_gpu(spec)
    raw: Any = ffi.new("struct fake_gpu *")
    raw.uuid = uuid_bytes(spec.uuid)
    raw.name = spec.name.encode()
    raw.memory_bytes = spec.memory_bytes
    raw.reserved_bytes = spec.reserved_bytes
    raw.context_bytes = spec.context_bytes
    raw.minor = spec.minor
    raw.pci_domain, raw.pci_bus, raw.pci_device = pci
    raw.compute_major, raw.compute_minor = capability
    raw.multiprocessors = spec.multiprocessors
    raw.brand = _BRAND_NVIDIA
    raw.persistence_mode = 1
    raw.architecture = next((code for since, code in _ARCHITECTURES if capability >= since), _ARCHITECTURE_MAXWELL)
    return bytes(ffi.buffer(raw))


def _check_gpu(spec: FakeGpuSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return PCI domain, bus, device and compute capability; raises FakeMachineInvalid for what no GPU has."""
    subject = f"modelled GPU {spec.uuid}"
    bus = _PCI_BUS_ID.fullmatch(spec.pci_bus_id)
    if bus is None:
        raise FakeMachineInvalid(subject, f"pci_bus_id {spec.pci_bus_id!r} is not of the form 0000:01:00.0")
    capability = _COMPUTE_CAPABILITY.fullmatch(spec.compute_capability)
    if capability is None:
        raise FakeMachineInvalid(subject, f"compute_capability {spec.compute_capability!r} is not of the form 9.0")
    name = spec.name.encode()
    if not 0 < len(name) < _SIZES["FAKE_NAME_BYTES"] or b"\0" in name:
        raise FakeMachineInvalid(subject, f"name of {len(name)} bytes, wants 1 to {_SIZES['FAKE_NAME_BYTES'] - 1}")
    if not 0 <= spec.reserved_bytes <= spec.memory_bytes < 2**56:
        raise FakeMachineInvalid(subject, f"memory_bytes {spec.memory_bytes}, reserved_bytes {spec.reserved_bytes}")
    if spec.context_bytes < 0 or not 0 <= spec.minor < 2**16 or not 0 < spec.multiprocessors < 2**16:
        raise FakeMachineInvalid(
            subject,
            f"context_bytes {spec.context_bytes}, minor {spec.minor}, multiprocessors {spec.multiprocessors}",
        )
    return (
        tuple(int(part, 16) for part in bus.groups()),
        tuple(int(part) for part in capability.groups()),
    )


def _write_atomically(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o666)
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_usage(path: Path) -> tuple[FakeGpuUsage, ...]:
    """Return what each GPU of the machine at `path` holds now, in the machine's order.

    Only processes count whose slot lock the kernel says is held. Raises FakeMachineInvalid.
    """
    descriptor = _open(path)
    try:
        return _read(path, descriptor)
    finally:
        os.close(descriptor)


def reboot_machine(path: Path) -> None:
    """Do to the machine at `path` what a reboot does: the same GPUs, and of what ran before nothing.

    No memory is held, high-water marks are 0, and a GPU that was lost is there again. The file stays the same one, so
    mounts of it need not be made again. Raises FakeMachineInUse when a living process still has an account (a reboot
    comes after the end of all processes), FakeMachineInvalid.
    """
    descriptor = _open(path)
    try:
        _lock(descriptor)
        gpus = _read(path, descriptor)
        content = os.pread(descriptor, MACHINE_FILE_BYTES, 0)
        pids = ", ".join(str(slot.pid) for slot in _living(descriptor, content).values())
        if pids:
            raise FakeMachineInUse(f"modelled machine {path}", f"is in use by {pids} (each in its own pid namespace)")
        for index in range(len(gpus)):
            _write_field(descriptor, index, "peak_used_bytes", 0)
            _write_field(descriptor, index, "lost", 0)
        os.pwrite(descriptor, bytes(MACHINE_FILE_BYTES - _SLOTS_OFFSET), _SLOTS_OFFSET)
    finally:
        os.close(descriptor)


def reset_peak(path: Path) -> None:
    """Set every GPU's high-water mark to what it holds now. Raises FakeMachineInvalid."""
    descriptor = _open(path)
    try:
        _lock(descriptor)
        for index, gpu in enumerate(_read(path, descriptor)):
            _write_field(descriptor, index, "peak_used_bytes", gpu.used_bytes)
    finally:
        os.close(descriptor)


def set_lost(path: Path, uuid: str, *, lost: bool) -> None:
    """Let the GPU with `uuid` fall off the bus of the machine at `path`, or come back, for all processes at once.

    libcuda's view does not change: what contexts on a lost GPU do is not modelled. Raises FakeMachineInvalid.
    """
    descriptor = _open(path)
    try:
        _write_field(descriptor, _index(path, descriptor, uuid), "lost", int(lost))
    finally:
        os.close(descriptor)


def set_activity(
    path: Path,
    pid: int,
    uuid: str,
    *,
    sm_percent: int = 0,
    memory_percent: int = 0,
    graphics: bool = False,
    mps: bool = False,
) -> None:
    """Say how busy living process `pid` (in its own pid namespace) keeps the GPU with `uuid`, and what NVML calls it.

    With `graphics` or `mps` NVML lists it among the graphics processes or the clients of an MPS server, too. It stays
    so until the process ends or this is called again. Raises FakeMachineInvalid.
    """
    descriptor = _open(path)
    try:
        _lock(descriptor)
        gpu = _index(path, descriptor, uuid)
        content = bytearray(os.pread(descriptor, MACHINE_FILE_BYTES, 0))
        slots: Any = ffi.cast("struct fake_slot *", ffi.from_buffer(content) + _SLOTS_OFFSET)
        found = [index for index in _living_slots(descriptor, slots) if slots[index].pid == pid]
        if not found:
            raise FakeMachineInvalid(f"process {pid}", f"uses no GPU of machine {path}")
        for index in found:
            slot = slots[index]
            slot.sm_percent[gpu], slot.memory_percent[gpu] = sm_percent, memory_percent
            slot.graphics_mask = slot.graphics_mask & ~(1 << gpu) | graphics << gpu
            slot.mps_mask = slot.mps_mask & ~(1 << gpu) | mps << gpu
            start = (
                _SLOTS_OFFSET + index * _SIZES["FAKE_SLOT_BYTES"] + ffi.offsetof("struct fake_slot", "graphics_mask")
            )
            end = _SLOTS_OFFSET + index * _SIZES["FAKE_SLOT_BYTES"] + ffi.offsetof("struct fake_slot", "reserved")
            os.pwrite(descriptor, content[start:end], start)
    finally:
        os.close(descriptor)


def set_video_activity(path: Path, uuid: str, *, encoder_percent: int, decoder_percent: int) -> None:
    """Say how busy the video engines of the GPU with `uuid` are, whoever uses them. Raises FakeMachineInvalid."""
    descriptor = _open(path)
    try:
        gpu = _index(path, descriptor, uuid)
        _write_field(descriptor, gpu, "encoder_percent", encoder_percent)
        _write_field(descriptor, gpu, "decoder_percent", decoder_percent)
    finally:
        os.close(descriptor)


def _index(path: Path, descriptor: int, uuid: str) -> int:
    uuids = [gpu.uuid for gpu in _read(path, descriptor)]
    if uuid not in uuids:
        raise FakeMachineInvalid(f"modelled GPU {uuid}", f"is not in machine {path}")
    return uuids.index(uuid)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise FakeMachineInvalid(f"modelled machine {path}", f"can not be opened: {error.strerror}") from error


def _lock(descriptor: int) -> None:
    """Wait for the lock of whoever changes accounts or high-water marks; it goes with the descriptor."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))


def _write_field(descriptor: int, index: int, name: str, value: int) -> None:
    field = dict(ffi.typeof("struct fake_gpu").fields)[name]
    offset = _GPUS_OFFSET + index * _SIZES["FAKE_GPU_BYTES"] + field.offset
    os.pwrite(descriptor, value.to_bytes(ffi.sizeof(field.type), sys.byteorder), offset)


def _read(path: Path, descriptor: int) -> tuple[FakeGpuUsage, ...]:
    content = os.pread(descriptor, MACHINE_FILE_BYTES + 1, 0)
    if len(content) != MACHINE_FILE_BYTES or not content.startswith(_MAGIC):
        raise FakeMachineInvalid(f"modelled machine {path}", f"{len(content)} bytes that are not a machine")
    header: Any = ffi.from_buffer("struct fake_header *", content)
    if header.layout_version != _SIZES["FAKE_LAYOUT_VERSION"] or header.gpu_count > _SIZES["FAKE_GPU_COUNT_MAX"]:
        raise FakeMachineInvalid(f"modelled machine {path}", f"layout version {header.layout_version}")
    gpus: Any = ffi.cast("struct fake_gpu *", ffi.from_buffer(content) + _GPUS_OFFSET)
    alive = _living(descriptor, content)
    shared = _shared(descriptor, content)
    return tuple(_usage(gpus[index], index, alive, shared) for index in range(header.gpu_count))


def _living(descriptor: int, content: bytes) -> dict[int, Any]:
    """Return the slots of living processes by index: pointers into `content`, which the caller keeps for as long."""
    slots: Any = ffi.cast("struct fake_slot *", ffi.from_buffer(content) + _SLOTS_OFFSET)
    return {index: slots[index] for index in _living_slots(descriptor, slots)}


def _living_slots(descriptor: int, slots: Any) -> list[int]:
    return [
        index
        for index in range(_SIZES["FAKE_SLOT_COUNT"])
        if slots[index].state and _is_held(descriptor, _SLOTS_OFFSET + index * _SIZES["FAKE_SLOT_BYTES"])
    ]


def _shared(descriptor: int, content: bytes) -> list[Any]:
    """Return the records of memory that several processes may hold and that somebody does hold."""
    header: Any = ffi.from_buffer("struct fake_header *", content)
    records: Any = ffi.cast("struct fake_shared *", ffi.from_buffer(content) + _SHARED_OFFSET)
    return [
        records[index]
        for index in range(min(header.shared_high_water, _SIZES["FAKE_SHARED_COUNT"]))
        if records[index].state and _is_held(descriptor, _SHARED_OFFSET + index * _SIZES["FAKE_SHARED_BYTES"])
    ]


def _holder(record: Any, alive: dict[int, Any]) -> int | None:
    """Return the slot that shared memory is shown with: its maker's, else any living holder's."""
    holders = [index for index in alive if record.holders[index // 8] >> index % 8 & 1]
    return record.owner if record.owner in holders else min(holders, default=None)


def _usage(gpu: Any, index: int, alive: dict[int, Any], shared: list[Any]) -> FakeGpuUsage:
    used = {slot: record.used_bytes[index] for slot, record in alive.items()}
    nobodys = 0
    for record in shared:
        if record.gpu != index:
            continue
        holder = _holder(record, alive)
        if holder is None:
            nobodys += record.bytes
        else:
            used[holder] += record.bytes
    return FakeGpuUsage(
        uuid=uuid_text(bytes(gpu.uuid)),
        minor=gpu.minor,
        memory_bytes=gpu.memory_bytes,
        used_bytes=sum(used.values()) + nobodys,
        peak_used_bytes=gpu.peak_used_bytes,
        processes=tuple(
            FakeProcessUsage(pid=alive[slot].pid, used_bytes=count) for slot, count in used.items() if count
        ),
    )


def _is_held(descriptor: int, offset: int) -> bool:
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
