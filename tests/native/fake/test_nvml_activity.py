"""What the modelled NVML says of activity, settings and the kinds of processes."""

from collections.abc import Callable
from typing import Any

import pytest

from fracgpu.native.fake_gpu import FakeMachineInvalid, set_activity, set_video_activity
from tests.native.fake.cuda_process import MIB, CudaProcess
from tests.native.fake.test_nvml import CONTEXT, nvml

Spawn = Callable[..., CudaProcess]

CODE = """
def code(function, *arguments):
    try:
        return function(*arguments)
    except n.NVMLError as error:
        return error.value
h = n.nvmlDeviceGetHandleByIndex(0)
"""


def test_activity_adds_up_per_device(model: Any, spawn: Spawn) -> None:
    ask = CODE + "u = n.nvmlDeviceGetUtilizationRates(h); result = [u.gpu, u.memory]"
    assert nvml(model.environment, ask) == [0, 0]
    gpu = model.usage(0).uuid
    first, second = spawn().start(), spawn().start()
    set_activity(model.path, first.pid, gpu, sm_percent=30, memory_percent=10)
    set_activity(model.path, second.pid, gpu, sm_percent=20, memory_percent=5)
    assert nvml(model.environment, ask) == [50, 15]
    set_activity(model.path, second.pid, gpu, sm_percent=90)
    assert nvml(model.environment, ask) == [100, 10]
    second.kill()
    assert nvml(model.environment, ask) == [30, 10]


def test_activity_of_whom_there_is_none(model: Any) -> None:
    with pytest.raises(FakeMachineInvalid, match="process 1: uses no GPU of machine"):
        set_activity(model.path, 1, model.usage(0).uuid)


def test_activity_of_processes(model: Any, spawn: Spawn) -> None:
    busy, _ = spawn().start(), spawn().start()
    set_activity(model.path, busy.pid, model.usage(0).uuid, sm_percent=30, memory_percent=10)
    ask = """
samples = n.nvmlDeviceGetProcessUtilization(h, 0)
info = n.nvmlDeviceGetProcessesUtilizationInfo(h, 0)
result = [[[s.pid, s.smUtil, s.memUtil] for s in samples], [[s.pid, s.smUtil, s.memUtil] for s in info],
          code(n.nvmlDeviceGetProcessUtilization, h, samples[0].timeStamp + 10**9)]
"""
    expected = [[busy.pid, 30, 10]]
    assert nvml(model.environment, CODE + ask) == [expected, expected, 6]
    busy.kill()
    ask = "result = [code(n.nvmlDeviceGetProcessUtilization, h, 0)]"
    assert nvml(model.environment, CODE + ask) == [6]


def test_samples(model: Any, spawn: Spawn) -> None:
    process = spawn().start()
    gpu = model.usage(0).uuid
    set_activity(model.path, process.pid, gpu, sm_percent=30, memory_percent=10)
    set_video_activity(model.path, gpu, encoder_percent=7, decoder_percent=9)
    ask = """
kinds = [n.NVML_GPU_UTILIZATION_SAMPLES, n.NVML_MEMORY_UTILIZATION_SAMPLES, n.NVML_ENC_UTILIZATION_SAMPLES,
         n.NVML_DEC_UTILIZATION_SAMPLES]
result = [[[s.sampleValue.uiVal for s in n.nvmlDeviceGetSamples(h, kind, 0)[1]] for kind in kinds],
          n.nvmlDeviceGetEncoderUtilization(h)[0], n.nvmlDeviceGetDecoderUtilization(h)[0],
          code(n.nvmlDeviceGetSamples, h, n.NVML_TOTAL_POWER_SAMPLES, 0)]
"""
    assert nvml(model.environment, CODE + ask) == [[[30], [10], [7], [9]], 7, 9, 3]


def test_kinds_of_processes(model: Any, spawn: Spawn) -> None:
    plain, drawing, served = spawn().start(), spawn().start(), spawn().start()
    gpu = model.usage(0).uuid
    set_activity(model.path, drawing.pid, gpu, graphics=True)
    set_activity(model.path, served.pid, gpu, mps=True)
    ask = """
def pids(function):
    return sorted(p.pid for p in function(h))
details = n.nvmlDeviceGetRunningProcessDetailList(h, n.nvmlProcessDetailList_v1, n.NVML_PROCESS_MODE_GRAPHICS)
result = [pids(n.nvmlDeviceGetComputeRunningProcesses), pids(n.nvmlDeviceGetGraphicsRunningProcesses),
          pids(n.nvmlDeviceGetMPSComputeRunningProcesses),
          [[p.pid, p.usedGpuMemory] for p in details]]
"""
    everyone = sorted(process.pid for process in (plain, drawing, served))
    expected = [everyone, [drawing.pid], [served.pid], [[drawing.pid, CONTEXT]]]
    assert nvml(model.environment, CODE + ask) == expected


