"""What the observer finds on a node, look by look."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fracgpu.driver.errors import GpuLost, InventoryUnavailable
from fracgpu.driver.usage import GpuProcess
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof import observed_files as observer_files
from fracgpu.kubeletplugin.proof.observation import NodeObservation
from fracgpu.native.config_change import change_config_page
from fracgpu.native.state_file import SlotSnapshot, read_state_file
from tests.kubeletplugin.proof.observer_setting import DIRECTORIES, GIB, NOW, POD, SLOT, UUIDS, Setting


@pytest.fixture
def setting(world: Any) -> Setting:
    return Setting(world)


@pytest.fixture
def claim(setting: Setting) -> Callable[..., ClaimRef]:
    def prepared(name: str = "c1", *shares: dict[str, Any], **changes: Any) -> ClaimRef:
        ref: ClaimRef = setting.world.claim(name, *shares, **changes)
        setting.preparer.prepare(ref)
        return ref

    return prepared


def test_an_empty_node(setting: Setting) -> None:
    assert setting.observer.latest() is None
    assert setting.look() == {}
    assert [(gpu.gpu_uuid, gpu.healthy, gpu.foreign_processes) for gpu in setting.seen[-1].gpus] == [
        (UUIDS[0], True, 0),
        (UUIDS[1], True, 0),
    ]
    assert setting.observer.latest() == setting.seen[-1]


def test_a_prepared_claim_without_processes(setting: Setting, claim: Any) -> None:
    ref = claim()
    one = setting.look()["c1"]
    assert (one.claim, one.record.gpu_uuid, one.observed_at) == (ref, UUIDS[0], NOW)
    assert [f"{f.truth}/{f.reason}" for f in (one.prepared, one.enforced, one.within_limit, one.compatible)] == [
        "True/Prepared",
        "Unknown/NoProcess",
        "True/WithinLimit",
        "True/Compatible",
    ]
    assert (one.used_bytes, one.peak_bytes, one.refusals, one.processes, one.driver_bytes) == (0, 0, 0, 0, 0)


def test_a_process_without_a_slot_is_found_at_the_second_look(setting: Setting, claim: Any) -> None:
    setting.process(4711, claim())
    assert setting.verdict(times=1) == "Unknown/NoProcess"
    assert setting.verdict(times=1) == "False/LibraryNotLoaded"
    one = setting.look()["c1"]
    assert (one.processes, one.driver_bytes) == (1, GIB)
    setting.end(4711)
    assert setting.verdict() == "Unknown/NoProcess"


def test_a_process_that_is_ending_has_no_slot_any_more(setting: Setting, claim: Any) -> None:
    place = setting.process(4711, claim())
    (place / "task" / "4711").mkdir(parents=True)
    (place / "task" / "4711" / "stat").write_text("4711 (python) D 1 1 1 0 -1 4 0 0")
    assert setting.verdict() == "Unknown/NoProcess"
    # A zombie shows nothing of itself, but it is no stranger that the plugin can not see.
    (place / "ns" / "mnt").unlink()
    assert setting.verdict() == "Unknown/NoProcess"
    (place / "task" / "4711" / "stat").unlink()
    assert setting.verdict() == "Unknown/ProcessNotVisible"


def test_a_process_without_our_mounts_has_another_library(setting: Setting, claim: Any) -> None:
    setting.process(4711, claim(), shims=False)
    one = setting.look()["c1"]
    assert one.enforced.reason == "LibraryReplaced"
    assert "at /usr/lib/x86_64-linux-gnu/libcuda.so.1 lies the image's own file, or none" in one.enforced.message


def test_the_stored_file_is_known_by_its_inode_where_mounts_differ(setting: Setting, claim: Any) -> None:
    place = setting.process(4711, claim(), shims=False)
    for directory in DIRECTORIES:
        (place / "root" / directory[1:]).mkdir(parents=True)
        for soname in ("libcuda.so.1", "libnvidia-ml.so.1"):
            for name in (soname, soname.removesuffix(".1")):
                (place / "root" / directory[1:] / name).hardlink_to(setting.library(soname))
    assert setting.verdict() == "False/LibraryNotLoaded"


def test_a_process_belongs_by_container_and_by_pod(setting: Setting, claim: Any) -> None:
    ref = claim()
    setting.process(1, ref, container="a")
    setting.process(2, container="a", shims=False)
    setting.process(3, container="b", shims=False)
    assert setting.look()["c1"].processes == 2
    assert setting.seen[-1].gpus[0].foreign_processes == 1
    setting.consumers.learn(ref.uid, {"status": {"reservedFor": [{"resource": "pods", "uid": POD}]}})
    assert setting.look()["c1"].processes == 3
    assert setting.seen[-1].gpus[0].foreign_processes == 0


def test_containers_are_forgotten_with_their_allocation(setting: Setting, claim: Any) -> None:
    ref = claim()
    setting.process(1, ref, container="a")
    setting.look()
    setting.end(1)
    setting.preparer.unprepare(ref)
    setting.look(1)
    setting.preparer.prepare(ref)
    setting.process(2, container="a", shims=False)
    assert setting.look()["c1"].processes == 0


def test_a_process_on_a_gpu_that_it_was_not_given_is_foreign_there(setting: Setting, claim: Any) -> None:
    setting.process(4711, claim(), gpu=1)
    assert setting.look()["c1"].processes == 0
    assert [gpu.foreign_processes for gpu in setting.seen[-1].gpus] == [0, 1]


def test_two_claims_of_one_gpu_in_one_container(setting: Setting, claim: Any) -> None:
    setting.process(4711, claim(), claim("c2"))
    both = setting.look()
    assert [(one.processes, one.driver_bytes) for one in both.values()] == [(1, None), (1, None)]


def test_what_the_plugin_can_not_see_is_said(setting: Setting, claim: Any) -> None:
    claim()
    setting.driver.on[UUIDS[0]] = [GpuProcess(99, None)]
    assert setting.verdict(times=1) == "Unknown/NoProcess"
    assert setting.verdict(times=1) == "Unknown/ProcessNotVisible"
    gpu = setting.seen[-1].gpus[0]
    assert (gpu.hidden_processes, gpu.foreign_processes) == (1, 0)


@pytest.mark.parametrize("kind", [GpuLost, InventoryUnavailable])
def test_a_driver_that_is_silent(setting: Setting, claim: Any, kind: Any) -> None:
    claim()
    setting.look()
    setting.driver.broken = kind("GPU", "does not answer", remedy="reset it")
    one = setting.look()["c1"]
    assert (one.enforced.reason, one.enforced.message) == ("DriverSilent", f"GPU {UUIDS[0]}: does not answer")
    assert one.driver_bytes is None
    assert [gpu.healthy for gpu in setting.seen[-1].gpus] == [False, False]
    setting.driver.broken = None
    assert setting.verdict() == "Unknown/NoProcess"


def test_a_gpu_of_an_allocation_is_looked_at_even_if_it_is_not_listed(setting: Setting, claim: Any) -> None:
    claim("c1", {"device": "gpu-22222222"})
    setting.driver.gpus = setting.driver.gpus[:1]
    setting.observer = setting.make()
    assert setting.verdict() == "Unknown/NoProcess"
    assert [gpu.gpu_uuid for gpu in setting.seen[-1].gpus] == list(UUIDS)


def test_gpus_are_listed_now_and_then(setting: Setting) -> None:
    setting.look(61)
    assert setting.driver.listings == 3


def test_after_a_reboot(setting: Setting, claim: Any) -> None:
    claim()
    shutil.rmtree(setting.world.options.run_dir)
    shutil.rmtree(setting.world.options.cdi_dir)
    one = setting.look()["c1"]
    assert [f"{f.truth}/{f.reason}" for f in (one.prepared, one.enforced, one.within_limit, one.compatible)] == [
        "False/FilesMissing",
        "Unknown/NoProcess",
        "Unknown/FilesMissing",
        "Unknown/FilesMissing",
    ]
    assert (one.used_bytes, one.refusals, one.host_pinned_bytes) == (None, None, None)


def test_limits_changed_on_the_node_are_shown_and_no_tampering(setting: Setting, claim: Any) -> None:
    ref = claim()
    setting.process(1, ref, container="a")
    page = setting.world.allocation(ref) / "config"
    before = setting.look()["c1"]
    change_config_page(page, lambda now: replace(now, memory_limit_bytes=GIB, suspend=True))
    one = setting.look()["c1"]
    assert (before.memory_limit_bytes, before.suspended) == (8 * GIB, False)
    assert (one.memory_limit_bytes, one.suspended) == (GIB, True)
    kinds = ("prepared", "enforced", "within_limit", "compatible")
    assert [getattr(one, kind).reason for kind in kinds] == [getattr(before, kind).reason for kind in kinds]


def test_a_change_that_was_cut_off_is_said_until_the_next_one(setting: Setting, claim: Any) -> None:
    page = setting.world.allocation(claim()) / "config"
    with page.open("r+b") as file:
        os.pwrite(file.fileno(), b"\3", 16)
    one = setting.look()["c1"]
    assert (one.compatible.truth, one.memory_limit_bytes) == ("False", 8 * GIB)
    assert "odd" in one.compatible.message
    change_config_page(page, lambda now: now)
    assert setting.look()["c1"].compatible.truth == "True"


def test_an_account_that_the_container_broke(setting: Setting, claim: Any) -> None:
    ref = claim()
    (setting.world.allocation(ref) / "state").write_bytes(b"x")
    one = setting.look()["c1"]
    assert (one.enforced.reason, one.within_limit.reason, one.used_bytes) == (
        "AccountDamaged",
        "AccountUnreadable",
        None,
    )


def test_an_interceptor_that_is_gone(setting: Setting, claim: Any) -> None:
    claim()
    shutil.rmtree(setting.library("libcuda.so.1").parent)
    assert setting.look()["c1"].compatible.reason == "LibraryMissing"


def test_a_claim_that_is_taken_back_is_gone(setting: Setting, claim: Any) -> None:
    ref = claim()
    setting.look()
    setting.preparer.unprepare(ref)
    assert setting.look(1) == {}


def test_losing_and_regaining_is_logged_once(setting: Setting, claim: Any, caplog: pytest.LogCaptureFixture) -> None:
    setting.process(4711, claim())
    with caplog.at_level(logging.INFO):
        setting.look(5)
        setting.end(4711)
        setting.look(5)
    told = [(record.levelname, record.message, record.__dict__["claim"]) for record in caplog.records]
    assert told == [
        ("WARNING", "limits are not enforced", "ns/c1"),
        ("INFO", "limits are no longer bypassed", "ns/c1"),
    ]
    assert caplog.records[0].__dict__["gpu"] == UUIDS[0]
    assert "process 4711" in caplog.records[0].__dict__["detail"]


def test_a_listener_that_fails_stops_nobody(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_observation: NodeObservation) -> None:
        raise ValueError("a bug")

    told: list[NodeObservation] = []
    setting.observer = setting.make(broken, told.append)
    setting.look(1)
    assert len(told) == 1
    assert [record.message for record in caplog.records] == ["a listener failed on an observation"]


def test_the_loop_says_once_what_is_wrong_and_goes_on(
    setting: Setting, claim: Any, caplog: pytest.LogCaptureFixture
) -> None:
    claim()
    checkpoint = setting.world.options.state_dir / "checkpoint.json"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(b"{")
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 3:
            checkpoint.write_bytes(content)
        return len(waits) == 4

    setting.observer.run(wait)
    assert waits == [1.0] * 4
    assert [record.message for record in caplog.records] == ["allocations not observed"]
    assert [len(one.allocations) for one in setting.seen] == [1]


def test_an_old_true_does_not_stand_for_ever(setting: Setting, claim: Any) -> None:
    """When nothing can be observed any more, claims and metrics say so instead of what was seen last."""
    claim()
    checkpoint = setting.world.options.state_dir / "checkpoint.json"
    content = checkpoint.read_bytes()
    told: list[list[str]] = []

    def wait(_seconds: float) -> bool:
        told.append([one.enforced.reason for one in setting.seen[-1].allocations])
        checkpoint.write_bytes(content if len(told) > 40 else b"{")
        return len(told) == 43

    setting.observer.run(wait)
    assert told == [["NoProcess"]] * 15 + [["NotObserved"]] * 26 + [["NoProcess"]] * 2
    assert setting.observer.latest() == setting.seen[-1]
    # Once, not every second.
    assert len(setting.seen) == 1 + 1 + 2


def test_a_bug_is_logged_with_its_trace_and_the_loop_goes_on(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    setting.driver.broken = ZeroDivisionError()
    left = [False, True]
    setting.observer.run(lambda _seconds: left.pop(0))
    (record,) = caplog.records
    assert record.exc_info


def test_a_process_with_a_slot_is_enforced(setting: Setting, claim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot counts by PID and PID namespace, or by PID and start time where the container knows no namespace."""
    place = setting.process(4711, claim())
    slot = replace(SLOT, pid_namespace_inode=(place / "ns" / "pid").stat().st_ino)
    for changes, enforced in (
        ({}, True),
        ({"pid": 4711}, False),
        ({"pid_namespace_inode": slot.pid_namespace_inode + 1}, False),
        ({"pid_namespace_inode": 0}, False),
        ({"pid_namespace_inode": 0, "start_time_ticks": 4711}, True),
        ({"pid_namespace_inode": 0, "start_time_ticks": 0}, True),
    ):
        taken = replace(slot, **changes)

        def read(path: Path, taken: SlotSnapshot = taken) -> Any:
            return replace(read_state_file(path), processes=(taken,))

        monkeypatch.setattr(observer_files, "read_state_file", read)
        assert setting.verdict() == ("True/InterceptorAttached" if enforced else "False/LibraryNotLoaded"), changes


def test_what_all_processes_have_pinned_of_the_host(
    setting: Setting, claim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim()
    slots = (replace(SLOT, host_pinned_bytes=3 * GIB), replace(SLOT, index=1, host_pinned_bytes=GIB))
    monkeypatch.setattr(observer_files, "read_state_file", lambda path: replace(read_state_file(path), processes=slots))
    assert setting.look()["c1"].host_pinned_bytes == 4 * GIB
