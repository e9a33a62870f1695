"""What happens to charges and slots when processes start, fork, exec, close everything and end."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.abi import SLOT_COUNT
from fracgpu.native.state_file import read_state_file

GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
MIB = 1 << 20


@pytest.fixture
def client(program: Callable[[str], Path]) -> Path:
    return program("client")


@pytest.fixture
def until_ready(prefix: Any, client: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the client and wait until it has come to its command `ready`; a line to its stdin lets it go on."""
    with ExitStack() as started:

        def start(*commands: str) -> subprocess.Popen[str]:
            process: subprocess.Popen[str] = prefix.start(client, *commands)
            started.callback(process.communicate)
            started.callback(process.kill)
            assert process.stdout is not None
            while (line := process.stdout.readline()) != "ready\n":
                assert line, "the client ended before it was ready"
            return process

        yield start


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_usage_is_seen_by_everybody(
    prefix: Any, client: Path, until_ready: Callable[..., subprocess.Popen[str]]
) -> None:
    state = prefix.allocate(GPUS[0], 1024)
    holder = until_ready("init", "device", "0", "alloc", "600", "ready")
    other = prefix.run(client, "init", "device", "0", "info", "nvml", "0", "alloc", "500", "alloc", "424", "info")
    seen = ["info 0 424 1024", "nvml 0 1024 600 424"]
    assert lines(other.stdout) == ["init 0", *seen, "alloc 2", "alloc 0", "info 0 0 1024"]
    snapshot = read_state_file(state)
    assert [(slot.pid, slot.committed_bytes) for slot in snapshot.processes] == [(holder.pid, 600 * MIB)]
    assert (snapshot.peak_bytes, snapshot.refusals, snapshot.last_refused_bytes) == (1024 * MIB, 1, 500 * MIB)
    holder.communicate("\n")
    assert read_state_file(state).processes == ()
    assert "info 0 1024 1024" in prefix.run(client, "init", "device", "0", "info").stdout


def test_start_time_is_the_kernels(prefix: Any, until_ready: Callable[..., subprocess.Popen[str]]) -> None:
    state = prefix.allocate(GPUS[0], 1024)
    holder = until_ready("init", "ready")
    stat = Path(f"/proc/{holder.pid}/stat").read_text()
    (slot,) = read_state_file(state).processes
    assert slot.start_time_ticks == int(stat.rpartition(")")[2].split()[19])
    assert slot.pid_namespace_inode == Path(f"/proc/{holder.pid}/ns/pid").stat().st_ino


def test_forked_child_leaves_its_parents_charge_alone(prefix: Any, client: Path) -> None:
    prefix.allocate(GPUS[0], 1024)
    commands = ["init", "device", "0", "alloc", "600", "fork", "free", "info"]
    result = prefix.run(client, *commands)
    # CUDA does not work in the child of a CUDA process (error 3), and nothing of the parent's is touched by trying.
    child, parent = ["free 3", "info 3"], ["free 0", "info 0 1024 1024"]
    assert lines(result.stdout) == ["init 0", "alloc 0", "child", *child, "parent 0", *parent]


def test_child_forked_before_cuda_has_its_own_slot(
    prefix: Any, until_ready: Callable[..., subprocess.Popen[str]]
) -> None:
    state = prefix.allocate(GPUS[0], 1024)
    process = until_ready("fork", "init", "device", "0", "alloc", "100", "ready")
    (slot,) = read_state_file(state).processes
    assert slot.pid != process.pid
    assert slot.committed_bytes == 100 * MIB


def test_parents_death_frees_its_slot_while_its_child_lives(
    prefix: Any, until_ready: Callable[..., subprocess.Popen[str]]
) -> None:
    state = prefix.allocate(GPUS[0], 1024)
    process = until_ready("init", "device", "0", "alloc", "600", "fork", "ready")
    assert read_state_file(state).used_bytes == 600 * MIB
    process.kill()
    process.wait()
    # The child still reads from the pipe that the test holds open.
    assert read_state_file(state).processes == ()


def test_exec_starts_anew(prefix: Any, client: Path) -> None:
    state = prefix.allocate(GPUS[0], 1024)
    commands = ["init", "device", "0", "alloc", "600", "exec", "init", "device", "0", "alloc", "1024", "info"]
    result = prefix.run(client, *commands)
    assert lines(result.stdout) == ["init 0", "alloc 0", "init 0", "alloc 0", "info 0 0 1024"]
    assert read_state_file(state).processes == ()


