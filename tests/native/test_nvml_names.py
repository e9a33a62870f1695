"""Every function that NVIDIA's newest nvml.h declares is decided upon: virtualized, refused, or left to the driver.

A header of a newer driver (pin a newer nvidia-nvml-dev) that brings a function which changes a GPU, or one that tells
of memory, processes or utilization, turns a test red until it is in hooks.def, in nvml_refused.def, or in a list here.
"""

import re
from importlib import metadata
from pathlib import Path

import pytest

# What changes something, but not the GPU: the calling thread, the caller's own session, buffers, event queues.
HARMLESS = {
    "nvmlDeviceSetCpuAffinity": "binds the calling thread",
    "nvmlDeviceClearCpuAffinity": "binds the calling thread",
    "nvmlDeviceOnSameBoard": "reads",
    "nvmlDeviceReadPRMCounters_v1": "reads",
    "nvmlDeviceRegisterEvents": "for the caller's event set",
    "nvmlDeviceValidateInforom": "reads and checks",
    "nvmlEventsCreate": "the caller's",
    "nvmlEventsFree": "the caller's",
    "nvmlEventsRegisterGpuOperationalEvents_v1": "for the caller's event set",
    "nvmlEventsWait": "waits",
    "nvmlEventsWait_v2": "waits",
    "nvmlEventsWait_v3": "waits",
    "nvmlGpmSampleAlloc": "the caller's buffer",
    "nvmlGpmSampleFree": "the caller's buffer",
    "nvmlInit": "session",
    "nvmlInitWithFlags": "session",
    "nvmlInit_v2": "session",
    "nvmlShutdown": "session",
    "nvmlSystemEventsCreate": "the caller's",
    "nvmlSystemEventsFree": "the caller's",
    "nvmlSystemEventsWait": "waits",
    "nvmlSystemRegisterEvents": "for the caller's event set",
}
# What tells of memory, processes or utilization, and stays the driver's.
TELLING = {
    "nvmlDeviceGetAccountingBufferSize": "how many accounts fit",
    "nvmlDeviceGetAccountingMode": "whether accounts are kept",
    "nvmlDeviceGetConfComputeMemSizeInfo": "a setting of confidential computing",
    "nvmlDeviceGetConfComputeProtectedMemoryUsage": "of confidential computing, where a GPU is not shared",
    "nvmlDeviceGetGpuInstanceProfileInfo": "MIG",
    "nvmlDeviceGetMemoryAffinity": "NUMA nodes",
    "nvmlDeviceGetMemoryBusWidth": "the card",
    "nvmlDeviceGetMemoryErrorCounter": "the card",
    "nvmlDeviceGetMigDeviceHandleByIndex": "MIG",
    "nvmlDeviceGetNvLinkTelemetrySamples_v1": "links",
    "nvmlDeviceGetNvLinkUtilizationControl": "links",
    "nvmlDeviceGetNvLinkUtilizationCounter": "links",
    "nvmlDeviceGetSupportedMemoryClocks": "the card",
    "nvmlDeviceGetUnrepairableMemoryFlag_v1": "the card",
    "nvmlDevicePerfMetricsGetSamples_v1": "power and clocks",
    "nvmlGpmMetricsGet": "works on samples, which are withheld",
    "nvmlGpmMigSampleGet": "MIG",
    "nvmlGpmQueryIfStreamingEnabled": "a setting",
    "nvmlSystemGetProcessName": "looks into the caller's /proc",
}
# Fields, by name: none says how much memory is in use, or by whom.
FIELDS = {
    "NVML_FI_DEV_MEMORY_TEMP",
    "NVML_FI_DEV_PERF_POLICY_LOW_UTILIZATION",
    "NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT",
}
VERBS = {"Get", "Query", "Is"}


def header() -> str:
    files = metadata.files("nvidia-nvml-dev") or ()
    (path,) = [Path(str(file.locate())) for file in files if file.name == "nvml.h"]
    return path.read_text(encoding="utf-8", errors="replace")


def functions(text: str) -> set[str]:
    return set(re.findall(r"\bDECLDIR\s+(nvml\w+)\s*\(", text))


