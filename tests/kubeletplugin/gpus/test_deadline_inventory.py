"""A driver that does not answer: callers are told in time, nothing piles up, and it recovers by itself."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fracgpu.driver.errors import GpuLost, InventoryUnavailable
from fracgpu.driver.inventory import GpuMemory
from fracgpu.driver.names import GpuUuid
from fracgpu.kubeletplugin.gpus.deadline_inventory import DeadlineInventory, answer_within
from fracgpu.kubeletplugin.gpus.health import HealthMonitor
from fracgpu.kubeletplugin.prepare.deadline import Deadline

GENEROUS_SECONDS = 60.0
GPU = GpuUuid("GPU-1")


def answer(call: Callable[[], Any]) -> Any:
    """What `call` returns; the stand-in answers with other types than a driver."""
    return call()


class Driver:
    """An inventory whose calls wait for `answer`; `entered` says that one is under way."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.answer.set()
        self.entered = threading.Semaphore(0)
        self.threads: set[int] = set()
        self.calls: list[str] = []
        self.error: Exception | None = None

    def _work(self, name: str) -> None:
        self.calls.append(name)
        self.threads.add(threading.get_ident())
        self.entered.release()
        assert self.answer.wait(GENEROUS_SECONDS)
        if self.error is not None:
            raise self.error

    def list_gpus(self) -> Any:
        self._work("list_gpus")
        return ("gpu",)

    def processes(self, uuid: Any) -> Any:
        self._work(f"processes {uuid}")
        return ("process",)

    def memory(self, uuid: Any) -> Any:
        self._work(f"memory {uuid}")
        return GpuMemory(3, 2, 1)


@pytest.fixture
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.answer.set()


def test_answers_pass_and_all_calls_are_made_by_one_thread(driver: Driver) -> None:
    inventory = DeadlineInventory(driver)
    assert answer(inventory.list_gpus) == ("gpu",)
    assert answer(lambda: inventory.processes(GPU)) == ("process",)
    assert inventory.memory(GPU) == GpuMemory(3, 2, 1)
    assert driver.calls == ["list_gpus", "processes GPU-1", "memory GPU-1"]
    assert len(driver.threads) == 1
    assert threading.get_ident() not in driver.threads
    inventory.close()


def test_the_driver_s_own_errors_pass(driver: Driver) -> None:
    driver.error = GpuLost("GPU GPU-1", "is lost", remedy="reset it")
    inventory = DeadlineInventory(driver)
    with pytest.raises(GpuLost, match="is lost"):
        inventory.memory(GPU)
    driver.error = None
    assert answer(inventory.list_gpus) == ("gpu",)
    inventory.close()


def test_a_silent_driver_is_reported_in_time_then_at_once_and_comes_back(driver: Driver, world: Any) -> None:
    driver.answer.clear()
    inventory = DeadlineInventory(driver, timeout_seconds=0.05, clock=world.clock)
    with pytest.raises(InventoryUnavailable, match=r"NVML: has not answered since .*, asked for the list of GPUs"):
        inventory.list_gpus()
    world.clock.seconds += 120
    threads = threading.active_count()
    for _ in range(50):
        with pytest.raises(InventoryUnavailable) as error:
            inventory.memory(GPU)
    assert str(error.value) == (
        "NVML: has not answered since 1970-01-01 00:16:40 UTC, asked for the list of GPUs; "
        "look for Xid in the kernel log of the node and reset the GPU; it goes on when the driver answers"
    )
    assert threading.active_count() == threads
    assert driver.calls == ["list_gpus"]
    # They did not even queue up.
    assert inventory._jobs.qsize() == 0
    driver.answer.set()
    inventory._timeout_seconds = GENEROUS_SECONDS
    assert served(inventory.list_gpus) == ("gpu",)
    assert driver.calls == ["list_gpus"] * 2
    inventory.close()


def served(call: Callable[[], Any]) -> Any:
    """Call until the driver's thread is free again; until then the refusals come at once and never reach it."""
    end = time.monotonic() + GENEROUS_SECONDS
    while True:
        try:
            return call()
        except InventoryUnavailable:
            assert time.monotonic() < end


def test_a_caller_that_waits_behind_a_slow_call_is_not_served_after_it_has_gone(driver: Driver) -> None:
    driver.answer.clear()
    patient = DeadlineInventory(driver, timeout_seconds=GENEROUS_SECONDS)
    first = threading.Thread(target=patient.list_gpus)
    first.start()
    assert driver.entered.acquire(timeout=GENEROUS_SECONDS)
    patient._timeout_seconds = 0.05
    with pytest.raises(InventoryUnavailable):
        patient.memory(GPU)
    driver.answer.set()
    first.join(GENEROUS_SECONDS)
    patient._timeout_seconds = GENEROUS_SECONDS
    assert served(lambda: patient.processes(GPU)) == ("process",)
    assert driver.calls == ["list_gpus", "processes GPU-1"]
    patient.close()


def test_a_claim_is_refused_with_that_text_and_unprepare_does_not_care(driver: Driver, world: Any) -> None:
    ref = world.claim()
    preparer = world.preparer()
    preparer.prepare(ref)
    driver.answer.clear()
    world.inventory = DeadlineInventory(driver, timeout_seconds=0.05)
    preparer = world.preparer()
    with pytest.raises(InventoryUnavailable, match="NVML: has not answered"):
        preparer.prepare(ref)
    assert preparer.unprepare(ref).known
    assert world.residue() == []


def test_a_caller_with_less_time_waits_less_and_says_nothing_about_the_driver(driver: Driver) -> None:
    driver.answer.clear()
    inventory = DeadlineInventory(driver, timeout_seconds=GENEROUS_SECONDS)
    began = time.monotonic()
    with pytest.raises(InventoryUnavailable, match="NVML: has not answered since"), answer_within(0.05):
        inventory.list_gpus()
    assert time.monotonic() - began < GENEROUS_SECONDS / 2
    driver.answer.set()
    # Not refused at once: this caller has time.
    assert answer(lambda: inventory.processes(GPU)) == ("process",)
    inventory.close()


def test_a_prepare_with_little_time_left_does_not_wait_for_the_driver_s_whole_limit(driver: Driver, world: Any) -> None:
    """Else a batch whose claims each wait for 15 s would be answered after the kubelet has gone."""
    ref = world.claim()
    driver.answer.clear()
    world.inventory = DeadlineInventory(driver, timeout_seconds=GENEROUS_SECONDS)
    began = time.monotonic()
    with pytest.raises(InventoryUnavailable, match="NVML: has not answered since"):
        world.preparer().prepare(ref, Deadline(0.5))
    assert time.monotonic() - began < GENEROUS_SECONDS / 2


def test_a_hanging_driver_is_one_trouble_and_not_a_new_one_at_each_look(
    driver: Driver, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    driver.answer.clear()
    monitor = HealthMonitor(DeadlineInventory(driver, timeout_seconds=0.05, clock=world.clock))
    told: list[int] = []
    monitor.listen(lambda: told.append(len(told)))
    for _ in range(6):
        monitor.look()
        world.clock.seconds += 5
    # The first look, and the second, with which the silence counts.
    assert len(told) == 2
    assert caplog.text.count("can not be listed") == 1
    assert caplog.text.count("can still not be listed") == 0
