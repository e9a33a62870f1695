"""The model across containers: other pid and mount namespaces, other users, the machine under another path."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.fake_gpu import create_machine
from tests.native.fake.conftest import SPECS
from tests.native.fake.container import ENVIRONMENT, USER, container, why_no_container, why_no_nodes
from tests.native.fake.cuda_process import MIB, OUT_OF_MEMORY, OUT_U64, CudaProcess, u64

CONTEXT = 16 * MIB
CARD = 1024 * MIB

LIST_PROCESSES = """
import pynvml as n
n.nvmlInit()
listed = n.nvmlDeviceGetComputeRunningProcesses(n.nvmlDeviceGetHandleByIndex(0))
result = [[p.pid, p.usedGpuMemory] for p in listed]
n.nvmlShutdown()
"""


@pytest.fixture(scope="module")
def _containers() -> None:
    if reason := why_no_container():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def _users() -> None:
    if reason := why_no_nodes():
        pytest.skip(reason)


@contextmanager
def in_container(model: Any) -> Iterator[CudaProcess]:
    with CudaProcess({**model.environment, **ENVIRONMENT}, container(model.path, model.libraries)) as process:
        yield process


def pid_outside(process: CudaProcess) -> int:
    """Return the id out here of a process that unshare(1) started."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    return int(child)


def wait_for_the_end(process: CudaProcess) -> None:
    # unshare(1) ends when its child has been reaped, and that is when the kernel has taken it apart.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.usefixtures("_containers")
def test_a_container_is_on_the_same_card_and_known_by_its_id_out_here(model: Any) -> None:
    with in_container(model) as inside, CudaProcess(model.environment) as outside:
        inside.start()
        outside.start()
        assert inside.python("result = os.getpid()") == 1
        assert inside.python(f"result = os.path.exists({str(model.path)!r})") is False
        inside.allocate(100 * MIB)
        assert outside.memory_info()[0] == CARD - 2 * CONTEXT - 100 * MIB
        listed = sorted(outside.python(LIST_PROCESSES))
        assert listed == sorted([[pid_outside(inside), CONTEXT + 100 * MIB], [outside.pid, CONTEXT]])
        outside.allocate(outside.memory_info()[0])
        assert inside.call("cuMemAlloc_v2", OUT_U64, u64(1)).rc == OUT_OF_MEMORY


@pytest.mark.usefixtures("_containers")
def test_what_a_killed_container_held_is_free(model: Any) -> None:
    with in_container(model) as inside, CudaProcess(model.environment) as outside:
        inside.start().allocate(900 * MIB)
        outside.start()
        os.kill(pid_outside(inside), signal.SIGKILL)
        wait_for_the_end(inside)
        assert outside.memory_info()[0] == CARD - CONTEXT
        assert outside.python(LIST_PROCESSES) == [[outside.pid, CONTEXT]]
        outside.allocate(900 * MIB)
        assert [process.pid for process in model.usage().processes] == [outside.pid]


@pytest.mark.usefixtures("_containers")
def test_a_container_is_told_of_its_own_processes_only(model: Any) -> None:
    """Two containers whose processes have the same id, each in its own: a list by bare ids would name the reader."""
    with in_container(model) as first, in_container(model) as second, CudaProcess(model.environment) as outside:
        first.start().allocate(10 * MIB)
        outside.start()
        assert second.python(LIST_PROCESSES) == []
        second.start()
        assert second.python(LIST_PROCESSES) == [[1, CONTEXT]]
        assert first.python(LIST_PROCESSES) == [[1, CONTEXT + 10 * MIB]]
        # The memory is taken whoever holds it.
        assert second.memory_info()[0] == CARD - 3 * CONTEXT - 10 * MIB
        assert {pid for pid, _ in outside.python(LIST_PROCESSES)} == {
            outside.pid,
            pid_outside(first),
            pid_outside(second),
        }


@pytest.mark.usefixtures("_containers")
def test_the_size_of_the_list_counts_whom_the_reader_may_know(model: Any) -> None:
    with in_container(model) as inside, CudaProcess(model.environment) as outside:
        outside.start()
        assert inside.python("""
lib = ctypes.CDLL("libnvidia-ml.so.1")
handle, count = ctypes.c_void_p(), ctypes.c_uint(0)
result = [lib.nvmlInit_v2(), lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)),
          lib.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), None), count.value]
""") == [0, 0, 0, 0]


def view_as_user(model: Any, *, own_pids: bool) -> dict[str, Any]:
    """What an ordinary user sees of the first GPU through NVML."""
    prefix = container(model.path, model.libraries, user=USER, own_pids=own_pids)
    done = subprocess.run(
        [*prefix, "/mnt/bin/fracgpu-view"],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    device: dict[str, Any] = json.loads(done.stdout)["nvml"]["devices"][0]
    return device


@pytest.mark.usefixtures("_users")
def test_who_may_not_look_at_a_processs_namespaces_is_told_its_id_all_the_same(model: Any) -> None:
    """As by the driver, which asks nobody for a permission to read its own list."""
    with in_container(model) as inside:
        inside.start().allocate(20 * MIB)
        device = view_as_user(model, own_pids=False)
        listed = {process["pid"]: process["used_bytes"] for process in device["processes"]}
        assert listed == {pid_outside(inside): CONTEXT + 20 * MIB}


@pytest.mark.usefixtures("_users")
def test_any_user_in_a_container_can_use_the_machine(model: Any) -> None:
    prefix = container(model.path, model.libraries, user=USER)
    command = [*prefix, "/mnt/bin/fracgpu-hold", "driver", "300"]
    with subprocess.Popen(
        command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as holder:
        assert holder.stdout is not None
        held = json.loads(holder.stdout.readline())
        assert (held["ready"], held["pid"]) == (True, 1)
        assert model.usage().used_bytes == CONTEXT + 300 * MIB
        child = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text(encoding="ascii").strip()
        uids = next(
            line for line in Path(f"/proc/{child}/status").read_text(encoding="ascii").splitlines() if "Uid" in line
        )
        assert uids.split()[1:] == [str(USER)] * 4
        os.kill(int(child), signal.SIGKILL)
        holder.wait()
    assert model.usage().used_bytes == 0


def test_everybody_may_write_to_a_machine_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        create_machine(tmp_path / "machine", SPECS)
    finally:
        os.umask(before)
    assert (tmp_path / "machine").stat().st_mode & 0o777 == 0o666