def words(name: str) -> list[str]:
    return re.findall(r"[A-Z][a-z0-9]*", name.replace("EventSet", "Events"))


def is_reader(name: str) -> bool:
    """The first verb says what a function does: nvmlDeviceGetX, nvmlVgpuInstanceGetX, nvmlGpmSampleGet."""
    changing = {"Set", "Reset", "Clear", "Create", "Destroy", "Freeze", "Modify", "Remove", "Write"}
    verb = next((word for word in words(name) if word in VERBS | changing), None)
    return verb in VERBS


def undecided_changes(names: set[str], refused: set[str], hooked: set[str]) -> set[str]:
    return {
        name
        for name in names - refused - hooked
        if not is_reader(name) and name.replace("EventSet", "Events") not in HARMLESS
    }


def undecided_tales(names: set[str], hooked: set[str]) -> set[str]:
    """Functions of vGPU hosts, MIG instances and the units of old racks are not a container's of this kind."""
    tells = r"Memory|MemSize|FbUsage|Process(?!or)|Utili[sz]ation|Accounting|Samples?|BAR1|HandleBy|GetCount|GetIndex"
    tells += r"|Pstates|Sessions?$|EncoderStats|FBC|Gpm"
    elsewhere = re.compile(r"nvml(Vgpu|Unit|DeviceGetVgpu|GpuInstance)")
    return {
        name
        for name in names - hooked - TELLING.keys()
        if is_reader(name) and re.search(tells, name) and not elsewhere.match(name)
    }


@pytest.fixture(scope="module")
def declared() -> set[str]:
    found = functions(header())
    assert len(found) > 400
    return found


@pytest.fixture(scope="session")
def hooked(hooks: tuple[object, ...]) -> set[str]:
    return {str(getattr(hook, "symbol", "")) for hook in hooks}


def test_what_changes_a_gpu_is_refused(declared: set[str], refused: tuple[str, ...], hooked: set[str]) -> None:
    assert undecided_changes(declared, set(refused), hooked) == set()


def test_what_tells_of_others_is_virtualized(declared: set[str], hooked: set[str]) -> None:
    assert undecided_tales(declared, hooked) == set()


def test_new_functions_are_noticed(declared: set[str], refused: tuple[str, ...], hooked: set[str]) -> None:
    news = """
    nvmlReturn_t DECLDIR nvmlDeviceSetWarpSpeed_v1(nvmlDevice_t device, unsigned int speed);
    nvmlReturn_t DECLDIR nvmlDevicePurgeEverything(nvmlDevice_t device);
    nvmlReturn_t DECLDIR nvmlDeviceGetMemoryInfo_v3(nvmlDevice_t device, nvmlMemory_v3_t *memory);
    nvmlReturn_t DECLDIR nvmlDeviceGetColour(nvmlDevice_t device, unsigned int *colour);
    """
    names = declared | functions(news)
    changes = undecided_changes(names, set(refused), hooked)
    assert changes == {"nvmlDeviceSetWarpSpeed_v1", "nvmlDevicePurgeEverything"}
    assert undecided_tales(names, hooked) == {"nvmlDeviceGetMemoryInfo_v3"}


def test_no_field_tells_of_memory_or_processes() -> None:
    names = set(re.findall(r"#define\s+(NVML_FI_\w+)", header()))
    assert len(names) > 300
    tells = re.compile(r"_(FB|FRAMEBUFFER|MEM|MEMORY|BAR1|PROCESS\w*|\w*UTILI\w*)(_|$)")
    assert {name for name in names if tells.search(name)} == FIELDS


def test_the_lists_name_what_there_is(declared: set[str], refused: tuple[str, ...]) -> None:
    """Each refused name is one of NVML's, and nothing stands in two lists."""
    model = Path(__file__).resolve().parent.parent.parent / "native" / "fake" / "nvml_absent.def"
    known = declared | set(re.findall(r"ABSENT\((\w+)\)", model.read_text(encoding="ascii")))
    assert set(refused) <= known
    assert len(set(refused)) == len(refused)
    plain = {name.replace("EventSet", "Events") for name in declared}
    assert HARMLESS.keys() <= plain
    assert TELLING.keys() <= declared
    assert not set(refused) & (HARMLESS.keys() | TELLING.keys())