def test_settings_are_the_machines(model: Any) -> None:
    ask = (
        "result = [n.nvmlDeviceGetPersistenceMode(h), n.nvmlDeviceGetComputeMode(h), n.nvmlDeviceGetAccountingMode(h)]"
    )
    assert nvml(model.environment, CODE + ask) == [1, 0, 0]
    change = """
result = [n.nvmlDeviceSetPersistenceMode(h, 0), n.nvmlDeviceSetComputeMode(h, 3), n.nvmlDeviceSetAccountingMode(h, 1),
          code(n.nvmlDeviceSetComputeMode, h, 4)]
"""
    assert nvml(model.environment, CODE + change) == [None, None, None, 2]
    assert nvml(model.environment, CODE + ask) == [0, 3, 1]


def test_accounting_is_off_until_it_is_turned_on(model: Any, spawn: Spawn) -> None:
    process = spawn().start()
    process.allocate(8 * MIB)
    set_activity(model.path, process.pid, model.usage(0).uuid, sm_percent=30)
    ask = "result = [code(n.nvmlDeviceGetAccountingPids, h), code(n.nvmlDeviceGetAccountingStats, h, 1)]"
    assert nvml(model.environment, CODE + ask) == [3, 3]
    ask = f"""
n.nvmlDeviceSetAccountingMode(h, 1)
stats = n.nvmlDeviceGetAccountingStats(h, {process.pid})
result = [list(n.nvmlDeviceGetAccountingPids(h)), stats.gpuUtilization, stats.maxMemoryUsage,
          code(n.nvmlDeviceGetAccountingStats, h, 1)]
"""
    assert nvml(model.environment, CODE + ask) == [[process.pid], 30, CONTEXT + 8 * MIB, 6]


def test_field_values_answer_one_by_one(model: Any) -> None:
    ask = """
values = n.nvmlDeviceGetFieldValues(h, [n.NVML_FI_DEV_ECC_CURRENT, n.NVML_FI_DEV_MEMORY_TEMP, 100000])
result = [[v.nvmlReturn for v in values], values[0].value.uiVal]
"""
    assert nvml(model.environment, CODE + ask) == [[0, 3, 2], 1]


def test_bar1_grows_with_processes(model: Any, spawn: Spawn) -> None:
    ask = "b = n.nvmlDeviceGetBAR1MemoryInfo(h); result = [b.bar1Total, b.bar1Used, b.bar1Free]"
    before = nvml(model.environment, CODE + ask)
    assert before == [1024 * MIB, 0, 1024 * MIB]
    process = spawn().start()
    assert nvml(model.environment, CODE + ask) == [1024 * MIB, 2 * MIB, 1022 * MIB]
    process.kill()


def test_handles_by_serial_and_by_both_forms_of_uuid(model: Any) -> None:
    ask = """
uuid = n.nvmlDeviceGetUUID(h)
result = [n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleBySerial(n.nvmlDeviceGetSerial(h))), uuid]
lib, got = CDLL("libnvidia-ml.so.1"), c_void_p()
class Uuid(Structure):
    _fields_ = [("version", c_uint), ("type", c_uint), ("value", c_char * 41)]
for kind, value in ((1, uuid.encode()), (2, bytes.fromhex(uuid[4:].replace("-", "")))):
    key = Uuid(sizeof(Uuid) | 1 << 24, kind)
    memmove(addressof(key) + 8, value, len(value))
    result += [lib.nvmlDeviceGetHandleByUUIDV(byref(key), byref(got)), got.value == cast(h, c_void_p).value]
result.append(lib.nvmlDeviceGetHandleByUUIDV(byref(Uuid(1, 1)), byref(got)))
"""
    uuid = model.usage(0).uuid
    assert nvml(model.environment, CODE + ask) == [uuid, uuid, 0, True, 0, True, 25]
