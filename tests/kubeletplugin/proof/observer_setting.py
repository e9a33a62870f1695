"""The observer on one node in a directory: its checkpoint is real, its /proc and its driver are made up."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fracgpu.driver.gpu import Gpu
from fracgpu.driver.usage import GpuMemory, GpuProcess
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.proof.members import ClaimConsumers
from fracgpu.kubeletplugin.proof.observation import AllocationObservation, NodeObservation
from fracgpu.kubeletplugin.proof.observer import Observer
from fracgpu.kubeletplugin.proof.processes import ProcessTable
from fracgpu.native.state_file import SlotSnapshot

GIB = 1 << 30
NOW = datetime(2026, 3, 1, tzinfo=UTC)
UUIDS = ("GPU-11111111-1111-1111-1111-111111111111", "GPU-22222222-2222-2222-2222-222222222222")
DIRECTORIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")
POD = "0a1b2c3d-1111-2222-3333-444455556666"

SLOT = SlotSnapshot(
    index=0,
    pid=1,
    start_time_ticks=5,
    pid_namespace_inode=0,
    generation=1,
    committed_bytes=0,
    pending_bytes=0,
    overhead_bytes=0,
    pool_bytes=0,
    managed_bytes=0,
    host_pinned_bytes=0,
)


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
        lines += [f"1{n} 1 {self._page(ref)} ro - tmpfs t rw" for n, ref in enumerate(refs)]
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

    def _page(self, ref: ClaimRef) -> str:
        """Device, root and mount point of the claim's config page."""
        directory: Path = self.world.allocation(ref)
        identity = ProcessTable(self.proc).own_mounts().identity(str(directory.resolve() / "config"))
        assert identity is not None
        return f"{identity.device} {identity.root} /run/fracgpu/allocations/{directory.name}/config"

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
