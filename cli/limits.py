"""``fracgpu limits``: look at the limits of this node's allocations, and change them while programs run.

Limits only go below what a claim was prepared with, and back. More would need memory that the GPU may have given to
others: who has what stands in the claim's allocation in the API server and in the node's checkpoint, and neither is
changed here. So what the containers are held to never disagrees with what was given away.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fracgpu.cli.cluster_options import OUTPUT_JSON
from fracgpu.cli.errors import LimitsRefused
from fracgpu.cli.tables import NOTHING, as_json, complain, print_lines, table
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.quantity import format_mib
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, CheckpointStore, ClaimEntry
from fracgpu.kubeletplugin.prepare.edits import CONFIG_FILE, STATE_FILE
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.node_lock import node_lock
from fracgpu.kubeletplugin.prepare.preparer import CHECKPOINT_FILE, LOCK_FILE
from fracgpu.native.config_change import change_config_page, read_config_page
from fracgpu.native.config_page import ConfigPage
from fracgpu.native.errors import ConfigPageInvalid, StateFileInvalid
from fracgpu.native.state_file import StateSnapshot, read_state_file

EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, EXIT_NO_NODE = 0, 1, 2, 3
_LOCK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One allocation of this node and where its files are."""

    entry: ClaimEntry
    record: AllocationRecord
    directory: Path

    @property
    def claim(self) -> str:
        """Namespace and name of the claim."""
        return f"{self.entry.namespace}/{self.entry.name}"

    @property
    def page(self) -> Path:
        """The config page."""
        return self.directory / CONFIG_FILE

    def limits(self) -> ConfigPage | None:
        """Return what the page says; None when it says nothing, as after a reboot until the next Prepare."""
        try:
            return read_config_page(self.page)
        except (OSError, ConfigPageInvalid):
            return None

    def account(self) -> StateSnapshot | None:
        """Return what is used; None when the state file does not say."""
        try:
            return read_state_file(self.directory / STATE_FILE)
        except StateFileInvalid:
            return None


def run_limits(parsed: argparse.Namespace) -> int:
    """Do what the command line asks for; return the exit status."""
    try:
        with node_lock(_existing(parsed.state_dir) / LOCK_FILE, _LOCK_SECONDS):
            allocations = _chosen(parsed)
            if parsed.action != "show":
                _change(parsed, allocations)
            lines = _shown(allocations, as_document=parsed.output == OUTPUT_JSON)
    except LimitsRefused as error:
        complain("limits", error)
        return EXIT_REFUSED
    except (FracgpuError, OSError) as error:
        complain("limits", error)
        return EXIT_NO_NODE
    return EXIT_DONE if print_lines("limits", lines) else EXIT_NO_NODE


def _existing(state_dir: Path) -> Path:
    if not (state_dir / CHECKPOINT_FILE).is_file():
        raise LimitsRefused(
            f"directory {state_dir}",
            "has no checkpoint of fracgpu's plugin: nothing is prepared here",
            remedy="run this on the claim's node, as root, or give --state-dir",
        )
    return state_dir


def _chosen(parsed: argparse.Namespace) -> list[Allocation]:
    checkpoint = CheckpointStore(parsed.state_dir / CHECKPOINT_FILE, Files()).load()
    found = [
        Allocation(entry=entry, record=record, directory=parsed.run_dir / "allocations" / record.allocation_id)
        for entry in checkpoint.entries.values()
        if entry.handed_out
        for record in entry.allocations
    ]
    found.sort(key=lambda one: (one.claim, one.record.index))
    if parsed.name is None:
        return found
    named = [one for one in found if parsed.name in (one.claim, one.entry.claim_uid, one.record.allocation_id)]
    if not named:
        raise LimitsRefused(parsed.name, "is prepared on this node under no name", remedy="see fracgpu limits show")
    return named


def _change(parsed: argparse.Namespace, allocations: Sequence[Allocation]) -> None:
    if parsed.action == "set":
        _check_set(parsed, allocations)
    changes: Mapping[str, Callable[[ConfigPage], ConfigPage]] = {
        "suspend": lambda page: replace(page, suspend=True),
        "resume": lambda page: replace(page, suspend=False),
        "set": lambda page: replace(
            page,
            memory_limit_bytes=page.memory_limit_bytes if parsed.memory is None else parsed.memory,
            cores_percent=page.cores_percent if parsed.cores is None else parsed.cores,
        ),
    }
    for one in allocations:
        change_config_page(one.page, changes[parsed.action])


def _check_set(parsed: argparse.Namespace, allocations: Sequence[Allocation]) -> None:
    if parsed.memory is None and parsed.cores is None:
        raise LimitsRefused("limits set", "has nothing to set", remedy="give --memory or --cores")
    if len(allocations) > 1:
        names = ", ".join(one.record.allocation_id for one in allocations)
        raise LimitsRefused(f"claim {parsed.name}", "has several allocations", remedy=f"name one of {names}")
    record = allocations[0].record
    subject = f"allocation {record.allocation_id}"
    if not record.limited:
        raise LimitsRefused(subject, "has no limits: it is a whole GPU or admin access", remedy="use suspend")
    remedy = "more may belong to others: delete the claim and create it anew with more"
    if parsed.memory is not None and parsed.memory > record.memory_bytes:
        raise LimitsRefused(subject, f"was prepared with {format_mib(record.memory_bytes)}", remedy=remedy)
    if parsed.cores is not None and 0 < record.cores < parsed.cores:
        raise LimitsRefused(subject, f"was prepared with {record.cores} percent of the cores", remedy=remedy)


def _shown(allocations: Sequence[Allocation], *, as_document: bool) -> list[str]:
    pairs = [(one, one.limits()) for one in allocations]
    if as_document:
        return as_json([_document(one, page) for one, page in pairs])
    if not pairs:
        return ["nothing is prepared on this node"]
    head = ("CLAIM", "ALLOCATION", "GPU", "MEMORY", "PREPARED", "CORES", "USED", "PROCESSES", "STATE")
    right = ("MEMORY", "PREPARED", "CORES", "USED", "PROCESSES")
    return table(head, [_cells(one, page) for one, page in pairs], right=right)


def _cells(one: Allocation, page: ConfigPage | None) -> tuple[str, ...]:
    account, limit = one.account(), _limit(page)
    return (
        one.claim,
        one.record.allocation_id,
        one.record.device,
        NOTHING if limit is None else format_mib(limit),
        format_mib(one.record.memory_bytes) if one.record.limited else NOTHING,
        str(page.cores_percent or NOTHING) if page is not None else NOTHING,
        NOTHING if account is None else format_mib(account.used_bytes),
        NOTHING if account is None else str(len(account.processes)),
        "no valid page" if page is None else "suspended" if page.suspend else "running",
    )


def _limit(page: ConfigPage | None) -> int | None:
    return None if page is None or page.observe else page.memory_limit_bytes


def _document(one: Allocation, page: ConfigPage | None) -> Mapping[str, Any]:
    account = one.account()
    return {
        "namespace": one.entry.namespace,
        "claim": one.entry.name,
        "allocation": one.record.allocation_id,
        "gpuUUID": one.record.gpu_uuid,
        "memoryLimitBytes": _limit(page),
        "preparedMemoryBytes": one.record.memory_bytes if one.record.limited else None,
        "coresPercent": None if page is None else page.cores_percent or None,
        "suspended": None if page is None else page.suspend,
        "memoryUsedBytes": None if account is None else account.used_bytes,
        "processes": None if account is None else len(account.processes),
    }
