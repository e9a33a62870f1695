"""One look at the node: what the driver, /proc and the allocations' files say, put together as evidence.

The order matters. The driver is asked first, then /proc, then the state files: a process takes its slot before it gets
a context, so whoever the driver lists must have one by the time that the slots are read.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.inventory import GpuInventory
from fracgpu.driver.names import GpuUuid
from fracgpu.driver.usage import GpuMemory, GpuProcess
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, Checkpoint, ClaimEntry
from fracgpu.kubeletplugin.prepare.edits import (
    CONFIG_FILE,
    CUDA_SONAME,
    NVML_SONAME,
    PRELOAD_LIBRARIES,
    PRELOAD_LIST,
    STATE_FILE,
)
from fracgpu.kubeletplugin.prepare.plan import allocation_directory, spec_path
from fracgpu.kubeletplugin.proof.evidence import AllocationEvidence, ProcessEvidence
from fracgpu.kubeletplugin.proof.members import Candidate, Members
from fracgpu.kubeletplugin.proof.mountinfo import FileIdentity, MountTable
from fracgpu.kubeletplugin.proof.observed_files import read_account, read_page
from fracgpu.kubeletplugin.proof.processes import ProcessFacts, ProcessTable, file_id
from fracgpu.kubeletplugin.proof.verdict_mounts import Replaced, first_forged, first_replaced
from fracgpu.native.state_file import SlotSnapshot, StateSnapshot

SONAMES = (CUDA_SONAME, NVML_SONAME)
# What earlier versions stored has only the former.
_STORED_NAMES = (*SONAMES, PRELOAD_LIST, *PRELOAD_LIBRARIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLook:
    """One GPU: what the driver says of it, which processes on it were found, which are hidden, and whose they are."""

    gpu_uuid: str
    silent: str | None
    memory: GpuMemory
    processes: tuple[GpuProcess, ...]
    facts: Mapping[int, ProcessFacts]
    hidden_pids: tuple[int, ...]
    owners: Mapping[int, frozenset[str]]

    @property
    def foreign_processes(self) -> int:
        """How many of the processes found belong to no allocation of ours."""
        return sum(not owners for owners in self.owners.values())


class StoredLibraries:
    """The interceptors in this node's store, and how to recognise one behind a path of another process."""

    def __init__(self, directory: Path, table: ProcessTable) -> None:
        """Look at the store below `directory` once. Raises OSError when the own mounts can not be read."""
        self._table = table
        self._directory = directory.resolve()
        digests = (path.name for path in self._directory.iterdir()) if self._directory.is_dir() else ()
        self.digests = frozenset(
            digest for digest in digests if all((self._directory / digest / soname).is_file() for soname in SONAMES)
        )
        mounts = table.own_mounts()
        self.identities: dict[str, frozenset[FileIdentity]] = {
            soname: frozenset(
                identity for path in self._paths(soname) if (identity := mounts.identity(path)) is not None
            )
            for soname in _STORED_NAMES
        }

        self._own_mounts = mounts

    def pages(self, options: PluginOptions, allocation_ids: Iterable[str]) -> dict[str, FileIdentity]:
        """Return which file the config page of each allocation is."""
        run_dir = options.run_dir.resolve()
        found = {
            one: self._own_mounts.identity(
                str(run_dir / allocation_directory(options, one).relative_to(options.run_dir) / CONFIG_FILE)
            )
            for one in allocation_ids
        }
        return {one: identity for one, identity in found.items() if identity is not None}

    def view_of(self, pid: int) -> "_View":
        """Return the file system of process `pid` as the mount check asks it."""
        return _View(self, self._table, pid)

    def holds(self, found: tuple[int, int] | None, soname: str) -> bool:
        """Tell whether device and inode number `found` are those of a stored interceptor."""
        return found is not None and any(file_id(path) == found for path in self._paths(soname))

    def _paths(self, soname: str) -> Iterable[str]:
        return (str(self._directory / digest / soname) for digest in self.digests)


class _View:
    """FileSystemView of one process."""

    def __init__(self, stored: StoredLibraries, table: ProcessTable, pid: int) -> None:
        self._stored = stored
        self._table = table
        self._pid = pid

    def resolve(self, path: str, may_ask: Callable[[str], bool]) -> str:
        return self._table.resolve(self._pid, path, may_ask)

    def is_stored(self, path: str, soname: str) -> bool:
        return self._stored.holds(self._table.file_id(self._pid, path), soname)

    def names(self, directory: str, *, most: int) -> tuple[str, ...]:
        return self._table.names(self._pid, directory, most=most)


