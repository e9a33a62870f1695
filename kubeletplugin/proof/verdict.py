"""Judges an allocation by the evidence of a look: the conditions on the claim. Pure.

A violation counts when two looks in a row show it. A process that is starting or ending is in between for a moment: the
driver still lists it after its slot is free, and its mounts vanish before its PID does. What is seen for the first time
is a suspicion, and the look judges as if that process were not there; so one of an innocent program never shows, and a
real one shows a second later. A violation that three looks in a row show counts too, if each shows another process:
nobody shall get away by starting anew each second.

No reason changes its meaning; docs/user/proof.md explains each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fracgpu.driver.quantity import format_mib
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord
from fracgpu.kubeletplugin.proof.evidence import AllocationEvidence, FileTrouble, ProcessEvidence, Trouble
from fracgpu.kubeletplugin.proof.observation import Finding, Truth
from fracgpu.kubeletplugin.proof.verdict_mounts import Replaced
from fracgpu.native.config_page import ConfigPage
from fracgpu.native.state_file import StateSnapshot

Suspicion = tuple[str, int, int]
"""Kind of a violation, PID (0: of the allocation as a whole), start time of the process."""

Suspicions = frozenset[Suspicion]

# What the driver counts of a process beyond its allocations (context, modules) and the limit does not: 150 to 600 MiB
# in practice. Only what is clearly more than that was allocated past the interceptor.
DRIVER_ALLOWANCE_BYTES: Final = 1 << 30

_REPLACED: Final = "replaced"
_SLOTLESS: Final = "slotless"
_DAMAGED: Final = "damaged"
_HIDDEN: Final = "hidden"
_UNLISTED: Final = "unlisted"
_OVER_ACCOUNT: Final = "over-account"
_OVER_DRIVER: Final = "over-driver"
_UNREAD: Final = "unread"
_OTHER_LIMIT: Final = "other-limit"
_WHOSE: Final = frozenset({_REPLACED, _SLOTLESS, _UNREAD})
# So many looks in a row with one kind of violation count, whoever it was.
_LOOKS_IN_A_ROW: Final = 3


def suspicions(evidence: AllocationEvidence, before: Suspicions = frozenset()) -> Suspicions:
    """Return everything in `evidence` that would be a violation if the next look shows it too.

    `before` are those of the last look: how many looks in a row there was one is counted on.
    """
    found = _of_processes(evidence) | _of_allocation(evidence)
    kinds = {kind for kind, _, _ in found} & _WHOSE
    rows = {(_row(kind), min(_in_a_row(before, kind) + 1, _LOOKS_IN_A_ROW), 0) for kind in kinds}
    return frozenset(found | rows)


def _of_processes(evidence: AllocationEvidence) -> set[Suspicion]:
    found = {_about(_REPLACED, process) for process in evidence.processes if process.replaced is not None}
    found |= {_about(_UNREAD, process) for process in evidence.processes if not process.mounts_read}
    found |= {(_HIDDEN, pid, 0) for pid in evidence.hidden_pids}
    if isinstance(evidence.account, StateSnapshot):
        found |= {_about(_SLOTLESS, process) for process in evidence.processes if not process.has_slot}
    return found


def _of_allocation(evidence: AllocationEvidence) -> set[Suspicion]:
    found: set[Suspicion] = set()
    account = evidence.account
    if isinstance(account, FileTrouble):
        if _is_damage(account, evidence):
            found.add((_DAMAGED, 0, 0))
    else:
        if not evidence.processes and evidence.silent is None and account.used_bytes > 0:
            found.add((_UNLISTED, 0, 0))
        if evidence.record.limited and account.used_bytes > evidence.record.memory_bytes:
            found.add((_OVER_ACCOUNT, 0, 0))
    if evidence.record.limited and _beyond_allowance(evidence):
        found.add((_OVER_DRIVER, 0, 0))
    if isinstance(evidence.page, ConfigPage) and _gives_more(evidence.page, evidence.record):
        found.add((_OTHER_LIMIT, 0, 0))
    return found


def driver_bytes(evidence: AllocationEvidence) -> int | None:
    """Return what the driver counts for the allocation's processes, in bytes.

    None when it does not say, or when a process has further allocations of the GPU.
    """
    counts = [process.driver_bytes for process in evidence.processes if process.sole]
    known = [count for count in counts if count is not None]
    return sum(known) if evidence.silent is None and len(known) == len(evidence.processes) else None


@dataclass(frozen=True, slots=True)
class _Case:
    """Evidence with the suspicions of this look and those that the look before had too."""

    evidence: AllocationEvidence
    suspected: Suspicions
    confirmed: Suspicions

    def has(self, kind: str) -> bool:
        return any(one[0] == kind for one in self.confirmed)

    def guilty(self, kind: str) -> list[ProcessEvidence]:
        held = self.suspected if _in_a_row(self.suspected, kind) >= _LOOKS_IN_A_ROW else self.confirmed
        return [process for process in self.evidence.processes if _about(kind, process) in held]

    def clean(self) -> list[ProcessEvidence]:
        kinds = (_REPLACED, _SLOTLESS, _UNREAD)
        return [p for p in self.evidence.processes if not any(_about(kind, p) in self.suspected for kind in kinds)]


def memory_limit(evidence: AllocationEvidence) -> int | None:
    """Return the memory limit that holds now, in bytes; None when there is none.

    The node's administrator may have lowered it since the claim was prepared, in the config page. A page that gives
    more than was prepared is not believed.
    """
    record, page = evidence.record, evidence.page
    if not record.limited:
        return None
    now = page.memory_limit_bytes if isinstance(page, ConfigPage) else None
    return record.memory_bytes if now is None else min(now, record.memory_bytes)


def enforced(evidence: AllocationEvidence, before: Suspicions) -> Finding:
    """Return whether the interceptor is in place for every process; `before` are the suspicions of the last look."""
    suspected = suspicions(evidence, before)
    case = _Case(evidence, suspected, suspected & before)
    rules: tuple[Callable[[_Case], Finding | None], ...] = (_violated, _unknown, _attached)
    return next(finding for rule in rules if (finding := rule(case)) is not None)


def _violated(case: _Case) -> Finding | None:
    total = len(case.evidence.processes)
    if guilty := case.guilty(_REPLACED):
        return _replaced(guilty, total)
    if guilty := case.guilty(_SLOTLESS):
        what = f"{_who(guilty, total)} the GPU without the interceptor: what is allocated that way is not limited"
        return Finding(Truth.FALSE, "LibraryNotLoaded", what)
    if case.has(_OTHER_LIMIT):
        limit = format_mib(case.evidence.record.memory_bytes)
        what = f"the config page gives more than the limit {limit} that the claim was prepared with"
        return Finding(Truth.FALSE, "LimitDiffers", what)
    account = case.evidence.account
    if isinstance(account, FileTrouble) and case.has(_DAMAGED):
        return Finding(Truth.FALSE, "AccountDamaged", f"the state file {account.what}: what is used can not be told")
    return None


def _replaced(guilty: list[ProcessEvidence], total: int) -> Finding:
    replaced = guilty[0].replaced or Replaced("", "")
    where = _printable(f"at {replaced.path} lies {replaced.found}")
    if replaced.is_page:
        what = f"{_who(guilty, total)} a page of limits that the plugin did not make: {where}"
        return Finding(Truth.FALSE, "ConfigPageReplaced", what)
    return Finding(Truth.FALSE, "LibraryReplaced", f"{_who(guilty, total)} a driver library without limits: {where}")


def _unknown(case: _Case) -> Finding | None:
    evidence = case.evidence
    if evidence.silent is not None:
        return Finding(Truth.UNKNOWN, "DriverSilent", f"GPU {evidence.record.gpu_uuid}: {evidence.silent}")
    if case.has(_HIDDEN):
        pids = ", ".join(str(pid) for kind, pid, _ in sorted(case.confirmed) if kind == _HIDDEN)
        what = f"the driver lists processes that the plugin can not see (PID {pids})"
        return Finding(Truth.UNKNOWN, "ProcessNotVisible", f"{what}: {_why_hidden(evidence)}")
    if guilty := case.guilty(_UNREAD):
        who = f"process {guilty[0].pid} ({guilty[0].command})"
        what = f"{who} has too many mounts to check what it finds in the place of the driver's libraries"
        return Finding(Truth.UNKNOWN, "MountsUnreadable", what)
    account = evidence.account
    if isinstance(account, FileTrouble) and account.kind in (Trouble.UNREADABLE, Trouble.OTHER_VERSION):
        return Finding(Truth.UNKNOWN, "AccountUnreadable", f"the state file {account.what}")
    if isinstance(account, StateSnapshot) and case.has(_UNLISTED):
        return _unlisted(evidence, account)
    return None


def _unlisted(evidence: AllocationEvidence, account: StateSnapshot) -> Finding:
    held = f"{len(account.processes)} processes hold {format_mib(account.used_bytes)} by their account"
    if evidence.unattributed_pids:
        pids = ", ".join(map(str, evidence.unattributed_pids))
        what = f"{held}, and are on the GPU (PID {pids}), but without the claim's files mounted and outside of its pods"
        return Finding(Truth.UNKNOWN, "ProcessNotAttributed", f"{what}: nothing shows what they run with")
    what = f"{held}, but the driver lists none of them"
    return Finding(Truth.UNKNOWN, "ProcessNotVisible", f"{what}: {_why_hidden(evidence)}")


def _why_hidden(evidence: AllocationEvidence) -> str:
    if evidence.sees_all:
        return "the plugin is in the host's PID namespace, so a sandbox, an MPS server or /proc's hidepid hides them"
    return "run the plugin with hostPID"


def _attached(case: _Case) -> Finding:
    evidence = case.evidence
    clean = case.clean() if isinstance(evidence.account, StateSnapshot) else []
    if not clean:
        return Finding(Truth.UNKNOWN, "NoProcess", "no process of the claim uses the GPU, so there is nothing to see")
    counted = "1 process has" if len(clean) == 1 else f"{len(clean)} processes have"
    now = memory_limit(evidence)
    if now is None:
        what = f"there is no limit to enforce: the whole GPU may be used; {counted} the interceptor, for the account"
        return Finding(Truth.TRUE, "NoLimit", what)
    limit = format_mib(now)
    return Finding(Truth.TRUE, "InterceptorAttached", f"{counted} the interceptor with the memory limit {limit}")


def within_limit(evidence: AllocationEvidence, before: Suspicions) -> Finding:
    """Return whether the account, and what the driver counts, stay within the limit."""
    account, record = evidence.account, evidence.record
    confirmed = suspicions(evidence) & before
    limit = format_mib(record.memory_bytes)
    counted = driver_bytes(evidence)
    if counted is not None and (_OVER_DRIVER, 0, 0) in confirmed:
        what = f"the driver counts {format_mib(counted)} for the claim's processes, the limit is {limit}"
        return Finding(Truth.FALSE, "OverLimit", f"{what}: some of it was allocated past the interceptor")
    if isinstance(account, FileTrouble):
        missing = account.kind is Trouble.MISSING
        return Finding(Truth.UNKNOWN, "FilesMissing" if missing else "AccountUnreadable", f"state file {account.what}")
    used = format_mib(account.used_bytes)
    if (_OVER_ACCOUNT, 0, 0) in confirmed:
        what = f"{used} is charged, the limit is {limit}: nothing more is given until it fits"
        return Finding(Truth.FALSE, "OverLimit", what)
    now = memory_limit(evidence)
    if now is None:
        return Finding(Truth.TRUE, "NoLimit", f"{used} is charged, and there is no limit")
    if now < record.memory_bytes and account.used_bytes > now:
        what = f"{used} is charged, the limit was lowered from {limit} to {format_mib(now)}: nothing is taken away"
        return Finding(Truth.FALSE, "LimitLowered", f"{what}, nothing more is given until it fits")
    return Finding(Truth.TRUE, "WithinLimit", f"{used} of {format_mib(now)} is charged")


def _is_damage(trouble: FileTrouble, evidence: AllocationEvidence) -> bool:
    # Without a process a missing file is what a reboot leaves; with one somebody took it away.
    if trouble.kind is Trouble.MISSING:
        return bool(evidence.processes)
    return trouble.kind is Trouble.DAMAGED


def _beyond_allowance(evidence: AllocationEvidence) -> bool:
    counted = driver_bytes(evidence)
    allowance = DRIVER_ALLOWANCE_BYTES * len(evidence.processes)
    return counted is not None and counted > evidence.record.memory_bytes + allowance


def _gives_more(page: ConfigPage, record: AllocationRecord) -> bool:
    limit = page.memory_limit_bytes
    return record.limited and (page.observe or limit is None or limit > record.memory_bytes)


def _row(kind: str) -> str:
    return f"{kind} in a row"


def _in_a_row(found: Suspicions, kind: str) -> int:
    return max((count for one, count, _ in found if one == _row(kind)), default=0)


def _printable(text: str) -> str:
    # A container names its files as it likes: with line breaks, or with what a terminal takes for a command.
    return "".join(one if one.isprintable() else "?" for one in text)


def _about(kind: str, process: ProcessEvidence) -> Suspicion:
    return kind, process.pid, process.start_time_ticks


def _who(guilty: list[ProcessEvidence], total: int) -> str:
    first = f"process {guilty[0].pid} ({guilty[0].command})"
    if len(guilty) > 1:
        return f"{len(guilty)} of {total} processes, among them {first}, use"
    return f"{first} uses" if total == 1 else f"{first}, one of {total}, uses"
