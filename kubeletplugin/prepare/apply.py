"""Carries out a plan, step by step, in an order that survives a crash at any step.

Reserve, build, publish, confirm. The checkpoint names the claim before its first file exists, so that concurrent calls
count it and Unprepare finds it. The CDI spec comes last of the files, because a runtime may use it from that moment on.
Taking back goes the other way: the spec first, so that no new container starts, the checkpoint entry last, so that an
interrupted Unprepare is found again.
"""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Final

from fracgpu.cdi.writer import Sync
from fracgpu.kubeletplugin.errors import AccountDamaged, ClaimChanged
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import Checkpoint, CheckpointStore, ClaimEntry, EntryState
from fracgpu.kubeletplugin.prepare.edits import CONFIG_FILE, STATE_FILE
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.plan import AllocationFiles, NodePlan, allocation_directory, spec_path
from fracgpu.kubeletplugin.prepare.state_locks import count_users, processes
from fracgpu.native.config_change import read_config_page
from fracgpu.native.config_page import ConfigPage, encode_config_page
from fracgpu.native.errors import ConfigPageInvalid, StateFileInvalid
from fracgpu.native.state_file import new_state_file, read_state_file

_LOG: Final = logging.getLogger(__name__)
_CONFIG_MODE: Final = 0o644
# Every process of the container writes its own slot, whatever its user.
_STATE_MODE: Final = 0o666
# What a page without a cap on cores gives, in percent.
_ALL_CORES: Final = 100