def test_closing_every_descriptor_keeps_the_slot(
    prefix: Any, client: Path, until_ready: Callable[..., subprocess.Popen[str]]
) -> None:
    state = prefix.allocate(GPUS[0], 1024)
    daemon = until_ready("init", "device", "0", "alloc", "600", "closeall", "ready", "alloc", "424", "ready")
    assert read_state_file(state).used_bytes == 600 * MIB
    assert "alloc 2" in prefix.run(client, "init", "device", "0", "alloc", "500").stdout
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    daemon.stdin.write("\n")
    daemon.stdin.flush()
    assert daemon.stdout.readline() == "alloc 0\n"


def test_nothing_is_left_open_in_the_program(prefix: Any, until_ready: Callable[..., subprocess.Popen[str]]) -> None:
    prefix.allocate(GPUS[0], 1024)
    process = until_ready("init", "device", "0", "alloc", "2000", "nvml", "0", "ready")
    targets = [str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert not [target for target in targets if "allocations" in target]


def test_every_slot_taken(prefix: Any, client: Path, until_ready: Callable[..., subprocess.Popen[str]]) -> None:
    state = prefix.allocate(GPUS[0], 1024)
    header = bytearray(state.read_bytes()[: 4096 + 2 * 128])
    header[16:20] = (2).to_bytes(4, "little")
    state.write_bytes(header)
    first = until_ready("init", "ready")
    until_ready("init", "ready")
    assert prefix.run(client, "init", "init").stdout == "init 802\ninit 802\n"
    first.communicate("\n")
    assert prefix.run(client, "init").stdout == "init 0\n"


def test_many_ends_need_few_slots(prefix: Any, client: Path) -> None:
    state = prefix.allocate(GPUS[0], 1024)
    for _ in range(5):
        prefix.run(client, "init", "device", "0", "alloc", "1024")
    content = state.read_bytes()
    assert int.from_bytes(content[24:32], "little") == 1
    assert read_state_file(state).slot_count == SLOT_COUNT


def test_hooks_leave_errno_alone(prefix: Any, client: Path) -> None:
    prefix.allocate(GPUS[0], 1024)
    assert prefix.run(client, "init", "device", "0", "errno").stdout == "init 0\nerrno 0\n"


def test_several_allocations_of_one_gpu_add_up(prefix: Any, client: Path) -> None:
    states = [prefix.allocate(GPUS[0], size, name=name) for size, name in ((512, "a"), (1024, "b"))]
    first, second = sorted(states)
    sizes = {states[0]: 512, states[1]: 1024}
    assert "info 0 1536 1536" in prefix.run(client, "init", "device", "0", "info").stdout
    allocations = ["alloc", str(sizes[first]), "alloc", str(sizes[second]), "alloc", "2", "info"]
    result = prefix.run(client, "init", "device", "0", *allocations, "nvml", "0")
    assert lines(result.stdout) == ["init 0", "alloc 0", "alloc 0", "alloc 2", "info 0 0 1536", "nvml 0 1536 1536 0"]
    assert [read_state_file(state).peak_bytes for state in (first, second)] == [
        sizes[first] * MIB,
        sizes[second] * MIB,
    ]
    # A reservation is never split: 1400 fits the sum, but neither of the two.
    assert "alloc 2" in prefix.run(client, "init", "device", "0", "alloc", "1400").stdout


def test_gpus_are_told_apart_by_uuid(prefix: Any, client: Path) -> None:
    """CUDA_VISIBLE_DEVICES renumbers devices; the limit follows the GPU."""
    prefix.allocate(GPUS[0], 512)
    prefix.allocate(GPUS[1], 1024)
    prefix.env["CUDA_VISIBLE_DEVICES"] = GPUS[1]
    assert "info 0 1024 1024" in prefix.run(client, "init", "device", "0", "info").stdout
    prefix.env["CUDA_VISIBLE_DEVICES"] = "1,0"
    assert "info 0 1024 1024" in prefix.run(client, "init", "device", "0", "info").stdout
    assert "info 0 512 512" in prefix.run(client, "init", "device", "1", "info").stdout


def test_a_limit_above_the_gpu_shows_the_gpu(prefix: Any, client: Path) -> None:
    prefix.allocate(GPUS[0], 100_000)
    result = prefix.run(client, "init", "device", "0", "info", "total", "0", "nvml", "0", "alloc", "9000")
    assert lines(result.stdout) == ["init 0", "info 0 8192 8192", "total 0 8192", "nvml 0 8192 0 8192", "alloc 2"]
