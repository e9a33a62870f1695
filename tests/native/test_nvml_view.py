"""What programs that ask NVML see in a container: their slice, in every column, and the same that CUDA shows."""

import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native import fake_gpu
from fracgpu.native.config_page import UtilizationView
from fracgpu.native.feedback import Feedback, FeedbackWriter, SlotFeedback
from fracgpu.native.state_file import read_state_file
from tests.native.fake.cuda_process import CudaProcess
from tests.native.nvml_client import spawning

GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
MIB = 1 << 20
OWN_PIDS = ("unshare", "--pid", "--fork", "--mount-proc")
NOT_SUPPORTED, NOT_FOUND, UNKNOWN = 3, 6, 999

# All that says something about memory, in MiB, asked at one moment.
COLUMNS = """
free, total, whole = (ctypes.c_size_t() for _ in range(3))
assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
assert cuda.cuDeviceTotalMem_v2(ctypes.byref(whole), 0) == 0
class Limits(ctypes.Structure):
    _fields_ = [("cgroup", ctypes.c_char_p), *((name, ctypes.c_uint64) for name in ("soft", "hard", "used"))]
limits = Limits(b"/sys/fs/cgroup")
nvml = ctypes.CDLL("libnvidia-ml.so.1")
assert nvml.nvmlDeviceGetMemoryLimits_v1(h, ctypes.byref(limits)) == 0
one, two = n.nvmlDeviceGetMemoryInfo(h), n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2)
listed = [sum(p.usedGpuMemory for p in ask(h))
          for ask in (n.nvmlDeviceGetComputeRunningProcesses_v2, n.nvmlDeviceGetComputeRunningProcesses_v3)]
listed.append(sum(p.usedGpuMemory for p in n.nvmlDeviceGetRunningProcessDetailList(h, n.nvmlProcessDetailList_v1, 0)))
columns = {
    "total": [total.value, whole.value, one.total, two.total, limits.hard],
    "used": [total.value - free.value, one.used, two.used, limits.used, *listed],
    "free": [free.value, one.free, two.free],
    "reserved": [two.reserved],
}
result = {name: [value / 2**20 for value in values] for name, values in columns.items()}
"""


@pytest.fixture
def spawn() -> Iterator[Callable[..., CudaProcess]]:
    with spawning() as start:
        yield start


@pytest.fixture(params=["container", "standalone"])
def place(request: pytest.FixtureRequest) -> Any:
    """One GPU with a limit of 1 GiB, in either build."""
    made = request.getfixturevalue("container" if request.param == "container" else "prefix")
    made.allocate(GPUS[0], 1024)
    made.allocate(GPUS[1], 1024)
    return made


def agree(columns: dict[str, list[float]], total: float, used: float) -> None:
    for name, value in (("total", total), ("used", used), ("free", total - used), ("reserved", 0)):
        assert set(columns[name]) == {value}, (name, columns)


def test_cuda_and_nvml_agree_in_every_column(place: Any, spawn: Callable[..., CudaProcess]) -> None:
    first, second = spawn(place), spawn(place)
    agree(first.python(COLUMNS), 1024, 0)
    address = first.allocate(300 * MIB)
    second.allocate(200 * MIB)
    agree(first.python(COLUMNS), 1024, 500)
    agree(second.python(COLUMNS), 1024, 500)
    first.check("cuMemAllocAsync", ["out", "u64"], ["u64", 10 * MIB], ["u64", 0])
    pooled = first.python(COLUMNS)
    agree(pooled, 1024, pooled["used"][0])
    assert pooled["used"][0] >= 510
    first.free(address)
    second.kill()
    # CUDA looks for the dead every 20 ms, NVML each time.
    deadline = time.monotonic() + 10
    while (last := first.python(COLUMNS))["used"][0] != last["used"][1] and time.monotonic() < deadline:
        pass
    agree(last, 1024, pooled["used"][0] - 500)


