"""State files: the host reads what a container may have written, and believes only locks."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracgpu.native import abi
from fracgpu.native.errors import StateFileInvalid
from fracgpu.native.state_file import new_state_file, read_state_file

UUID = "GPU-11111111-2222-3333-4444-555555555555"
FLOCK = struct.Struct("@hhqqi4x")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    place.write_bytes(new_state_file(UUID))
    return place


@pytest.fixture
def owner(path: Path) -> Iterator[int]:
    """An open file that can hold slots, as a process of the container does."""
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def take_slot(descriptor: int, index: int, committed: int, *, lock: bool = True, overhead: int = 0) -> None:
    offset = abi.STATE_HEADER_BYTES + index * abi.SLOT_STRIDE_BYTES
    if lock:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0))
    slot = struct.pack("<IiQQQQQQQQQ", abi.SLOT_LIVE, 7, 11, 13, 17, committed, 0, overhead, 0, 0, 0)
    os.pwrite(descriptor, slot, offset)


def test_fresh_file_is_empty(path: Path) -> None:
    snapshot = read_state_file(path)
    assert snapshot.device_uuid == UUID
    assert snapshot.slot_count == 1024
    assert (snapshot.used_bytes, snapshot.peak_bytes, snapshot.refusals, snapshot.processes) == (0, 0, 0, ())


def test_held_slots_count_and_stale_ones_do_not(path: Path, owner: int) -> None:
    take_slot(owner, 0, 100, overhead=5)
    take_slot(owner, 1, 1000, lock=False)
    take_slot(owner, 1023, 10)
    snapshot = read_state_file(path)
    assert snapshot.used_bytes == 115
    assert [process.index for process in snapshot.processes] == [0, 1023]
    first = snapshot.processes[0]
    assert (first.pid, first.start_time_ticks, first.pid_namespace_inode, first.generation) == (7, 11, 13, 17)


def test_a_lowered_high_water_mark_hides_nothing(path: Path, owner: int) -> None:
    take_slot(owner, 5, 100)
    os.pwrite(owner, bytes(8), 24)
    assert read_state_file(path).used_bytes == 100


@pytest.mark.parametrize(("written", "read"), [(2**48 + 1, 2**48), (2**63 - 1, 2**48), (2**63, 0), (2**64 - 1, 0)])
def test_amounts_are_clamped(path: Path, owner: int, written: int, read: int) -> None:
    take_slot(owner, 0, written)
    assert read_state_file(path).used_bytes == read


def test_the_largest_file_adds_up_to_an_int64(path: Path, owner: int) -> None:
    slots, stride = 4096, 4096
    os.truncate(path, abi.STATE_HEADER_BYTES + slots * stride)
    write(path, 16, "<II", slots, stride)
    slot = struct.pack("<IiQQQQQQ", abi.SLOT_LIVE, 1, 0, 0, 0, 2**63 - 1, 0, 2**63 - 1)
    lock = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(owner, fcntl.F_OFD_SETLK, lock)
    for index in range(slots):
        os.pwrite(owner, slot, abi.STATE_HEADER_BYTES + index * stride)
    snapshot = read_state_file(path)
    assert len(snapshot.processes) == slots
    assert 2**60 < snapshot.used_bytes < 2**63


def test_a_file_system_that_fails_is_a_typed_error(path: Path, owner: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    take_slot(owner, 0, 100)
    monkeypatch.setattr(fcntl, "fcntl", fail)
    with pytest.raises(StateFileInvalid, match=r"can not be read: No locks available"):
        read_state_file(path)


def write(path: Path, offset: int, layout: str, *values: object) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack(layout, *values))


@pytest.mark.parametrize(
    ("offset", "layout", "value", "what"),
    [
        (0, "<Q", 0, "magic"),
        (8, "<I", 2, "ABI version 2"),
        (12, "<I", 8, "header of 8 bytes"),
        (12, "<I", 2**31, "header of 2147483648 bytes"),
        (16, "<I", 0, "0 slots"),
        (16, "<I", 2**32 - 1, "4294967295 slots"),
        (16, "<I", 4097, "4097 slots"),
        (16, "<I", 1023, "bytes long, its header says"),
        (20, "<I", 0, "slots of 0 bytes"),
        (20, "<I", 129, "slots of 129 bytes"),
        (20, "<I", 2**31, "slots of 2147483648 bytes"),
    ],
    ids=lambda value: str(value),
)
def test_hostile_header_is_refused(path: Path, offset: int, layout: str, value: int, what: str) -> None:
    write(path, offset, layout, value)
    with pytest.raises(StateFileInvalid, match=what):
        read_state_file(path)


@pytest.mark.parametrize("size", [0, 8, 191, 4096, abi.STATE_FILE_BYTES - 1, abi.STATE_FILE_BYTES + 1])
def test_resized_file_is_refused(path: Path, size: int) -> None:
    os.truncate(path, size)
    with pytest.raises(StateFileInvalid, match="bytes long"):
        read_state_file(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StateFileInvalid, match="can not be opened"):
        read_state_file(tmp_path / "absent")
    with pytest.raises(StateFileInvalid, match="regular"):
        read_state_file(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StateFileInvalid, match="regular"):
        read_state_file(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(StateFileInvalid, match="can not be opened"):
        read_state_file(tmp_path / "link")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(header=st.binary(min_size=192, max_size=192), slots=st.binary(max_size=512), valid=st.booleans())
def test_any_content_gives_a_snapshot_or_a_typed_error(path: Path, header: bytes, slots: bytes, valid: bool) -> None:
    content = bytearray(new_state_file(UUID))
    if valid:
        content[24:192] = header[24:]
    else:
        content[:192] = header
    content[abi.STATE_HEADER_BYTES : abi.STATE_HEADER_BYTES + len(slots)] = slots
    path.write_bytes(bytes(content))
    try:
        snapshot = read_state_file(path)
    except StateFileInvalid:
        assert not valid
    else:
        assert snapshot.used_bytes == 0
        assert all(0 <= value < 2**63 for value in (snapshot.peak_bytes, snapshot.refusals, snapshot.last_refusal_ns))
