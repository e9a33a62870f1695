"""NvmlInventory over a stand-in for pynvml, function by function; and over real shared libraries for the loading."""

import logging
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fracgpu.driver.errors import GpuLost, GpuNotFound, InventoryUnavailable
from fracgpu.driver.inventory import GpuMemory, GpuProcess, NvmlInventory
from fracgpu.driver.names import GpuUuid
from fracgpu.driver.quantity import MIB

UUIDS = [GpuUuid(f"GPU-{n:08x}-1111-2222-3333-444455556666") for n in range(3)]
NOT_SUPPORTED, NOT_FOUND, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, LOST, UNKNOWN = 3, 6, 9, 12, 15, 999

# Function to the fields of Gpu that are unknown without it.
OPTIONAL: dict[str, dict[str, object]] = {
    "nvmlDeviceGetName": {"product_name": ""},
    "nvmlDeviceGetBrand": {"brand": ""},
    "nvmlDeviceGetArchitecture": {"architecture": ""},
    "nvmlDeviceGetMemoryInfo": {"memory_total_bytes": 0},
    "nvmlDeviceGetPciInfo": {"pci_bus_id": "", "pcie_root": None, "numa_node": -1},
    "nvmlDeviceGetMinorNumber": {"minor_number": None},
    "nvmlDeviceGetCudaComputeCapability": {"compute_capability": "0.0.0"},
    "nvmlSystemGetDriverVersion": {"driver_version": "0.0.0"},
    "nvmlSystemGetCudaDriverVersion_v2": {"cuda_driver_version": "0.0.0"},
}


class FakeNvml:
    """What NvmlInventory uses of pynvml. `fail` maps (function, GPU number or None for all) to an error code."""

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"NVML error {value}")
            self.value = value

    class NVMLLibraryMismatchError(Exception):
        pass

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.fail: dict[tuple[str, int | None], int] = {}
        self.sessions = 0
        self.compute: list[Any] = []
        self.graphics: list[Any] = []

    def _check(self, function: str, number: int | None = None) -> None:
        code = self.fail.get((function, number), self.fail.get((function, None)))
        if code == -1:
            raise self.NVMLLibraryMismatchError("too old")
        if code is not None:
            raise self.NVMLError(code)

    def nvmlInit(self) -> None:  # noqa: N802
        self._check("nvmlInit")
        self.sessions += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._check("nvmlShutdown")
        self.sessions -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        self._check("nvmlDeviceGetHandleByUUID")
        if uuid not in UUIDS[: self.count]:
            raise self.NVMLError(NOT_FOUND)
        return UUIDS.index(GpuUuid(uuid))

    def __getattr__(self, function: str) -> Any:
        values: dict[str, Any] = {
            "nvmlDeviceGetCount": lambda: self.count,
            "nvmlSystemGetDriverVersion": lambda: "580.65.06",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13020,
            "nvmlDeviceGetHandleByIndex": lambda n: n,
            "nvmlDeviceGetUUID": lambda n: UUIDS[n].encode(),
            "nvmlDeviceGetName": lambda _: "NVIDIA H200",
            "nvmlDeviceGetBrand": lambda _: 14,
            "nvmlDeviceGetArchitecture": lambda _: 9,
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=100 * MIB, used=30 * MIB, free=70 * MIB),
            "nvmlDeviceGetPciInfo": lambda n: SimpleNamespace(busId=f"00000000:3{n}:00.0"),
            "nvmlDeviceGetMinorNumber": lambda n: n,
            "nvmlDeviceGetCudaComputeCapability": lambda _: (9, 0),
            "nvmlDeviceGetComputeRunningProcesses": lambda _: self.compute,
            "nvmlDeviceGetGraphicsRunningProcesses": lambda _: self.graphics,
        }
        answer = values[function]

        def call(*arguments: Any) -> Any:
            self._check(function, arguments[0] if arguments else None)
            return answer(*arguments)

        return call


@pytest.fixture
def nvml() -> FakeNvml:
    return FakeNvml()