class Applier:
    """Turns plans into files. Callers hold the node lock and pass the checkpoint that the plan was made from."""

    def __init__(self, options: PluginOptions, store: CheckpointStore, files: Files) -> None:
        self._options = options
        self._store = store
        self._files = files

    def prepare(self, plan: NodePlan, checkpoint: Checkpoint) -> None:
        """Make the node look as `plan` says. What is there and right is left alone, down to the inode.

        When a step fails and the claim was unknown before, what was made is taken back. Raises OSError, ClaimChanged
        when a config page is there that limits the allocation otherwise, or AccountDamaged when a container has
        destroyed a state file that is in use.
        """
        # A power cut may bring back the checkpoint of before, whole: with the entry go all the files that belong to it,
        # and the kubelet prepares every claim again before it starts a container.
        if plan.stale and plan.previous is not None:
            checkpoint = self.release(plan.previous, checkpoint)
        missing = [(files, *self._missing(files)) for files in plan.files]
        fresh = plan.previous is None or plan.stale
        created = [files.directory for files in plan.files if not files.directory.exists()]
        try:
            if fresh:
                preparing = replace(plan.entry, state=EntryState.PREPARING)
                self._store.save(checkpoint.with_entry(preparing), sync=Sync.CONTENT)
            for files, write_config, write_state in missing:
                self._fill(files, write_config=write_config, write_state=write_state)
            self._files.write_spec(plan.spec_path, plan.spec)
            if plan.previous != plan.entry:
                self._store.save(checkpoint.with_entry(plan.entry), sync=Sync.CONTENT)
        except Exception:
            if fresh:
                self._roll_back(plan, created, checkpoint)
            raise

    def defer(self, entry: ClaimEntry, checkpoint: Checkpoint) -> Checkpoint:
        """Take back of `entry` what no process uses, the CDI spec, and return the checkpoint that says so."""
        self._files.remove(spec_path(self._options, entry.claim_uid))
        deferred = checkpoint.with_entry(replace(entry, state=EntryState.RELEASING))
        if deferred != checkpoint:
            self._store.save(deferred)
        return deferred

    def users(self, entry: ClaimEntry) -> int:
        """Return how many processes use the state files of `entry`. Raises OSError when that can not be known."""
        directories = (allocation_directory(self._options, record.allocation_id) for record in entry.allocations)
        return sum(count_users(directory / STATE_FILE) for directory in directories)

    def users_by_claim(self, checkpoint: Checkpoint, claim_uid: str) -> dict[str, int]:
        """Return the processes of each claim that was taken back and is still there, and of claim `claim_uid`.

        Where the kernel does not tell it is one; for `claim_uid` that raises OSError.
        """
        found = {}
        for uid, entry in checkpoint.entries.items():
            if uid == claim_uid:
                found[uid] = self.users(entry)
            elif entry.state is EntryState.RELEASING:
                found[uid] = self._users_or_one(entry)
        return found

    def finish_releases(self, checkpoint: Checkpoint, *, keep: str = "") -> Checkpoint:
        """Take back the claims that only waited for their last process, and return the checkpoint without them.

        `keep` is the UID of a claim to leave alone. One that can not be taken back goes on counting, and is logged: it
        must hold up neither the others nor the claim for whose sake this is done.
        """
        for uid, entry in checkpoint.entries.items():
            if entry.state is not EntryState.RELEASING or uid == keep or self._users_or_one(entry):
                continue
            about_claim = _log_fields(entry)
            try:
                checkpoint = self.release(entry, checkpoint)
            except OSError as error:
                _LOG.warning("release not finished", extra={**about_claim, "error": str(error)})
            else:
                _LOG.info("release finished", extra=about_claim)
        return checkpoint

    def release(self, entry: ClaimEntry, checkpoint: Checkpoint) -> Checkpoint:
        """Take back what was prepared for `entry`, from the entry alone, and return the checkpoint without it."""
        self._files.remove(spec_path(self._options, entry.claim_uid))
        for allocation in entry.allocations:
            self._files.remove_directory(allocation_directory(self._options, allocation.allocation_id))
        remaining = checkpoint.without(entry.claim_uid)
        self._store.save(remaining)
        return remaining

    def _users_or_one(self, entry: ClaimEntry) -> int:
        try:
            return self.users(entry)
        except OSError:
            return 1

    def _missing(self, files: AllocationFiles) -> tuple[bool, bool]:
        """Return whether config page and state file have to be written: a valid one is never replaced, containers hold
        it.

        Raises ClaimChanged for a valid config page that gives more, AccountDamaged for a broken state file in use, and
        OSError for a file that is there but can not be read right now: it may be valid.
        """
        current = self._current_page(files.directory / CONFIG_FILE)
        if current is not None and _gives_more(current, files.page):
            raise ClaimChanged(
                f"allocation {files.page.allocation_id}",
                "has a config page with other limits on this node",
                remedy="delete the pods that use the claim, then create it anew",
            )
        state = files.directory / STATE_FILE
        sound = _state_is_valid(state, files.page.device_uuid)
        if not sound and (users := count_users(state)):
            raise AccountDamaged(
                f"allocation {files.page.allocation_id}",
                f"a container has overwritten its state file, which is in use ({processes(users)})",
                remedy="delete the pods that use the claim; without them the file is made good",
            )
        return current is None, not sound

    def _current_page(self, path: Path) -> ConfigPage | None:
        try:
            return read_config_page(path)
        except FileNotFoundError:
            return None
        except ConfigPageInvalid:
            return self._repaired_page(path)

    def _repaired_page(self, path: Path) -> ConfigPage | None:
        try:
            self._files.finish_page_change(path)
            return read_config_page(path)
        except ConfigPageInvalid:
            return None

    def _fill(self, files: AllocationFiles, *, write_config: bool, write_state: bool) -> None:
        self._files.make_directory(files.directory)
        if write_config:
            self._files.write(files.directory / CONFIG_FILE, encode_config_page(files.page), mode=_CONFIG_MODE)
        if write_state:
            self._write_state(files.directory / STATE_FILE, new_state_file(files.page.device_uuid))

    def _write_state(self, path: Path, content: bytes) -> None:
        if path.is_file() and not path.is_symlink():
            # Containers may have this inode mounted, and all of them must count in one file.
            self._files.reset(path, content, mode=_STATE_MODE)
        else:
            self._files.write(path, content, mode=_STATE_MODE)

    def _roll_back(self, plan: NodePlan, created: list[Path], checkpoint: Checkpoint) -> None:
        try:
            self._files.remove(plan.spec_path)
            for directory in created:
                self._files.remove_directory(directory)
            self._store.save(checkpoint.without(plan.entry.claim_uid))
        except OSError as error:
            # The entry stays as "preparing": the next Prepare goes on from it, or Unprepare takes it back.
            _LOG.warning("rollback incomplete", extra={**_log_fields(plan.entry), "error": str(error)})


def _log_fields(entry: ClaimEntry) -> dict[str, str]:
    claim = f"{entry.namespace}/{entry.name}"
    return {"claim": claim, "uid": entry.claim_uid, "gpu": ",".join(entry.gpu_uuids)}


def _gives_more(page: ConfigPage, planned: ConfigPage) -> bool:
    """Tell whether `page` is not `planned` with the limits at most lowered.

    An administrator may lower the limits of what is prepared, and hold it up; generation and suspension are nobody's
    business here. More than was planned would be memory that the GPU may have given to others.
    """
    identity = (page.allocation_id, page.device_uuid.lower(), page.observe)
    if identity != (planned.allocation_id, planned.device_uuid.lower(), planned.observe):
        return True
    return _bytes(page) > _bytes(planned) or _cores(page) > _cores(planned)


def _bytes(page: ConfigPage) -> float:
    return math.inf if page.memory_limit_bytes is None else page.memory_limit_bytes


def _cores(page: ConfigPage) -> int:
    return page.cores_percent or _ALL_CORES


def _state_is_valid(path: Path, device_uuid: str) -> bool:
    try:
        return read_state_file(path).device_uuid.lower() == device_uuid.lower()
    except StateFileInvalid as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise cause from error
        return False