def test_they_agree_when_contexts_cost_something(container: Any, spawn: Callable[..., CudaProcess]) -> None:
    """What a context takes is charged as overhead, and is part of every column."""
    costly = fake_gpu.FakeGpuSpec(uuid=GPUS[0], memory_bytes=8192 * MIB, context_bytes=160 * MIB)
    fake_gpu.create_machine(container.prefix.machine, [costly])
    container.allocate(GPUS[0], 1024)
    first, second = spawn(container), spawn(container)
    first.allocate(100 * MIB)
    for process in (first, second):
        columns = process.python(COLUMNS)
        agree(columns, 1024, columns["used"][0])
        assert columns["used"][0] >= 100
    second.check("cuDevicePrimaryCtxRelease_v2", ["i32", 0])
    columns = first.python(COLUMNS)
    agree(columns, 1024, columns["used"][0])


def test_processes_are_listed_with_what_they_are_charged(place: Any, spawn: Callable[..., CudaProcess]) -> None:
    first, second = spawn(place), spawn(place)
    ask = "result = pids(n.nvmlDeviceGetComputeRunningProcesses)"
    assert first.python(ask) == []
    first.allocate(64 * MIB)
    second.allocate(32 * MIB)
    own = first.python("result = os.getpid()"), second.python("result = os.getpid()")
    assert first.python(ask) == sorted([[own[0], 64 * MIB], [own[1], 32 * MIB]])
    second.kill()
    assert first.python(ask) == [[own[0], 64 * MIB]]
    assert first.python("result = pids(n.nvmlDeviceGetGraphicsRunningProcesses)") == []
    assert first.python("result = pids(n.nvmlDeviceGetMPSComputeRunningProcesses)") == []


def test_a_pid_namespace_shows_its_own_processes_under_its_own_ids(
    container: Any, spawn: Callable[..., CudaProcess]
) -> None:
    container.allocate(GPUS[0], 1024)
    inside, outside = spawn(container, *OWN_PIDS), spawn(container)
    inside.allocate(64 * MIB)
    outside.allocate(32 * MIB)
    ask = "result = [pids(n.nvmlDeviceGetComputeRunningProcesses), n.nvmlDeviceGetMemoryInfo(h).used]"
    assert inside.python(ask) == [[[1, 64 * MIB]], 96 * MIB]
    assert outside.python(ask) == [[[outside.python("result = os.getpid()"), 32 * MIB]], 96 * MIB]
    name = "result = [code(n.nvmlSystemGetProcessName, pid) for pid in (1, 4194300)]"
    argument, missing = inside.python(name)
    assert "python" in argument
    assert missing == NOT_FOUND


def test_two_claims_of_one_gpu_list_a_process_once(container: Any, spawn: Callable[..., CudaProcess]) -> None:
    container.allocate(GPUS[0], 300, name="a")
    container.allocate(GPUS[0], 1000, name="b")
    process = spawn(container)
    process.allocate(250 * MIB)
    process.allocate(60 * MIB)
    ask = "result = [pids(n.nvmlDeviceGetComputeRunningProcesses), os.getpid(), n.nvmlDeviceGetMemoryInfo(h).total]"
    listed, pid, total = process.python(ask)
    assert (listed, total) == ([[pid, 310 * MIB]], 1300 * MIB)


