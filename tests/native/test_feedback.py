"""The feedback section: what the host writes is what the interceptor's reader gets, or nothing at all."""

import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cffi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.native import abi
from fracgpu.native.config_page import ConfigPage, encode_config_page
from fracgpu.native.errors import FeedbackUnwritable
from fracgpu.native.feedback import Feedback, FeedbackWriter, SlotFeedback, read_feedback
from fracgpu.native.libraries import NativeLibraries

ROOT = Path(__file__).resolve().parent.parent.parent
UUID = "GPU-11111111-2222-3333-4444-555555555555"
PAGE = ConfigPage(allocation_id="claim-gpu-0", device_uuid=UUID, memory_limit_bytes=1 << 30, cores_percent=0)
SEQUENCE = abi.FEEDBACK_OFFSET_BYTES
PUBLISHED = SEQUENCE + 8
STRIDE = SEQUENCE + 16
FIRST_SLOT = SEQUENCE + abi.FEEDBACK_HEADER_BYTES
SEEN = Feedback(
    own_utilization=2500,
    own_memory_utilization=1200,
    device_utilization=9900,
    device_memory_utilization=4000,
    active_peers=3,
    slots=(
        SlotFeedback(index=0, generation=7, used_bytes=5 << 30, host_pid=4711, sm_basis_points=2000),
        SlotFeedback(index=1023, generation=1, used_bytes=1 << 20, host_pid=12, memory_basis_points=30),
    ),
)
# cffi takes no `static inline`, and only these are asked here.
DECLARATIONS = """
struct fg_device_feedback {
    uint64_t published_ns; uint32_t own, own_memory, device, device_memory, active_peers; bool measured;
};
struct fg_slot_feedback { uint64_t published_ns, nvml_used_bytes; uint32_t sm_bp, memory_bp; int32_t host_pid; };
int fg_page_map(void *page, int descriptor);
void fg_page_close(void *page);
bool fg_feedback_device(const void *page, struct fg_device_feedback *feedback);
bool fg_feedback_slot(const void *page, uint32_t index, uint64_t generation, struct fg_slot_feedback *feedback);
"""


class Reader:
    """The interceptor's reader, on one config file."""

    def __init__(self, ffi: Any, lib: Any, path: Path) -> None:
        self.ffi, self.lib = ffi, lib
        self.page = ffi.new("uint64_t[128]")
        descriptor = os.open(path, os.O_RDONLY)
        self.fault = lib.fg_page_map(self.page, descriptor)
        os.close(descriptor)

    def device(self) -> tuple[int, ...] | None:
        out = self.ffi.new("struct fg_device_feedback *")
        if not self.lib.fg_feedback_device(self.page, out):
            return None
        return out.own, out.own_memory, out.device, out.device_memory, out.active_peers

    def slot(self, index: int, generation: int) -> tuple[int, ...] | None:
        out = self.ffi.new("struct fg_slot_feedback *")
        if not self.lib.fg_feedback_slot(self.page, index, generation, out):
            return None
        return out.nvml_used_bytes, out.sm_bp, out.memory_bp, out.host_pid