def look_at_gpu(
    inventory: GpuInventory,
    table: ProcessTable,
    members: Members,
    *,
    gpu_uuid: str,
    candidates: Iterable[Candidate],
    pages: Mapping[str, FileIdentity],
) -> GpuLook:
    """Ask the driver about one GPU, and /proc about the processes on it; `pages` has all config pages by id."""
    uuid = GpuUuid(gpu_uuid)
    try:
        processes = inventory.processes(uuid)
        memory = inventory.memory(uuid)
        silent = None
    except FracgpuError as error:
        processes, memory, silent = (), GpuMemory(0, 0, 0), error.what
    found = {process.pid: table.read(process.pid) for process in processes}
    facts = {pid: one for pid, one in found.items() if one is not None}
    candidates = tuple(candidates)
    mounted = {pid: _mounted(one.mounts, pages) for pid, one in facts.items()}
    return GpuLook(
        gpu_uuid=gpu_uuid,
        silent=silent,
        memory=memory,
        processes=processes,
        facts=facts,
        hidden_pids=tuple(pid for pid, one in found.items() if one is None and not table.is_ending(pid)),
        owners={pid: members.assign(mounted[pid], one.container, candidates) for pid, one in facts.items()},
    )


class EvidenceCollector:
    """Puts the evidence about each allocation together, from one look at all GPUs."""

    def __init__(
        self,
        options: PluginOptions,
        gpus: Iterable[GpuLook],
        *,
        table: ProcessTable,
        stored: StoredLibraries,
        pages: Mapping[str, FileIdentity],
        directories: tuple[str, ...],
    ) -> None:
        self._options = options
        self._pages = pages
        self._sees_all = table.sees_all()
        self._table = table
        self._gpus = {gpu.gpu_uuid: gpu for gpu in gpus}
        self._stored = stored
        self._directories = directories
        self._replaced: dict[int, Replaced | None] = {}

    def collect(self, entry: ClaimEntry, record: AllocationRecord) -> AllocationEvidence:
        """Return what is known about one allocation."""
        directory = allocation_directory(self._options, record.allocation_id)
        gpu = self._gpus[record.gpu_uuid]
        account = read_account(directory / STATE_FILE, record.gpu_uuid)
        slots = account.processes if isinstance(account, StateSnapshot) else ()
        return AllocationEvidence(
            entry=entry,
            record=record,
            processes=tuple(self._processes(gpu, record, slots)),
            hidden_pids=gpu.hidden_pids,
            unattributed_pids=tuple(_unattributed(gpu, slots)),
            sees_all=self._sees_all,
            silent=gpu.silent,
            account=account,
            page=read_page(directory / CONFIG_FILE),
            spec_present=spec_path(self._options, entry.claim_uid).is_file(),
            library_present=entry.library_digest in self._stored.digests,
        )

    def _processes(
        self, gpu: GpuLook, record: AllocationRecord, slots: tuple[SlotSnapshot, ...]
    ) -> Iterable[ProcessEvidence]:
        for process in gpu.processes:
            owners = gpu.owners.get(process.pid, frozenset())
            if record.allocation_id not in owners:
                continue
            facts = gpu.facts[process.pid]
            slot = next((one for one in slots if _is_slot_of(one, facts)), None)
            if slot is not None or not self._table.is_ending(facts.pid):
                yield ProcessEvidence(
                    pid=facts.pid,
                    command=facts.command,
                    start_time_ticks=facts.start_time_ticks,
                    replaced=self._check_mounts(facts, owners),
                    mounts_read=facts.mounts.complete,
                    has_slot=slot is not None,
                    slot=slot,
                    driver_bytes=process.used_bytes,
                    sole=len(owners) == 1,
                )

    def _check_mounts(self, facts: ProcessFacts, owners: frozenset[str]) -> Replaced | None:
        if not facts.mounts.complete:
            return None
        if facts.pid not in self._replaced:
            view = self._stored.view_of(facts.pid)
            self._replaced[facts.pid] = first_replaced(
                facts.mounts, stored=self._stored.identities, directories=self._directories, view=view
            ) or first_forged(facts.mounts, pages=self._pages, owned=owners, view=view)
        return self._replaced[facts.pid]


def candidates_by_gpu(checkpoint: Checkpoint) -> dict[str, list[Candidate]]:
    """Return the allocations of each GPU that has some."""
    found: dict[str, list[Candidate]] = {}
    for entry in checkpoint.entries.values():
        for record in entry.allocations:
            found.setdefault(record.gpu_uuid, []).append(Candidate(record.allocation_id, entry.claim_uid))
    return found


def _mounted(mounts: MountTable, pages: Mapping[str, FileIdentity]) -> frozenset[str]:
    """Return the ids of the `pages` that are mounted, wherever; by the file, because a container may choose names."""
    return frozenset(one for one, page in pages.items() if not mounts.sources.isdisjoint((page, page.deleted())))


def _unattributed(gpu: GpuLook, slots: tuple[SlotSnapshot, ...]) -> Iterable[int]:
    """Yield the processes that keep this account, but of which nothing says that they are the allocation's."""
    for pid, owners in gpu.owners.items():
        if not owners and any(_is_slot_of(slot, gpu.facts[pid]) for slot in slots):
            yield pid


def _is_slot_of(slot: SlotSnapshot, facts: ProcessFacts) -> bool:
    if slot.pid != facts.namespaced_pid:
        return False
    if slot.pid_namespace_inode:
        return slot.pid_namespace_inode == facts.pid_namespace_inode
    # A container without /proc can not know its namespace; the start time, which comes from there too, then is 0.
    return slot.start_time_ticks in (0, facts.start_time_ticks)
