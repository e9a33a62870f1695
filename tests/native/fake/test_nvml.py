"""NVML as pynvml and the tools built on it ask it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native import fake_gpu
from tests.native.fake.cuda_process import MIB, CudaProcess

Spawn = Callable[..., CudaProcess]
CONTEXT = 16 * MIB
FIRST, SECOND = "GPU-6c1f2a34-0b1c-4d2e-8f30-415263748596", "GPU-6c1f77aa-1c2d-4e3f-9041-526374859607"


def nvml(environment: dict[str, str], source: str) -> Any:
    """Run `source` in a process with an NVML session and pynvml as `n`; returns its `result`."""
    program = f"import json, pynvml as n\nfrom ctypes import *\nn.nvmlInit()\n{source}\nprint(json.dumps(result))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_versions(environment: dict[str, str]) -> None:
    driver, library, cuda = nvml(
        environment,
        """
result = [n.nvmlSystemGetDriverVersion(), n.nvmlSystemGetNVMLVersion(), n.nvmlSystemGetCudaDriverVersion_v2()]
""",
    )
    assert library.endswith(driver)
    assert cuda >= 12000


def test_memory_adds_up(environment: dict[str, str]) -> None:
    v1, v2 = nvml(
        environment,
        """
h = n.nvmlDeviceGetHandleByIndex(0)
a, b = n.nvmlDeviceGetMemoryInfo(h), n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2)
result = [[a.total, a.free, a.used], [b.total, b.reserved, b.free, b.used]]
""",
    )
    assert v1[0] == v1[1] + v1[2] == v2[0] == sum(v2[1:])


def test_the_version_tag_is_checked(environment: dict[str, str]) -> None:
    code = nvml(
        environment,
        """
try:
    n.nvmlDeviceGetMemoryInfo(n.nvmlDeviceGetHandleByIndex(0), 0x03000028)
    result = 0
except n.NVMLError as error:
    result = error.value
""",
    )
    assert code == 25


def test_nvml_sees_the_memory_of_cuda_processes(environment: dict[str, str], spawn: Spawn) -> None:
    ask = "result = n.nvmlDeviceGetMemoryInfo(n.nvmlDeviceGetHandleByIndex(0)).used"
    process = spawn().start()
    before = nvml(environment, ask)
    process.allocate(100 * MIB)
    assert nvml(environment, ask) == before + 100 * MIB


PROCESSES = """
h = n.nvmlDeviceGetHandleByIndex(0)
result = [[p.pid, p.usedGpuMemory] for p in n.nvmlDeviceGetComputeRunningProcesses(h)]
"""


def test_processes(environment: dict[str, str], spawn: Spawn) -> None:
    processes = [spawn().start() for _ in range(3)]
    before = dict(map(tuple, nvml(environment, PROCESSES)))
    assert {process.pid for process in processes} <= set(before)
    processes[1].allocate(64 * MIB)
    processes[2].kill()
    after = dict(map(tuple, nvml(environment, PROCESSES)))
    assert processes[2].pid not in after
    assert after[processes[1].pid] == before[processes[1].pid] + 64 * MIB


def test_a_process_without_a_context_is_not_listed(model: Any, spawn: Spawn) -> None:
    process = spawn()
    process.check("cuInit", ["u32", 0])
    assert nvml(model.environment, PROCESSES) == []
    process.start()
    assert nvml(model.environment, PROCESSES) == [[process.pid, CONTEXT]]
    process.check("cuDevicePrimaryCtxRelease_v2", ["i32", 0])
    assert nvml(model.environment, PROCESSES) == []


def test_the_host_sees_its_own_ids_of_processes_in_containers(model: Any) -> None:
    unshare = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no pid namespaces")
    with CudaProcess(model.environment, unshare) as process:
        process.start()
        assert process.python("result = os.getpid()") == 1
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert [pid for pid, _ in nvml(model.environment, PROCESSES)] == [int(child) for child in children]


@pytest.mark.parametrize(
    ("suffix", "layout"),
    [("", "pid:I used:Q"), ("_v2", "pid:I used:Q gi:I ci:I"), ("_v3", "pid:I used:Q gi:I ci:I")],
    ids=["v1", "v2", "v3"],
)
def test_the_size_protocol_in_every_layout(environment: dict[str, str], spawn: Spawn, suffix: str, layout: str) -> None:
    process = spawn().start()
    types = {"I": "c_uint", "Q": "c_ulonglong"}
    fields = ", ".join(f'("{name}", {types[kind]})' for name, kind in (part.split(":") for part in layout.split()))
    answer = nvml(
        environment,
        f"""
class Info(Structure):
    _fields_ = [{fields}]
lib = CDLL("libnvidia-ml.so.1")
lib.nvmlInit_v2()
h = c_void_p(); lib.nvmlDeviceGetHandleByIndex_v2(0, byref(h))
count = c_uint(0)
first = lib.nvmlDeviceGetComputeRunningProcesses{suffix}(h, byref(count), None)
needed = count.value
infos = (Info * (needed + 8))()
count = c_uint(needed + 8)
second = lib.nvmlDeviceGetComputeRunningProcesses{suffix}(h, byref(count), infos)
result = [first, needed, second, count.value, [[i.pid, i.used] for i in infos[:count.value]],
          [getattr(i, "gi", 0xffffffff) for i in infos[:count.value]]]
""",
    )
    first, needed, second, count, processes, instances = answer
    assert (first, second) == (7, 0)
    assert needed == count
    assert process.pid in [pid for pid, _ in processes]
    assert set(instances) == {0xFFFFFFFF}


def test_an_empty_list_needs_no_second_question(model: Any) -> None:
    answer = nvml(
        model.environment,
        """
