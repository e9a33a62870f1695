"""Every question that pynvml can ask of a GPU alone: whose answer is the driver's, and whose is not."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fracgpu.native import fake_gpu
from tests.native.fake.cuda_process import CudaProcess
from tests.native.nvml_client import spawning

GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
MIB = 1 << 20
NOT_SUPPORTED = 3

# Every function of pynvml that takes nothing but a GPU: its answer, or the code of its error.
SWEEP = """
import ctypes, inspect, json, pynvml as n
n.nvmlInit()
h = n.nvmlDeviceGetHandleByUUID("%s")
def plain(value):
    if isinstance(value, ctypes.Structure):
        return {name: plain(getattr(value, name)) for name, *_ in value._fields_}
    if isinstance(value, (list, tuple, ctypes.Array)):
        return [plain(one) for one in value]
    if hasattr(value, "__dict__"):
        return {name: plain(one) for name, one in vars(value).items()}
    return value.decode() if isinstance(value, bytes) else value
def ask(function):
    try:
        return plain(function(h))
    except n.NVMLError as error:
        return {"error": error.value}
functions = {
    name: function for name, function in vars(n).items()
    if name.startswith(("nvmlDeviceGet", "nvmlDeviceIs", "nvmlGpmQuery")) and inspect.isfunction(function)
    and len([p for p in inspect.signature(function).parameters.values() if p.default is p.empty]) == 1
    and list(inspect.signature(function).parameters)[0] in ("handle", "device")
}
print(json.dumps({name: ask(function) for name, function in sorted(functions.items())}))
"""


# Whatever says how busy the GPU is has no answer while the host publishes nothing; the rest of these never has one.
WITHHELD = {
    *("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetDynamicPstatesInfo"),
    *(f"nvmlDeviceGet{engine}Utilization" for engine in ("Encoder", "Decoder", "Jpg", "Ofa")),
    *(f"nvmlDeviceGet{kind}{what}" for kind in ("Encoder", "FBC") for what in ("Stats", "Sessions")),
}
LISTS = {
    f"nvmlDeviceGet{kind}RunningProcesses{version}"
    for kind in ("Compute", "Graphics", "MPSCompute")
    for version in ("", "_v2", "_v3")
}


@pytest.fixture
def sweep(container: Any) -> Iterator[Callable[[], tuple[int, Any, Any]]]:
    """Ask about a GPU on which a process of the container works, and a stranger, and the video engines.

    Returns the container's process id, the shim's answers and the driver's.
    """
    driver_only = {**container.environment(), "LD_LIBRARY_PATH": str(container.root / "driver")}
    with CudaProcess(driver_only) as stranger, spawning() as spawn:

        def asked() -> tuple[int, Any, Any]:
            process = spawn(container)
            process.allocate(64 * MIB)
            stranger.start().allocate(512 * MIB)
            machine, pid = container.prefix.machine, process.python("result = os.getpid()")
            for one in (pid, stranger.pid):
                fake_gpu.set_activity(machine, one, GPUS[0], sm_percent=40, memory_percent=30, graphics=True, mps=True)
            fake_gpu.set_video_activity(machine, GPUS[0], encoder_percent=7, decoder_percent=9)
            command = (sys.executable, "-c", SWEEP % GPUS[0])
            shim, driver = (
                json.loads(container.run(*command, env={"LD_LIBRARY_PATH": str(container.root / place)}).stdout)
                for place in ("lib", "driver")
            )
            return pid, shim, driver

        yield asked


def test_without_a_limit_every_answer_is_the_drivers(container: Any, sweep: Callable[[], Any]) -> None:
    container.allocate(GPUS[0], None)
    _, shim, driver = sweep()
    assert len(driver) > 100
    assert {name: shim[name] for name in driver if shim[name] != driver[name]} == {}


def test_with_a_limit_these_answers_are_not_the_drivers(container: Any, sweep: Callable[[], Any]) -> None:
    container.allocate(GPUS[0], 1024)
    pid, shim, driver = sweep()
    different = {name: shim[name] for name in driver if shim[name] != driver[name]}
    assert {name for name in different if different[name] == {"error": NOT_SUPPORTED}} == WITHHELD
    for name in LISTS & driver.keys():
        assert [(one["pid"], one["usedGpuMemory"]) for one in different[name]] == [(pid, 64 * MIB)], name
        assert len(driver[name]) == 2
    memory = different["nvmlDeviceGetMemoryInfo"]
    assert (memory["total"], memory["used"], memory["free"]) == (1024 * MIB, 64 * MIB, 960 * MIB)
    assert different["nvmlGpmQueryDeviceSupport"]["isSupportedDevice"] == 0
    others = different.keys() - WITHHELD - LISTS
    assert others == {"nvmlDeviceGetMemoryInfo", "nvmlGpmQueryDeviceSupport"}
