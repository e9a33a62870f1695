"""The Python side of the model: making machines and reading them."""

import re
import subprocess
from pathlib import Path

import pytest

from fracgpu.native import fake_gpu
from fracgpu.native.fake_gpu import FakeGpuSpec, FakeMachineInvalid

UUID = "GPU-00000000-1111-2222-3333-444444444444"
OTHER = "GPU-99999999-1111-2222-3333-444444444444"
GIB = 1 << 30


def test_a_new_machine_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "machine"
    fake_gpu.create_machine(path, [FakeGpuSpec(uuid=UUID, memory_bytes=GIB, minor=5)])
    (usage,) = fake_gpu.read_usage(path)
    assert (usage.uuid, usage.minor, usage.memory_bytes) == (UUID, 5, GIB)
    assert (usage.used_bytes, usage.peak_used_bytes, usage.processes) == (0, 0, ())


def test_a_machine_without_gpus(tmp_path: Path) -> None:
    fake_gpu.create_machine(tmp_path / "machine", [])
    assert fake_gpu.read_usage(tmp_path / "machine") == ()


def test_making_a_machine_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "machine"
    for memory in (GIB, 2 * GIB):
        fake_gpu.create_machine(path, [FakeGpuSpec(uuid=UUID, memory_bytes=memory)])
    assert [entry.name for entry in tmp_path.iterdir()] == ["machine"]
    assert fake_gpu.read_usage(path)[0].memory_bytes == 2 * GIB


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pci_bus_id", "1:2"),
        ("compute_capability", "nine"),
        ("name", ""),
        ("name", "x" * 96),
        ("memory_bytes", -1),
        ("reserved_bytes", 2 * GIB),
        ("context_bytes", -1),
        ("minor", -1),
        ("multiprocessors", 0),
    ],
    ids=lambda value: str(value)[:20],
)
def test_impossible_gpus_are_refused(tmp_path: Path, field: str, value: object) -> None:
    spec = FakeGpuSpec(**{"uuid": UUID, "memory_bytes": GIB, field: value})  # type: ignore[arg-type]
    with pytest.raises(FakeMachineInvalid, match=UUID):
        fake_gpu.create_machine(tmp_path / "machine", [spec])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", ["uuid", "minor", "pci_bus_id"])
def test_gpus_must_differ(tmp_path: Path, same: str) -> None:
    fields = {"uuid": OTHER, "minor": 1, "pci_bus_id": "0000:02:00.0"}
    del fields[same]
    first = FakeGpuSpec(uuid=UUID, memory_bytes=GIB)
    second = FakeGpuSpec(**{"uuid": UUID, "memory_bytes": GIB, **fields})  # type: ignore[arg-type]
    with pytest.raises(FakeMachineInvalid, match=same):
        fake_gpu.create_machine(tmp_path / "machine", [first, second])


@pytest.mark.parametrize("content", [None, b"", b"FAKEGPU1", b"\0" * fake_gpu.MACHINE_FILE_BYTES], ids=str)
def test_what_is_no_machine_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "machine"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FakeMachineInvalid, match=re.escape(str(path))):
        fake_gpu.read_usage(path)


def test_the_layout_is_the_one_the_c_compiler_sees() -> None:
    # The header's static assertions pin the C side to the same numbers.
    header = fake_gpu.LAYOUT_HEADER.read_text()
    for struct, constant in (("fake_gpu", "FAKE_GPU_BYTES"), ("fake_slot", "FAKE_SLOT_BYTES")):
        assert f"_Static_assert(sizeof(struct {struct}) == {constant}" in header
        size = dict(fake_gpu.ffi.typeof("enum fake_layout").relements)[constant]
        assert fake_gpu.ffi.sizeof(f"struct {struct}") == size
    for struct, field, offset in re.findall(r"offsetof\(struct (\w+), (\w+)\) == (\d+)", header):
        assert fake_gpu.ffi.offsetof(f"struct {struct}", field) == int(offset)


def test_the_sanitized_model_finds_nothing(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    if subprocess.run(["which", "gcc"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the sanitizers need gcc")
    done = subprocess.run(
        ["make", "--no-print-directory", "-f", "native/fake/rules.mk", f"OUT={tmp_path}", "sanitize-fake"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("fake selftest: passed\n")