@pytest.fixture(scope="session")
def limiter(native_build: NativeLibraries) -> tuple[Any, Any]:
    command = ["make", "--no-print-directory", "-C", str(ROOT / "native"), f"OUT={native_build.directory}"]
    subprocess.run([*command, "limiter-shared"], env={**os.environ, "PYTHON": sys.executable}, check=True)
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    return ffi, ffi.dlopen(str(native_build.directory / "test" / "liblimiter.so"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_bytes(encode_config_page(PAGE))
    return path


def patch(path: Path, offset: int, layout: str, *values: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack(layout, *values))


def test_nothing_published_is_no_reading(limiter: tuple[Any, Any], path: Path) -> None:
    reader = Reader(*limiter, path)
    assert reader.fault == 0
    assert reader.device() is None
    assert reader.slot(0, 1) is None
    assert read_feedback(path.read_bytes()) is None


def test_reader_sees_each_publication_at_once(limiter: tuple[Any, Any], path: Path) -> None:
    reader = Reader(*limiter, path)
    with FeedbackWriter(path) as writer:
        writer.publish(SEEN)
        assert reader.device() == (2500, 1200, 9900, 4000, 3)
        assert reader.slot(0, 7) == (5 << 30, 2000, 0, 4711)
        assert reader.slot(1023, 1) == (1 << 20, 0, 30, 12)
        assert read_feedback(path.read_bytes()) == SEEN
        writer.publish(Feedback(own_utilization=1))
    assert reader.device() == (1, 0, 0, 0, 0)
    assert reader.slot(0, 7) is None


def test_a_new_writer_clears_what_the_former_one_left(path: Path) -> None:
    with FeedbackWriter(path) as writer:
        writer.publish(SEEN)
    with FeedbackWriter(path) as writer:
        writer.publish(Feedback())
    assert read_feedback(path.read_bytes()) == Feedback()


def test_a_record_is_about_one_owner_of_the_slot(limiter: tuple[Any, Any], path: Path) -> None:
    with FeedbackWriter(path) as writer:
        writer.publish(SEEN)
    reader = Reader(*limiter, path)
    assert reader.slot(0, 8) is None
    assert reader.slot(0, 0) is None
    assert reader.slot(1024, 1) is None
    assert reader.slot(2**32 - 1, 1) is None


@pytest.mark.parametrize("age_ns", [-(10 * 10**9), 6 * 10**9], ids=["of the future", "too old"])
def test_another_time_is_no_reading(limiter: tuple[Any, Any], path: Path, age_ns: int) -> None:
    with FeedbackWriter(path) as writer:
        writer.publish(SEEN, published_ns=time.monotonic_ns() - age_ns)
    reader = Reader(*limiter, path)
    assert reader.device() is None
    assert reader.slot(0, 7) is None


def test_a_writer_that_died_in_its_write_stops_nobody(limiter: tuple[Any, Any], path: Path) -> None:
    with FeedbackWriter(path) as writer:
        writer.publish(SEEN)
    reader = Reader(*limiter, path)
    patch(path, SEQUENCE, "<Q", 3)
    started = time.monotonic()
    assert reader.device() is None
    assert reader.slot(0, 7) is None
    assert time.monotonic() - started < 1
    with FeedbackWriter(path) as writer:
        writer.publish(SEEN)
    assert reader.device() == (2500, 1200, 9900, 4000, 3)


def test_a_reading_is_never_torn(limiter: tuple[Any, Any], path: Path) -> None:
    """Every value of one publication is the same number; a reader that mixed two would see two."""
    reader = Reader(*limiter, path)
    stop = threading.Event()

    def publish() -> None:
        number = 0
        with FeedbackWriter(path) as writer:
            while not stop.is_set():
                number = (number + 1) % 10_000
                writer.publish(
                    Feedback(
                        own_utilization=number,
                        own_memory_utilization=number,
                        device_utilization=number,
                        device_memory_utilization=number,
                        active_peers=number,
                        slots=(
                            SlotFeedback(
                                index=5, generation=1, used_bytes=number, host_pid=number, sm_basis_points=number,
                                memory_basis_points=number,
                            ),
                        ),
                    )
                )  # fmt: skip

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        readings = [reading for _ in range(20_000) for reading in (reader.device(), reader.slot(5, 1)) if reading]
    finally:
        stop.set()
        thread.join()
    assert len(readings) > 1000
    assert all(len(set(reading)) == 1 for reading in readings)


@given(st.binary(min_size=64, max_size=64), st.binary(min_size=32, max_size=32))
def test_any_content_is_tolerated(
    limiter: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory, header: bytes, slot: bytes
) -> None:
    path = tmp_path_factory.mktemp("hostile") / "config"
    content = bytearray(encode_config_page(PAGE))
    content[SEQUENCE : SEQUENCE + 64] = header
    content[FIRST_SLOT : FIRST_SLOT + 32] = slot
    path.write_bytes(content)
    reader = Reader(*limiter, path)
    assert reader.fault == 0
    device = reader.device()
    assert device is None or max(device[:4]) <= 10_000
    for generation in (1, int.from_bytes(slot[:8], "little")):
        seen = reader.slot(0, generation)
        assert seen is None or (seen[0] <= 1 << 48 and max(seen[1:3]) <= 10_000)
    reader.lib.fg_page_close(reader.page)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (56, "<I", 0),
        (56, "<I", 1),
        (56, "<I", 8192 * 1000),
        (56, "<I", 36864),
        (60, "<I", 2**32 - 1),
        (60, "<I", 0),
        (STRIDE, "<I", 8),
        (STRIDE, "<I", 36),
        (STRIDE, "<I", 2**31),
        (STRIDE + 4, "<I", 0),
    ],
)
def test_a_section_that_can_not_be_is_left_out(
    limiter: tuple[Any, Any], path: Path, offset: int, layout: str, value: int
) -> None:
    with FeedbackWriter(path) as writer:
        writer.publish(SEEN)
    patch(path, offset, layout, value)
    reader = Reader(*limiter, path)
    assert reader.fault == 0
    assert reader.slot(1023, 1) is None or offset == 60
    with pytest.raises(FeedbackUnwritable):
        FeedbackWriter(path)


def test_longer_records_of_a_later_host_are_read(limiter: tuple[Any, Any], path: Path) -> None:
    with FeedbackWriter(path) as writer:
        writer.publish(SEEN)
    content = bytearray(path.read_bytes())
    struct.pack_into("<II", content, STRIDE, 64, 512)
    content[FIRST_SLOT + 64 : FIRST_SLOT + 96] = content[FIRST_SLOT : FIRST_SLOT + 32]
    path.write_bytes(content)
    assert Reader(*limiter, path).slot(1, 7) == (5 << 30, 2000, 0, 4711)


def test_file_of_an_older_host(limiter: tuple[Any, Any], path: Path) -> None:
    os.truncate(path, 4096)
    patch(path, 56, "<II", 0, 0)
    reader = Reader(*limiter, path)
    assert reader.fault == 0
    assert reader.device() is None
    with pytest.raises(FeedbackUnwritable, match="no feedback section"):
        FeedbackWriter(path)


def test_new_page_in_a_short_file(limiter: tuple[Any, Any], path: Path) -> None:
    os.truncate(path, 4096)
    reader = Reader(*limiter, path)
    assert reader.fault == 0
    assert reader.device() is None


def test_writer_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(FeedbackUnwritable, match="can not be opened"):
        FeedbackWriter(tmp_path / "config")
    (tmp_path / "link").symlink_to(tmp_path / "config")
    with pytest.raises(FeedbackUnwritable, match="can not be opened"):
        FeedbackWriter(tmp_path / "link")


def test_impossible_values_are_cut(path: Path) -> None:
    slot = SlotFeedback(index=3, generation=2**64 + 5, used_bytes=-1, host_pid=-1, sm_basis_points=10_001)
    hopeless = SlotFeedback(index=1024, generation=1, used_bytes=1, host_pid=1)
    with FeedbackWriter(path) as writer:
        writer.publish(Feedback(own_utilization=-5, device_utilization=20_000, slots=(slot, hopeless)))
    seen = read_feedback(path.read_bytes())
    assert seen == Feedback(
        device_utilization=10_000,
        slots=(SlotFeedback(index=3, generation=5, used_bytes=0, host_pid=-1, sm_basis_points=10_000),),
    )
