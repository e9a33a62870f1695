"""The observer on one node in a directory: its checkpoint is real, its /proc and its driver are made up."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fracgpu.driver.errors import GpuLost, InventoryUnavailable
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.usage import GpuMemory, GpuProcess
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.proof import observed_files as observer_files
from fracgpu.kubeletplugin.proof.members import ClaimConsumers
from fracgpu.kubeletplugin.proof.observation import AllocationObservation, NodeObservation
from fracgpu.kubeletplugin.proof.observer import Observer
from fracgpu.kubeletplugin.proof.processes import ProcessTable
from fracgpu.native.state_file import SlotSnapshot, read_state_file

GIB = 1 << 30
NOW = datetime(2026, 3, 1, tzinfo=UTC)
UUIDS = ("GPU-11111111-1111-1111-1111-111111111111", "GPU-22222222-2222-2222-2222-222222222222")
DIRECTORIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")
POD = "0a1b2c3d-1111-2222-3333-444455556666"


class Driver:
    """GpuInventory whose processes the test says; `broken` is raised instead of an answer."""

    def __init__(self, gpus: tuple[Gpu, ...]) -> None:
        self.gpus = gpus
        self.on: dict[str, list[GpuProcess]] = {}
        self.broken: Exception | None = None
        self.listings = 0

    def list_gpus(self) -> tuple[Gpu, ...]:
        self.listings += 1
        if self.broken is not None:
            raise self.broken
        return self.gpus

    def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        if self.broken is not None:
            raise self.broken
        return tuple(self.on.get(uuid, ()))

    def memory(self, uuid: str) -> GpuMemory:  # noqa: ARG002 - the inventory's signature
        return GpuMemory(total=44 * GIB, used=GIB, free=43 * GIB)


class Setting:
    def __init__(self, world: Any) -> None:
        self.world = world
        self.proc: Path = world.root / "proc"
        self.driver = Driver((world.gpu(0), world.gpu(1)))
        self.consumers = ClaimConsumers()
        self.seen: list[NodeObservation] = []
        self.preparer = world.preparer()
        (self.proc / "self").mkdir(parents=True)
        shutil.copyfile("/proc/self/mountinfo", self.proc / "self" / "mountinfo")
        self.observer = self.make()

    def make(self, *listeners: Callable[[NodeObservation], None]) -> Observer:
        options = self.world.options
        return Observer(
            options=options,
            inventory=self.driver,
            checkpoints=CheckpointStore(options.state_dir / "checkpoint.json", Files()),
            consumers=self.consumers,
            machine="x86_64",
            listeners=(self.seen.append, *listeners),
            proc_root=self.proc,
            now=lambda: NOW,
        )

    def look(self, times: int = 2) -> dict[str, AllocationObservation]:
        """Look so many times, and return what the last look saw by claim."""
        for _ in range(times):
            self.observer.look()
        return {one.claim.name: one for one in self.seen[-1].allocations}

    def verdict(self, name: str = "c1", times: int = 2) -> str:
        finding = self.look(times)[name].enforced
        return f"{finding.truth}/{finding.reason}"

    def process(
        self, pid: int, *refs: ClaimRef, container: str | None = None, gpu: int = 0, shims: bool = True
    ) -> Path:
        """Put a process on a GPU, with the mounts of these claims, as a container of theirs would have them."""
        place = self.proc / str(pid)
        (place / "ns").mkdir(parents=True)
        (place / "root").mkdir()
        (place / "ns" / "mnt").symlink_to("mnt:[1]")
        (place / "ns" / "pid").touch()
        (place / "comm").write_text("python\n")
        (place / "stat").write_text(f"{pid} (python) S " + " ".join(["0"] * 18 + [str(pid)] + ["0"] * 30))
        (place / "status").write_text(f"NSpid:\t{pid}\t1\n")
        (place / "cgroup").write_text(f"0::/kubepods/pod{POD}/{container * 64}\n" if container else "0::/\n")
        lines = ["1 0 0:30 / / rw - overlay o rw"]
        lines += [f"1{n} 1 0:9 /x {self._inside(ref)} ro - tmpfs t rw" for n, ref in enumerate(refs)]
        (place / "mountinfo").write_text("\n".join([*lines, *(self._shims() if shims else ())]) + "\n")
        self.driver.on.setdefault(UUIDS[gpu], []).append(GpuProcess(pid, GIB))
        return place

    def end(self, pid: int) -> None:
        shutil.rmtree(self.proc / str(pid), ignore_errors=True)
        for gpu, processes in self.driver.on.items():
            self.driver.on[gpu] = [one for one in processes if one.pid != pid]

    def library(self, soname: str) -> Path:
        (directory,) = (self.world.options.state_dir / "lib").iterdir()
        found: Path = directory / soname
        return found

    def _inside(self, ref: ClaimRef) -> str:
        return f"/run/fracgpu/allocations/{self.world.allocation(ref).name}/config"

    def _shims(self) -> list[str]:
        own = ProcessTable(self.proc).own_mounts()
        lines: list[str] = []
        for directory in DIRECTORIES:
            for soname in ("libcuda.so.1", "libnvidia-ml.so.1"):
                identity = own.identity(str(self.library(soname).resolve()))
                assert identity is not None
                for name in (soname, soname.removesuffix(".1")):
                    where = f"{identity.device} {identity.root} {directory}/{name}"
                    lines.append(f"{500 + len(lines)} 1 {where} ro - ext4 d rw")
        return lines


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
    assert (one.used_bytes, one.refusals) == (None, None)


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
    slot = SlotSnapshot(
        index=0,
        pid=1,
        start_time_ticks=5,
        pid_namespace_inode=(place / "ns" / "pid").stat().st_ino,
        generation=1,
        committed_bytes=0,
        pending_bytes=0,
        overhead_bytes=0,
        pool_bytes=0,
        managed_bytes=0,
        host_pinned_bytes=0,
    )
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