lib = CDLL("libnvidia-ml.so.1")
lib.nvmlInit_v2()
h = c_void_p(); lib.nvmlDeviceGetHandleByIndex_v2(0, byref(h))
count = c_uint(0)
result = [lib.nvmlDeviceGetComputeRunningProcesses_v3(h, byref(count), None), count.value,
          lib.nvmlDeviceGetGraphicsRunningProcesses_v3(h, byref(count), None), count.value]
""",
    )
    assert answer == [0, 0, 0, 0]


def test_handles_lead_back(environment: dict[str, str]) -> None:
    result = nvml(
        environment,
        """
h = n.nvmlDeviceGetHandleByIndex(0)
uuid, pci = n.nvmlDeviceGetUUID(h), n.nvmlDeviceGetPciInfo(h)
result = [uuid, n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByUUID(uuid)),
          n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByPciBusId(pci.busId)), n.nvmlDeviceGetIndex(h)]
""",
    )
    assert result[0] == result[1] == result[2]
    assert result[3] == 0


def test_identity(model: Any) -> None:
    result = nvml(
        model.environment,
        """
h = n.nvmlDeviceGetHandleByIndex(1)
pci = n.nvmlDeviceGetPciInfo(h)
result = [n.nvmlDeviceGetCount(), n.nvmlDeviceGetName(h), n.nvmlDeviceGetUUID(h), n.nvmlDeviceGetBrand(h),
          n.nvmlDeviceGetArchitecture(h), n.nvmlDeviceGetCudaComputeCapability(h), n.nvmlDeviceGetMinorNumber(h),
          pci.busId, pci.busIdLegacy, pci.bus, n.nvmlDeviceGetEccMode(h), n.nvmlDeviceGetUtilizationRates(h).gpu,
          n.nvmlSystemGetDriverVersion(), n.nvmlDeviceGetMemoryInfo(h).total]
""",
    )
    assert result == [
        2, "NVIDIA H200", SECOND, 14, 9, [9, 0], 3, "00000000:41:00.0", "0000:41:00.0", 0x41, [1, 1], 0, "580.65.06",
        512 * MIB,
    ]  # fmt: skip


def test_only_visible_devices_exist(model: Any) -> None:
    environment = {**model.environment, "FRACGPU_FAKE_VISIBLE": "3", "CUDA_VISIBLE_DEVICES": "GPU-nonsense"}
    assert nvml(
        environment,
        """
try:
    n.nvmlDeviceGetHandleByUUID("GPU-6c1f2a34-0b1c-4d2e-8f30-415263748596")
    missing = 0
except n.NVMLError as error:
    missing = error.value
result = [[n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(i)) for i in range(n.nvmlDeviceGetCount())], missing]
""",
    ) == [[SECOND], 6]


@pytest.mark.parametrize(
    "function",
    ["nvmlDeviceGetVbiosVersion", "nvmlDeviceGetMigMode", "nvmlDeviceGetNumaNodeId", "nvmlDeviceGetPowerUsage"],
)
def test_what_is_not_modelled_says_so(model: Any, function: str) -> None:
    code = nvml(
        model.environment,
        f"""
try:
    result = n.{function}(n.nvmlDeviceGetHandleByIndex(0))
except n.NVMLError as error:
    result = error.value
""",
    )
    assert code == 3


def test_the_driver_keeps_its_reserve(tmp_path: Any, model: Any) -> None:
    path = tmp_path / "reserved"
    spec = fake_gpu.FakeGpuSpec(uuid=FIRST, memory_bytes=1024 * MIB, reserved_bytes=24 * MIB)
    fake_gpu.create_machine(path, [spec])
    environment = {**model.environment, "FRACGPU_FAKE_GPU": str(path)}
    assert nvml(
        environment,
        """
h = n.nvmlDeviceGetHandleByIndex(0)
a, b = n.nvmlDeviceGetMemoryInfo(h), n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2)
result = [a.total, a.used, b.reserved, b.used]
""",
    ) == [1024 * MIB, 24 * MIB, 24 * MIB, 0]
    with CudaProcess(environment) as process:
        assert process.start().memory_info()[1] == 1000 * MIB


@pytest.mark.parametrize("content", [None, b"garbage"], ids=["missing", "garbage"])
def test_without_a_machine_the_driver_is_not_loaded(model: Any, tmp_path: Any, content: bytes | None) -> None:
    path = tmp_path / "none"
    if content is not None:
        path.write_bytes(content)
    program = "import ctypes; l = ctypes.CDLL('libnvidia-ml.so.1'); c = ctypes.c_uint()\n"
    program += "print(l.nvmlInit_v2(), l.nvmlDeviceGetCount_v2(ctypes.byref(c)), l.nvmlShutdown())"
    environment = {**os.environ, **model.environment, "FRACGPU_FAKE_GPU": str(path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["9", "1", "1"]


def test_sessions_are_counted(environment: dict[str, str]) -> None:
    codes = nvml(
        environment,
        """
lib, count = CDLL("libnvidia-ml.so.1"), c_uint()
ask = lambda: lib.nvmlDeviceGetCount_v2(byref(count))
lib.nvmlInit_v2()
result = [ask(), lib.nvmlShutdown(), ask(), lib.nvmlShutdown(), ask(), lib.nvmlShutdown()]
""",
    )
    assert codes == [0, 0, 0, 0, 1, 1]
