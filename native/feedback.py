"""What the host tells the processes of an allocation: the feedback section of its config file.

Only the host can ask NVML about single processes, in numbers that mean something outside its containers. It writes what
it saw into the file that the containers have mounted read-only, in place, so that they see it at once. The section is
protected by a sequence number that is odd during a write; readers wait for nobody, and a writer that died in the middle
of a write is made good by the next one.
"""

import mmap
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fracgpu.native import abi
from fracgpu.native.errors import FeedbackUnwritable
from fracgpu.native.store_order import order_stores

FULL_BASIS_POINTS: Final = 10_000
_U64: Final = 2**64 - 1
_MAX_PEERS: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFeedback:
    """What the driver says of the process that holds slot `index` as its `generation`th owner.

    `sm_basis_points` and `memory_basis_points` are its shares of the device's time, in 1/100 percent.
    """

    index: int
    generation: int
    used_bytes: int
    host_pid: int
    sm_basis_points: int = 0
    memory_basis_points: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One observation of an allocation: shares of the device in basis points, and its live processes.

    `own_*` are this allocation's, `device_*` everybody's; `active_peers` counts the other processes that have work on
    the device. Not `utilization_measured`: nobody knows any of these numbers, and tools show N/A.
    """

    utilization_measured: bool = True
    own_utilization: int = 0
    own_memory_utilization: int = 0
    device_utilization: int = 0
    device_memory_utilization: int = 0
    active_peers: int = 0
    slots: tuple[SlotFeedback, ...] = field(default=())


class FeedbackWriter:
    """Writes the feedback section of one config file. One writer per file, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Map the section of the config file at `path`.

        Raises FeedbackUnwritable when the file is missing, has no feedback section (an older host made it) or has one
        of another shape.
        """
        self._name = f"feedback of {path}"
        descriptor = self._open(path)
        try:
            self._map = self._mapped(descriptor)
        except (OSError, ValueError) as error:
            raise FeedbackUnwritable(self._name, f"can not be mapped: {error}") from error
        finally:
            os.close(descriptor)
        # Through views, never through slices: each of these stores is one machine instruction.
        self._view: Any = abi.ffi.from_buffer(self._map)
        try:
            self._header, self._slots = self._find()
        except FeedbackUnwritable:
            self.close()
            raise
        self._known = self._find_known()

    def publish(self, feedback: Feedback, *, published_ns: int | None = None) -> None:
        """Replace what the section says. Slots that are not in `feedback` say nothing any more.

        `published_ns` is the CLOCK_MONOTONIC time of the observation, now if it is None.
        """
        header = self._header
        sequence = (header.sequence | 1) & _U64
        header.sequence = sequence
        order_stores()
        # If this fails the sequence stays odd, and there is no reading until the next publication.
        self._write(feedback)
        header.published_ns = time.monotonic_ns() if published_ns is None else published_ns
        order_stores()
        header.sequence = (sequence + 1) & _U64

    def close(self) -> None:
        """Give the mapping up; what was published stays."""
        if self._view is not None:
            self._header = self._slots = None
            abi.ffi.release(self._view)
            self._view = None
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise FeedbackUnwritable(self._name, f"can not be opened: {error.strerror}") from error

    def _mapped(self, descriptor: int) -> mmap.mmap:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size < abi.CONFIG_FILE_WITH_FEEDBACK_BYTES:
            raise ValueError("it has no feedback section")
        return mmap.mmap(descriptor, abi.CONFIG_FILE_WITH_FEEDBACK_BYTES, mmap.MAP_SHARED)

    def _find(self) -> tuple[Any, Any]:
        cast = abi.ffi.cast
        config: Any = cast("struct fracgpu_config *", self._view)
        place = (config.magic, config.feedback_offset_bytes, config.feedback_slot_count)
        if place != (abi.CONFIG_MAGIC, abi.FEEDBACK_OFFSET_BYTES, abi.SLOT_COUNT):
            raise FeedbackUnwritable(self._name, "is not where this version puts it")
        start: Any = cast("char *", self._view) + abi.FEEDBACK_OFFSET_BYTES
        header: Any = cast("struct fracgpu_feedback_header *", start)
        if (header.slot_stride_bytes, header.slot_count) != (abi.FEEDBACK_STRIDE_BYTES, abi.SLOT_COUNT):
            raise FeedbackUnwritable(self._name, f"has {header.slot_count} records of {header.slot_stride_bytes} bytes")
        return header, cast("struct fracgpu_feedback_slot *", start + abi.FEEDBACK_HEADER_BYTES)

    def _find_known(self) -> set[int]:
        """Return the slots that an earlier writer left something in."""
        return {index for index in range(abi.SLOT_COUNT) if self._slots[index].slot_generation}

    def _write(self, feedback: Feedback) -> None:
        header = self._header
        header.own_utilization_bp = _share(feedback.own_utilization)
        header.own_memory_utilization_bp = _share(feedback.own_memory_utilization)
        header.device_utilization_bp = _share(feedback.device_utilization)
        header.device_memory_utilization_bp = _share(feedback.device_memory_utilization)
        header.flags = abi.FEEDBACK_UTILIZATION if feedback.utilization_measured else 0
        header.active_peers = max(0, min(feedback.active_peers, _MAX_PEERS))
        slots = {one.index: one for one in feedback.slots if 0 <= one.index < abi.SLOT_COUNT}
        for index in self._known - slots.keys():
            self._slots[index].slot_generation = 0
        for one in slots.values():
            self._write_slot(one)
        self._known = set(slots)

    def _write_slot(self, one: SlotFeedback) -> None:
        slot = self._slots[one.index]
        slot.slot_generation = one.generation & _U64
        slot.nvml_used_bytes = max(0, min(one.used_bytes, _U64))
        slot.sm_bp = _share(one.sm_basis_points)
        slot.memory_bp = _share(one.memory_basis_points)
        slot.host_pid = one.host_pid


def read_feedback(data: bytes) -> Feedback | None:
    """Return what the content `data` of a config file says, None when it has no section or nothing was ever published.

    For tests and diagnosis: the sequence is not looked at.
    """
    if len(data) < abi.CONFIG_FILE_WITH_FEEDBACK_BYTES:
        return None
    section = data[abi.FEEDBACK_OFFSET_BYTES :]
    header: Any = abi.ffi.from_buffer("struct fracgpu_feedback_header *", section)
    if not header.published_ns:
        return None
    return Feedback(
        utilization_measured=bool(header.flags & abi.FEEDBACK_UTILIZATION),
        own_utilization=header.own_utilization_bp,
        own_memory_utilization=header.own_memory_utilization_bp,
        device_utilization=header.device_utilization_bp,
        device_memory_utilization=header.device_memory_utilization_bp,
        active_peers=header.active_peers,
        slots=tuple(_read_slots(section[abi.FEEDBACK_HEADER_BYTES :])),
    )


def _read_slots(records: bytes) -> Iterable[SlotFeedback]:
    for index in range(abi.SLOT_COUNT):
        record = records[index * abi.FEEDBACK_STRIDE_BYTES : (index + 1) * abi.FEEDBACK_STRIDE_BYTES]
        slot: Any = abi.ffi.from_buffer("struct fracgpu_feedback_slot *", record)
        if slot.slot_generation:
            yield SlotFeedback(
                index=index,
                generation=slot.slot_generation,
                used_bytes=slot.nvml_used_bytes,
                host_pid=slot.host_pid,
                sm_basis_points=slot.sm_bp,
                memory_basis_points=slot.memory_bp,
            )


def _share(basis_points: int) -> int:
    return max(0, min(basis_points, FULL_BASIS_POINTS))
