"""Looks at every allocation of this node, each second, and tells whoever listens.

The plugin promised limits when it prepared a claim; here it checks that they hold, from outside of the container: the
driver's list of processes, what the kernel says of each, and the accounts that the interceptor keeps. Nothing is
written but the feedback that the processes get (feedback.py), and the node lock is not taken (the checkpoint is
replaced as a whole), so no Prepare has to wait for a look.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.inventory import GpuInventory
from fracgpu.driver.names import ClaimUid
from fracgpu.driver.process.background import Wait
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, Checkpoint, CheckpointStore, ClaimEntry
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.edits import library_directories
from fracgpu.kubeletplugin.prepare.preparer import LIBRARY_DIRECTORY
from fracgpu.kubeletplugin.proof.evidence import AllocationEvidence
from fracgpu.kubeletplugin.proof.feedback import FeedbackPublisher
from fracgpu.kubeletplugin.proof.look import (
    EvidenceCollector,
    GpuLook,
    StoredLibraries,
    candidates_by_gpu,
    look_at_gpu,
)
from fracgpu.kubeletplugin.proof.members import ClaimConsumers, Members
from fracgpu.kubeletplugin.proof.observation import (
    AllocationObservation,
    Finding,
    GpuObservation,
    NodeObservation,
    Truth,
)
from fracgpu.kubeletplugin.proof.processes import PROC_ROOT, ProcessTable
from fracgpu.kubeletplugin.proof.verdict import (
    Suspicions,
    driver_bytes,
    enforced,
    memory_limit,
    suspicions,
    within_limit,
)
from fracgpu.kubeletplugin.proof.verdict_node import compatible, prepared
from fracgpu.native.config_page import ConfigPage
from fracgpu.native.state_file import StateSnapshot

_LOG: Final = logging.getLogger(__name__)
_INTERVAL_SECONDS: Final = 1.0
# After so many failures in a row what was seen before is no proof any more.
_FAILURES_UNTIL_UNKNOWN: Final = 15
# Which GPUs there are hardly changes, and asking takes a dozen calls for each of them.
_LOOKS_PER_LISTING: Final = 30

Listener = Callable[[NodeObservation], None]
"""Is told of every look, in the observer's thread; must not block."""