def test_only_allocated_gpus_are_there(container: Any, spawn: Callable[..., CudaProcess]) -> None:
    """The second GPU alone: the first, whose node a privileged container has, can be had by no name."""
    page = container.allocate(GPUS[1], 1024) / "config"
    process = spawn(container)
    ask = f"""
uuid = n.nvmlDeviceGetUUID
result = [n.nvmlDeviceGetCount(), uuid(n.nvmlDeviceGetHandleByIndex(0)), code(n.nvmlDeviceGetHandleByIndex, 1),
          code(n.nvmlDeviceGetHandleByUUID, "{GPUS[0]}"), code(n.nvmlDeviceGetHandleByPciBusId, "0000:01:00.0"),
          uuid(n.nvmlDeviceGetHandleByPciBusId("0000:02:00.0")),
          n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID("{GPUS[1]}")),
          n.nvmlDeviceGetMinorNumber(n.nvmlDeviceGetHandleByIndex(0))]
"""
    assert process.python(ask) == [1, GPUS[1], 2, NOT_FOUND, NOT_FOUND, GPUS[1], 0, 1]
    # A page that can not be read does not say which GPU is closed: both are there, and neither has numbers.
    os.truncate(page, 10)
    ask = """
both = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
result = [[code(n.nvmlDeviceGetMemoryInfo, one), code(n.nvmlDeviceGetUtilizationRates, one),
           code(n.nvmlDeviceGetComputeRunningProcesses, one)] for one in both]
"""
    assert process.python(ask) == [[UNKNOWN] * 3] * 2


def test_a_lost_gpu_keeps_its_place(container: Any, spawn: Callable[..., CudaProcess]) -> None:
    for gpu in GPUS:
        container.allocate(gpu, 1024)
    process = spawn(container)
    fake_gpu.set_lost(container.prefix.machine, GPUS[0], lost=True)
    ask = """
def uuid_at(index):
    return n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(index))
result = [n.nvmlDeviceGetCount(), *(code(uuid_at, index) for index in range(3)), code(n.nvmlDeviceGetMemoryInfo, h),
          code(n.nvmlDeviceGetComputeRunningProcesses, h), code(n.nvmlDeviceGetUtilizationRates, h)]
"""
    lost, invalid = 15, 2
    assert process.python(ask) == [2, lost, GPUS[1], invalid, lost, lost, lost]
    fake_gpu.set_lost(container.prefix.machine, GPUS[0], lost=False)
    assert process.python("result = code(uuid_at, 0)") == GPUS[0]


@pytest.mark.parametrize(("memory_mib", "observe"), [(None, False), (1024, True)], ids=["no limit", "observe"])
def test_without_a_limit_the_driver_answers(
    container: Any, spawn: Callable[..., CudaProcess], memory_mib: int | None, observe: bool
) -> None:
    container.allocate(GPUS[0], memory_mib, observe=observe)
    process = spawn(container)
    process.allocate(64 * MIB)
    machine = container.prefix.machine
    pid = process.python("result = os.getpid()")
    fake_gpu.set_activity(machine, pid, GPUS[0], sm_percent=40, memory_percent=20, graphics=True)
    fake_gpu.set_video_activity(machine, GPUS[0], encoder_percent=7, decoder_percent=9)
    ask = """
rates = n.nvmlDeviceGetUtilizationRates(h)
result = [n.nvmlDeviceGetMemoryInfo(h).total, rates.gpu, rates.memory, n.nvmlDeviceGetEncoderUtilization(h)[0],
          pids(n.nvmlDeviceGetGraphicsRunningProcesses), n.nvmlDeviceGetProcessUtilization(h, 0)[0].smUtil,
          n.nvmlDeviceGetSamples(h, n.NVML_GPU_UTILIZATION_SAMPLES, 0)[1][0].sampleValue.uiVal,
          n.nvmlDeviceGetBAR1MemoryInfo(h).bar1Used // 2**20, code(n.nvmlDeviceGetAccountingPids, h)]
"""
    assert process.python(ask) == [8192 * MIB, 40, 20, 7, [[pid, 64 * MIB]], 40, 40, 2, NOT_SUPPORTED]