@pytest.fixture
def inventory(nvml: FakeNvml, tmp_path: Path) -> NvmlInventory:
    device = tmp_path / "devices" / "pci0000:3a" / "0000:30:00.0"
    device.mkdir(parents=True)
    (device / "numa_node").write_text("1")
    (tmp_path / "bus" / "pci" / "devices").mkdir(parents=True)
    (tmp_path / "bus" / "pci" / "devices" / "0000:30:00.0").symlink_to(device)
    return NvmlInventory(nvml=nvml, sysfs=tmp_path)


def test_lists_everything_that_nvml_and_sysfs_know(inventory: NvmlInventory) -> None:
    first, second = inventory.list_gpus()
    assert first.uuid == UUIDS[0]
    assert (first.product_name, first.brand, first.architecture) == ("NVIDIA H200", "Nvidia", "Hopper")
    assert (first.pci_bus_id, first.pcie_root, first.numa_node) == ("0000:30:00.0", "pci0000:3a", 1)
    assert (first.driver_version, first.cuda_driver_version) == ("580.65.6", "13.2.0")
    assert (first.compute_capability, first.memory_total_bytes) == ("9.0.0", 100 * MIB)
    assert (first.minor_number, first.index, first.healthy) == (0, 0, True)
    assert (second.uuid, second.index, second.pcie_root, second.numa_node) == (UUIDS[1], 1, None, -1)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, 13, -1], ids=["not-supported", "no-function", "library-mismatch"])
@pytest.mark.parametrize("function", OPTIONAL)
def test_a_value_that_is_not_supported_is_unknown(
    nvml: FakeNvml, inventory: NvmlInventory, function: str, code: int
) -> None:
    complete = inventory.list_gpus()[0]
    nvml.fail[(function, None)] = code
    gpu = inventory.list_gpus()[0]
    expected = {name: getattr(complete, name) for name in complete.__slots__} | OPTIONAL[function]
    assert {name: getattr(gpu, name) for name in gpu.__slots__} == expected


@pytest.mark.parametrize(
    ("function", "value", "field"),
    [
        ("nvmlDeviceGetBrand", lambda _: 4711, "brand"),
        ("nvmlDeviceGetArchitecture", lambda _: 0xFFFFFFFF, "architecture"),
    ],
)
def test_numbers_without_a_name_are_unknown(
    nvml: FakeNvml, inventory: NvmlInventory, function: str, value: Any, field: str
) -> None:
    setattr(nvml, function, value)
    assert getattr(inventory.list_gpus()[0], field) == ""


