"""What was found out about one allocation in one look, before anybody judges it.

The observer collects it, the verdicts (verdict.py) are pure functions of it.
"""

from dataclasses import dataclass
from enum import Enum, auto

from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, ClaimEntry
from fracgpu.kubeletplugin.proof.verdict_mounts import Replaced
from fracgpu.native.config_page import ConfigPage
from fracgpu.native.state_file import SlotSnapshot, StateSnapshot


class Trouble(Enum):
    """Why a file of the allocation says nothing: not there, not what the plugin wrote, not readable just now."""

    MISSING = auto()
    DAMAGED = auto()
    OTHER_VERSION = auto()
    UNREADABLE = auto()


@dataclass(frozen=True, slots=True)
class FileTrouble:
    """A file that could not be used: how, and the sentence about it."""

    kind: Trouble
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEvidence:
    """One process that the driver lists on the allocation's GPU and that belongs to the allocation.

    `replaced` is a path of library or config page that does not lead to ours; nothing is known of that without
    `mounts_read`. `driver_bytes` is the driver's count of it, None if it has none. `sole` is False for a process with
    further allocations of this GPU, whose memory can not be told apart. `slot` is its place in the account.
    """

    pid: int
    command: str
    start_time_ticks: int
    replaced: Replaced | None
    has_slot: bool
    driver_bytes: int | None
    sole: bool = True
    mounts_read: bool = True
    slot: SlotSnapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationEvidence:
    """All that one look found about an allocation.

    `silent` says why the driver does not answer for the GPU, None if it does. `hidden_pids` are processes on the GPU
    that this plugin can not see, and `sees_all` whether it should see all there are. `unattributed_pids` are processes
    on the GPU that keep the allocation's account, but do not belong to it by what the kernel says of them.
    """

    entry: ClaimEntry
    record: AllocationRecord
    processes: tuple[ProcessEvidence, ...]
    hidden_pids: tuple[int, ...]
    silent: str | None
    account: StateSnapshot | FileTrouble
    page: ConfigPage | FileTrouble
    spec_present: bool
    library_present: bool
    unattributed_pids: tuple[int, ...] = ()
    sees_all: bool = False