ACTIVITY = """
def rates():
    seen = n.nvmlDeviceGetUtilizationRates(h)
    return [seen.gpu, seen.memory]
def by_process(function):
    return sorted([s.pid, s.smUtil, s.memUtil] for s in function(h, 0))
def sample(kind):
    return [s.sampleValue.uiVal for s in n.nvmlDeviceGetSamples(h, kind, 0)[1]]
def pstates():
    return [[one.bIsPresent, one.percentage] for one in n.nvmlDeviceGetDynamicPstatesInfo(h).utilization[:3]]
result = [code(rates), code(by_process, n.nvmlDeviceGetProcessUtilization),
          code(by_process, n.nvmlDeviceGetProcessesUtilizationInfo), code(sample, n.NVML_GPU_UTILIZATION_SAMPLES),
          code(sample, n.NVML_MEMORY_UTILIZATION_SAMPLES), code(pstates)]
"""


def publish(directory: Path, *, own: int = 2000, age_s: float = 0.0) -> None:
    """Say as the host that the first process, the only one, uses `own` basis points of the GPU."""
    (process,) = read_state_file(directory / "state").processes
    seen = SlotFeedback(
        index=process.index,
        generation=process.generation,
        used_bytes=0,
        host_pid=1,
        sm_basis_points=own,
        memory_basis_points=500,
    )
    feedback = Feedback(
        own_utilization=own,
        own_memory_utilization=500,
        device_utilization=9900,
        device_memory_utilization=9900,
        slots=(seen,),
    )
    with FeedbackWriter(directory / "config") as writer:
        writer.publish(feedback, published_ns=time.monotonic_ns() - int(age_s * 1e9))


@pytest.mark.parametrize(
    ("cores", "view", "own", "shown"),
    [
        (25, UtilizationView.SLICE, 2000, (80, 20)),
        (25, UtilizationView.DEVICE, 2000, (20, 5)),
        (0, UtilizationView.SLICE, 2000, (20, 5)),
        (25, UtilizationView.SLICE, 2600, (100, 20)),
    ],
    ids=["of the slice", "of the device", "without a share of cores", "more than the slice"],
)
def test_utilization_is_the_containers_own(
    container: Any,
    spawn: Callable[..., CudaProcess],
    cores: int,
    view: UtilizationView,
    own: int,
    shown: tuple[int, int],
) -> None:
    directory = container.allocate(GPUS[0], 1024, cores_percent=cores, utilization_view=view)
    process = spawn(container)
    process.allocate(64 * MIB)
    # What the driver would say: everybody's.
    pid = process.python("result = os.getpid()")
    fake_gpu.set_activity(container.prefix.machine, pid, GPUS[0], sm_percent=99, memory_percent=99)
    publish(directory, own=own)
    gpu, memory = shown
    expected = [[gpu, memory], [[pid, gpu, memory]], [[pid, gpu, memory]], [gpu], [memory]]
    assert process.python(ACTIVITY) == [*expected, [[1, gpu], [1, memory], [0, 0]]]


def test_two_claims_of_one_gpu_add_up(container: Any, spawn: Callable[..., CudaProcess]) -> None:
    """A quarter of the GPU's time each: 20 percent of the device by each is 80 of what there is."""
    claims = [container.allocate(GPUS[0], 200, name=name, cores_percent=25) for name in ("a", "b")]
    process = spawn(container)
    process.allocate(150 * MIB)
    process.allocate(150 * MIB)
    publish(claims[0])
    assert process.python(ACTIVITY)[0] == NOT_SUPPORTED
    publish(claims[1])
    gpu, by_process = process.python(ACTIVITY)[:2]
    assert gpu == [80, 20]
    assert [shares for _, *shares in by_process] == [[80, 20]]


@pytest.mark.parametrize("pid", [-1, 0, 2**31 - 1])
def test_what_a_slot_says_is_not_believed(container: Any, spawn: Callable[..., CudaProcess], pid: int) -> None:
    """A process can write anything into the state file. It fools itself, and nothing breaks."""
    state = container.allocate(GPUS[0], 1024) / "state"
    process = spawn(container)
    process.allocate(64 * MIB)
    committed, slot = 32, 4096
    with state.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<i", pid), slot + 4)
        os.pwrite(file.fileno(), struct.pack("<Q", 2**63 - 1), slot + committed)
    ask = """
memory = n.nvmlDeviceGetMemoryInfo(h)
result = [memory.used, memory.free, code(pids, n.nvmlDeviceGetComputeRunningProcesses)]
"""
    assert process.python(ask) == [1024 * MIB, 0, [[pid % 2**32, 2**48]]]