class TestLostGpu:
    @pytest.mark.parametrize("code", [LOST, UNKNOWN], ids=["lost", "unknown-error"])
    @pytest.mark.parametrize("function", [name for name in OPTIONAL if "Device" in name])
    def test_lost_in_the_middle_is_unhealthy_and_hides_nobody(
        self, nvml: FakeNvml, inventory: NvmlInventory, function: str, code: int
    ) -> None:
        nvml.fail[(function, 0)] = code
        first, second = inventory.list_gpus()
        assert (first.uuid, first.index, first.healthy) == (UUIDS[0], 0, False)
        assert second.healthy

    def test_keeps_what_was_known_and_recovers(self, nvml: FakeNvml, inventory: NvmlInventory) -> None:
        before = inventory.list_gpus()
        nvml.fail[("nvmlDeviceGetMemoryInfo", 0)] = LOST
        lost = inventory.list_gpus()[0]
        assert (lost.memory_total_bytes, lost.healthy) == (before[0].memory_total_bytes, False)
        nvml.fail.clear()
        assert inventory.list_gpus() == before

    @pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"])
    def test_without_a_uuid_it_is_listed_only_when_seen_before(
        self, nvml: FakeNvml, tmp_path: Path, function: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        nvml.fail[(function, 1)] = LOST
        fresh = NvmlInventory(nvml=nvml, sysfs=tmp_path)
        with caplog.at_level(logging.WARNING):
            assert [gpu.uuid for gpu in fresh.list_gpus()] == [UUIDS[0]]
        assert "GPU with index 1" in caplog.text
        nvml.fail.clear()
        fresh.list_gpus()
        nvml.fail[(function, 1)] = LOST
        assert [(gpu.uuid, gpu.healthy) for gpu in fresh.list_gpus()] == [(UUIDS[0], True), (UUIDS[1], False)]

    def test_one_that_is_gone_altogether_stays_listed(self, nvml: FakeNvml, inventory: NvmlInventory) -> None:
        inventory.list_gpus()
        nvml.count = 1
        assert [(gpu.uuid, gpu.healthy) for gpu in inventory.list_gpus()] == [(UUIDS[0], True), (UUIDS[1], False)]

    def test_questions_about_it_say_so(self, nvml: FakeNvml, inventory: NvmlInventory) -> None:
        nvml.fail[("nvmlDeviceGetMemoryInfo", 0)] = LOST
        nvml.fail[("nvmlDeviceGetComputeRunningProcesses", 0)] = LOST
        for question in (inventory.memory, inventory.processes):
            with pytest.raises(GpuLost, match=f"GPU {UUIDS[0]}: .*reset"):
                question(UUIDS[0])


class TestUsage:
    def test_memory(self, inventory: NvmlInventory) -> None:
        assert inventory.memory(UUIDS[1]) == GpuMemory(total=100 * MIB, used=30 * MIB, free=70 * MIB)

    def test_processes_are_one_entry_per_pid(self, nvml: FakeNvml, inventory: NvmlInventory) -> None:
        nvml.compute = [SimpleNamespace(pid=9, usedGpuMemory=5), SimpleNamespace(pid=7, usedGpuMemory=None)]
        nvml.graphics = [SimpleNamespace(pid=9, usedGpuMemory=8), SimpleNamespace(pid=3, usedGpuMemory=0)]
        assert inventory.processes(UUIDS[0]) == (GpuProcess(3, 0), GpuProcess(7, None), GpuProcess(9, 8))

    def test_unsupported_is_unknown(self, nvml: FakeNvml, inventory: NvmlInventory) -> None:
        nvml.fail[("nvmlDeviceGetMemoryInfo", None)] = NOT_SUPPORTED
        nvml.fail[("nvmlDeviceGetGraphicsRunningProcesses", None)] = NOT_SUPPORTED
        nvml.compute = [SimpleNamespace(pid=9, usedGpuMemory=5)]
        assert inventory.memory(UUIDS[0]) == GpuMemory(0, 0, 0)
        assert inventory.processes(UUIDS[0]) == (GpuProcess(9, 5),)

    def test_unknown_uuid(self, inventory: NvmlInventory) -> None:
        with pytest.raises(GpuNotFound, match=UUIDS[2]):
            inventory.memory(UUIDS[2])


class TestSession:
    def test_is_opened_and_closed(self, nvml: FakeNvml) -> None:
        with NvmlInventory(nvml=nvml):
            assert nvml.sessions == 1
        assert nvml.sessions == 0

    def test_closing_over_a_dead_driver_is_no_failure(self, nvml: FakeNvml) -> None:
        with NvmlInventory(nvml=nvml):
            nvml.fail[("nvmlShutdown", None)] = UNKNOWN

    @pytest.mark.parametrize(
        ("code", "remedy"),
        [
            (LIBRARY_NOT_FOUND, "install the NVIDIA driver"),
            (DRIVER_NOT_LOADED, "modprobe nvidia"),
            (18, "two driver versions"),
            (UNKNOWN, "nvidia-smi"),
        ],
    )
    def test_a_driver_that_does_not_work_says_what_to_do(self, nvml: FakeNvml, code: int, remedy: str) -> None:
        nvml.fail[("nvmlInit", None)] = code
        with pytest.raises(InventoryUnavailable, match=remedy), NvmlInventory(nvml=nvml):
            pytest.fail("the session opened")

    @pytest.mark.parametrize(
        ("function", "code"),
        [("nvmlDeviceGetCount", 1), ("nvmlDeviceGetHandleByIndex", 1), ("nvmlSystemGetDriverVersion", UNKNOWN)],
    )
    def test_a_driver_that_stops_working_is_no_lost_gpu(
        self, nvml: FakeNvml, inventory: NvmlInventory, function: str, code: int
    ) -> None:
        nvml.fail[(function, None)] = code
        with pytest.raises(InventoryUnavailable):
            inventory.list_gpus()


STUB = """
#define EXPORT __attribute__((visibility("default")))
EXPORT int nvmlInitWithFlags(unsigned flags) { (void)flags; return 0; }
EXPORT int nvmlShutdown(void) { return 0; }
EXPORT const char *nvmlErrorString(int code) { (void)code; return "an error"; }
EXPORT int nvmlDeviceGetCount_v2(unsigned *count) { *count = 0; return 0; }
EXPORT int nvmlSystemGetDriverVersion(char *out, unsigned size)
{
    static const char version[] = VERSION;
    for (unsigned i = 0; i < sizeof version && i < size; i++) out[i] = version[i];
    return 0;
}
"""

# In a process of its own: pynvml keeps the first library that it opened for as long as the process lives.
DRIVER = """
import sys
from pathlib import Path
import pynvml
from fracgpu.driver.errors import InventoryUnavailable
from fracgpu.driver.inventory import NvmlInventory
for path in sys.argv[1:]:
    try:
        with NvmlInventory(Path(path)) as inventory:
            print(pynvml.nvmlSystemGetDriverVersion(), inventory.list_gpus())
    except InventoryUnavailable as error:
        print(error)
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two libraries with NVML's SONAME that differ in the driver version they report."""
    root = tmp_path_factory.mktemp("nvml")
    (root / "stub.c").write_text(STUB)
    paths = []
    for version in ("1.1.1", "2.2.2"):
        path = root / version / "libnvidia-ml.so.1"
        path.parent.mkdir()
        options = ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", f'-DVERSION="{version}"', "-o", str(path)]
        subprocess.run([sys.executable, "-m", "ziglang", "cc", *options, str(root / "stub.c")], check=True)
        paths.append(str(path))
    return paths


def inventories(*paths: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", DRIVER, *paths], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


class TestLoading:
    @pytest.mark.parametrize(("number", "version"), [(0, "1.1.1"), (1, "2.2.2")])
    def test_the_given_library_is_the_one_that_pynvml_uses(
        self, libraries: list[str], number: int, version: str
    ) -> None:
        assert inventories(libraries[number], libraries[number]) == [f"{version} ()"] * 2

    def test_another_library_in_the_same_process_is_refused(self, libraries: list[str]) -> None:
        first, second = inventories(*libraries)
        assert first == "1.1.1 ()"
        assert f"already uses another libnvidia-ml than {libraries[1]}" in second
        assert "one driver root per process" in second

    def test_a_missing_library_says_what_to_do(self, tmp_path: Path) -> None:
        (text,) = inventories(str(tmp_path / "libnvidia-ml.so.1"))
        assert text.startswith(f"library {tmp_path}/libnvidia-ml.so.1: cannot be loaded")
        assert text.endswith("install the NVIDIA driver there, or point the driver root elsewhere")


@pytest.mark.parametrize(
    ("code", "loaded"),
    [(None, True), (DRIVER_NOT_LOADED, True), (LIBRARY_NOT_FOUND, False)],
    ids=["works", "no-module", "no-library"],
)
def test_it_is_known_whether_the_process_has_a_library(code: int | None, loaded: bool) -> None:
    nvml = FakeNvml()
    if code is not None:
        nvml.fail[("nvmlInit", None)] = code
    inventory = NvmlInventory(nvml=nvml)
    assert not inventory.library_loaded
    with suppress(InventoryUnavailable):
        inventory.__enter__()
    assert inventory.library_loaded is loaded


def test_a_file_that_is_no_library_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("half of a download")
    inventory = NvmlInventory(tmp_path / "libnvidia-ml.so.1", nvml=FakeNvml())
    with pytest.raises(InventoryUnavailable, match="cannot be loaded"):
        inventory.__enter__()
    assert not inventory.library_loaded