class Observer:
    """Observes this node. One thread calls `run`; `latest` may be called from any."""

    def __init__(
        self,
        *,
        options: PluginOptions,
        inventory: GpuInventory,
        checkpoints: CheckpointStore,
        consumers: ClaimConsumers,
        machine: str,
        listeners: Sequence[Listener] = (),
        proc_root: Path = PROC_ROOT,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._options = options
        self._inventory = inventory
        self._checkpoints = checkpoints
        self._consumers = consumers
        self._members = Members(consumers)
        self._directories = library_directories(machine)
        self._listeners = tuple(listeners)
        self._table = ProcessTable(proc_root)
        self._feedback = FeedbackPublisher(options)
        self._now = now
        self._listed: tuple[str, ...] = ()
        self._looks_to_listing = 0
        self._suspicions: dict[str, Suspicions] = {}
        self._said: str | None = None
        self._failures = 0
        self._lock = threading.Lock()
        self._latest: NodeObservation | None = None

    def run(self, wait: Wait) -> None:
        """Look until `wait` says stop. Whatever goes wrong is logged, once as long as it stays the same."""
        while True:
            try:
                self.look()
                self._said, self._failures = None, 0
            except Exception as error:
                self._failures += 1
                self._say(error)
                if self._failures == _FAILURES_UNTIL_UNKNOWN:
                    self._take_back(error)
            if wait(_INTERVAL_SECONDS):
                return

    def latest(self) -> NodeObservation | None:
        """Return what the last look that succeeded saw; None before the first."""
        with self._lock:
            return self._latest

    def look(self) -> NodeObservation:
        """Look once, tell the listeners, and return what was seen. Raises CheckpointInvalid or OSError."""
        checkpoint = self._checkpoints.load()
        asked_ns = time.monotonic_ns()
        collector, gpus = self._collect(checkpoint)
        evidence = tuple(
            collector.collect(entry, record) for entry in checkpoint.entries.values() for record in entry.allocations
        )
        self._feedback.publish(evidence, asked_ns=asked_ns)
        before, self._suspicions = self._suspicions, {}
        observation = NodeObservation(
            allocations=tuple(self._judge(one, before) for one in evidence),
            gpus=tuple(_observed_gpu(gpu) for gpu in gpus),
        )
        self._members.keep_only(frozenset(self._suspicions))
        self._consumers.keep_only(checkpoint.entries)
        self._publish(observation)
        return observation

    def _collect(self, checkpoint: Checkpoint) -> tuple[EvidenceCollector, tuple[GpuLook, ...]]:
        by_gpu = candidates_by_gpu(checkpoint)
        stored = StoredLibraries(self._options.state_dir / LIBRARY_DIRECTORY, self._table)
        ids = (record.allocation_id for entry in checkpoint.entries.values() for record in entry.allocations)
        pages = stored.pages(self._options, ids)
        gpus = tuple(
            look_at_gpu(
                self._inventory,
                self._table,
                self._members,
                gpu_uuid=uuid,
                candidates=by_gpu.get(uuid, ()),
                pages=pages,
            )
            for uuid in dict.fromkeys((*self._gpu_uuids(), *by_gpu))
        )
        collector = EvidenceCollector(
            self._options, gpus, table=self._table, stored=stored, pages=pages, directories=self._directories
        )
        return collector, gpus

    def _gpu_uuids(self) -> tuple[str, ...]:
        """Return the UUIDs of all GPUs; those of the last listing while the driver does not answer."""
        if self._looks_to_listing == 0:
            try:
                self._listed = tuple(gpu.uuid for gpu in self._inventory.list_gpus())
            except FracgpuError as error:
                _LOG.debug("GPUs not listed", extra={"error": str(error)})
                return self._listed
            self._looks_to_listing = _LOOKS_PER_LISTING
        self._looks_to_listing -= 1
        return self._listed

    def _judge(self, evidence: AllocationEvidence, before: Mapping[str, Suspicions]) -> AllocationObservation:
        entry, record = evidence.entry, evidence.record
        earlier = before.get(record.allocation_id, frozenset())
        self._suspicions[record.allocation_id] = suspicions(evidence, earlier)
        account = evidence.account if isinstance(evidence.account, StateSnapshot) else None
        return AllocationObservation(
            claim=_claim(entry),
            record=record,
            library_digest=entry.library_digest,
            prepared=prepared(evidence),
            enforced=enforced(evidence, earlier),
            within_limit=within_limit(evidence, earlier),
            compatible=compatible(evidence),
            used_bytes=account.used_bytes if account else None,
            peak_bytes=account.peak_bytes if account else None,
            refusals=account.refusals if account else None,
            processes=len(evidence.processes),
            driver_bytes=driver_bytes(evidence),
            host_pinned_bytes=sum(slot.host_pinned_bytes for slot in account.processes) if account else None,
            observed_at=self._now(),
            memory_limit_bytes=memory_limit(evidence),
            suspended=isinstance(evidence.page, ConfigPage) and evidence.page.suspend,
        )

    def _publish(self, observation: NodeObservation) -> None:
        with self._lock:
            former, self._latest = self._latest, observation
        _log_changes(former, observation)
        for listener in self._listeners:
            try:
                listener(observation)
            except Exception:
                _LOG.exception("a listener failed on an observation")

    def _take_back(self, error: Exception) -> None:
        """Tell that nobody knows any more, in place of an old `True`."""
        former = self.latest()
        if former is not None:
            self._suspicions = {}
            finding = Finding(Truth.UNKNOWN, "NotObserved", f"this node's claims can not be observed: {error}")
            unknown = (replace(one, enforced=finding, within_limit=finding) for one in former.allocations)
            self._publish(replace(former, allocations=tuple(unknown)))

    def _say(self, error: Exception) -> None:
        if str(error) != self._said:
            _LOG.warning("allocations not observed", extra={"error": str(error)}, exc_info=not _is_expected(error))
        self._said = str(error)


def _is_expected(error: Exception) -> bool:
    return isinstance(error, (FracgpuError, OSError))


def _claim(entry: ClaimEntry) -> ClaimRef:
    return ClaimRef(entry.namespace, entry.name, ClaimUid(entry.claim_uid))


def _observed_gpu(gpu: GpuLook) -> GpuObservation:
    return GpuObservation(
        gpu_uuid=gpu.gpu_uuid,
        healthy=gpu.silent is None,
        memory=gpu.memory,
        foreign_processes=gpu.foreign_processes,
        hidden_processes=len(gpu.hidden_pids),
    )


def _log_changes(former: NodeObservation | None, observation: NodeObservation) -> None:
    """Log where enforcement was lost and where it came back: what the claim's condition says too."""
    earlier = {one.record.allocation_id: one.enforced.truth for one in former.allocations} if former else {}
    for one in observation.allocations:
        truth, was = one.enforced.truth, earlier.get(one.record.allocation_id)
        if truth is was or Truth.FALSE not in (truth, was):
            continue
        fields = _fields(one.claim, one.record) | {"reason": one.enforced.reason, "detail": one.enforced.message}
        if truth is Truth.FALSE:
            _LOG.warning("limits are not enforced", extra=fields)
        else:
            _LOG.info("limits are no longer bypassed", extra=fields)


def _fields(claim: ClaimRef, record: AllocationRecord) -> dict[str, str]:
    return {
        "claim": f"{claim.namespace}/{claim.name}",
        "gpu": record.gpu_uuid,
        "allocation": record.allocation_id,
    }