def test_what_the_host_does_not_publish_is_not_supported(container: Any, spawn: Callable[..., CudaProcess]) -> None:
    """Not the device's figure, which is everybody's, and not zero."""
    directory = container.allocate(GPUS[0], 1024)
    process = spawn(container)
    process.allocate(64 * MIB)
    assert process.python(ACTIVITY) == [NOT_SUPPORTED] * 6
    publish(directory, age_s=60)
    assert process.python(ACTIVITY) == [NOT_SUPPORTED] * 6
    with FeedbackWriter(directory / "config") as writer:
        writer.publish(Feedback(utilization_measured=False))
    assert process.python(ACTIVITY) == [NOT_SUPPORTED] * 6
    publish(directory)
    assert process.python(ACTIVITY)[0] == [20, 5]


def test_samples_are_given_once(container: Any, spawn: Callable[..., CudaProcess]) -> None:
    directory = container.allocate(GPUS[0], 1024)
    process = spawn(container)
    process.allocate(64 * MIB)
    publish(directory, age_s=2)
    ask = """
gpu = n.NVML_GPU_UTILIZATION_SAMPLES
last = n.nvmlDeviceGetProcessUtilization(h, 0)[0].timeStamp
sampled = n.nvmlDeviceGetSamples(h, gpu, 0)[1][0].timeStamp
result = [code(n.nvmlDeviceGetProcessUtilization, h, last), code(n.nvmlDeviceGetSamples, h, gpu, sampled),
          len(n.nvmlDeviceGetProcessUtilization(h, last - 10**6)), last]
"""
    again, sampled_again, newer, when = process.python(ask)
    assert (again, sampled_again, newer) == (NOT_FOUND, NOT_FOUND, 1)
    assert 1 < time.time() - when / 1e6 < 60
    publish(directory)
    result = process.python("result = len(n.nvmlDeviceGetProcessUtilization(h, last))")
    assert result == 1


def test_an_idle_process_has_no_sample(container: Any, spawn: Callable[..., CudaProcess]) -> None:
    directory = container.allocate(GPUS[0], 1024)
    process = spawn(container)
    process.allocate(64 * MIB)
    with FeedbackWriter(directory / "config") as writer:
        writer.publish(Feedback())
    assert process.python(ACTIVITY) == [[0, 0], NOT_FOUND, NOT_FOUND, [0], [0], [[1, 0], [1, 0], [0, 0]]]


NVITOP = """
import json
from nvitop import Device
seen = [[d.uuid(), d.memory_total(), d.memory_used(), d.memory_free(), str(d.gpu_utilization()),
         [[p.pid, p.gpu_memory(), str(p.gpu_sm_utilization())] for p in d.processes().values()]] for d in Device.all()]
print(json.dumps(seen))
"""


def test_nvitop_shows_the_slice(container: Any, spawn: Callable[..., CudaProcess]) -> None:
    directory = container.allocate(GPUS[0], 1024, cores_percent=25)
    process = spawn(container)
    process.allocate(300 * MIB)
    pid = process.python("result = os.getpid()")

    def look() -> Any:
        return json.loads(container.run(sys.executable, "-c", NVITOP).stdout)

    memory = [1024 * MIB, 300 * MIB, 724 * MIB]
    ((uuid, *shown, utilization, _),) = look()
    assert (uuid, shown, utilization) == (GPUS[0], memory, "N/A")
    publish(directory)
    assert look() == [[GPUS[0], *memory, "80", [[pid, 300 * MIB, "80"]]]]
