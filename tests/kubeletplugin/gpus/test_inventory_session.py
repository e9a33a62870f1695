"""A driver that comes, breaks, comes back or is replaced, as the session sees it."""

from pathlib import Path
from typing import Any, Self

import pytest

from fracgpu.cdi.errors import DriverAbsent
from fracgpu.driver.errors import GpuLost, InventoryUnavailable
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.inventory import GpuMemory, GpuProcess
from fracgpu.driver.names import GpuUuid
from fracgpu.kubeletplugin.gpus.inventory_session import InventorySession

BROKEN = InventoryUnavailable("NVML", "does not work: Driver Not Loaded", remedy="load the nvidia kernel module")


class Nvml:
    """One library in this process. `broken` answers are errors until they are used up; `loads` tells if it can load."""

    def __init__(self, path: Path, driver: "Driver") -> None:
        self.path = path
        self.driver = driver
        self.library_loaded = False
        driver.made.append(path.read_text())

    def __enter__(self) -> Self:
        self.driver.events.append("open")
        if not self.driver.loads:
            raise InventoryUnavailable(f"library {self.path}", "cannot be loaded", remedy="install it")
        self.library_loaded = True
        if not self.driver.starts:
            raise BROKEN
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.events.append("close")

    def list_gpus(self) -> tuple[Gpu, ...]:
        self.driver.events.append("ask")
        if self.driver.broken:
            self.driver.broken -= 1
            raise BROKEN
        return ()

    def processes(self, uuid: GpuUuid) -> tuple[GpuProcess, ...]:
        raise GpuLost(f"GPU {uuid}", "is lost", remedy="reset it")

    def memory(self, uuid: GpuUuid) -> GpuMemory:  # noqa: ARG002 (the signature of what it stands for)
        return GpuMemory(total=3, used=2, free=1)


class Driver:
    """The driver of a node: a file, and how it behaves."""

    def __init__(self, root: Path) -> None:
        self.library = root / "libnvidia-ml.so.1"
        self.library.write_text("one")
        self.installed = self.loads = self.starts = True
        self.broken = 0
        self.events: list[str] = []
        self.made: list[str] = []
        self.replaced = 0
        self.session = InventorySession(
            self.find, on_replaced=self._on_replaced, make_session=lambda path: Nvml(path, self)
        )

    def find(self) -> Path:
        if not self.installed:
            raise DriverAbsent("driver root /", "no libcuda", remedy="install the NVIDIA driver")
        return self.library

    def replace(self) -> None:
        fresh = self.library.with_suffix(".new")
        fresh.write_text("two")
        fresh.rename(self.library)

    def _on_replaced(self) -> None:
        self.replaced += 1

    def fails(self) -> str:
        with pytest.raises(InventoryUnavailable) as error:
            self.session.list_gpus()
        return str(error.value)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def test_a_session_is_opened_once_when_it_is_needed(driver: Driver) -> None:
    assert driver.events == []
    driver.session.list_gpus()
    driver.session.list_gpus()
    assert driver.session.memory(GpuUuid("GPU-1")) == GpuMemory(3, 2, 1)
    assert driver.events == ["open", "ask", "ask"]


def test_a_lost_gpu_is_no_reason_to_open_a_new_session(driver: Driver) -> None:
    for _ in range(2):
        with pytest.raises(GpuLost):
            driver.session.processes(GpuUuid("GPU-1"))
    assert driver.events == ["open"]


def test_a_session_that_broke_is_opened_again_within_the_call(driver: Driver) -> None:
    driver.session.list_gpus()
    driver.broken = 1
    assert driver.session.list_gpus() == ()
    assert driver.events == ["open", "ask", "ask", "close", "open", "ask"]
    # The same object: it remembers the GPUs that it has seen.
    assert driver.made == ["one"]


def test_a_driver_that_stays_broken_is_an_error_of_each_call_until_it_works(driver: Driver) -> None:
    driver.session.list_gpus()
    driver.broken = 3
    assert driver.fails() == driver.fails() == str(BROKEN)
    assert driver.session.list_gpus() == ()
    assert driver.events.count("open") == driver.events.count("close") + 1
    assert driver.replaced == 0


def test_a_driver_that_comes_later_is_used(driver: Driver) -> None:
    driver.installed = False
    assert driver.fails() == "NVML: no usable driver: driver root /: no libcuda; install the NVIDIA driver"
    driver.installed, driver.loads = True, False
    assert "cannot be loaded" in driver.fails()
    # Half of a driver that was being installed, and never got into this process.
    driver.replace()
    driver.loads, driver.starts = True, False
    assert driver.fails() == str(BROKEN)
    driver.starts = True
    assert driver.session.list_gpus() == ()
    assert driver.made == ["one", "two"]
    assert driver.replaced == 0


def test_a_library_that_vanishes_between_finding_and_looking_is_no_driver(driver: Driver) -> None:
    driver.library.unlink()
    assert driver.fails().startswith("NVML: [Errno 2] No such file or directory")


def test_a_working_session_outlives_its_files(driver: Driver) -> None:
    driver.session.list_gpus()
    driver.replace()
    driver.session.list_gpus()
    driver.installed = False
    driver.session.list_gpus()
    assert driver.replaced == 0


@pytest.mark.parametrize("worked", [True, False], ids=["worked-before", "never-worked"])
def test_a_broken_driver_with_another_library_in_its_place_asks_for_a_new_process(driver: Driver, worked: bool) -> None:
    driver.starts = worked
    if worked:
        driver.session.list_gpus()
    else:
        driver.fails()
    driver.starts, driver.broken = False, 9
    driver.fails()
    assert driver.replaced == 0
    driver.replace()
    driver.starts, driver.broken = True, 0
    assert "is another library than this process has loaded; the plugin ends" in driver.fails()
    assert driver.replaced == 1
    assert driver.made == ["one"]


def test_the_same_path_found_elsewhere_counts_as_another_library(driver: Driver, tmp_path: Path) -> None:
    driver.starts = False
    driver.fails()
    other: Any = tmp_path / "other"
    other.write_text("one")
    driver.library = other
    driver.fails()
    assert driver.replaced == 1
