"""Tells the processes of each allocation what the driver sees of them: the feedback section of its config file.

An interceptor can not ask NVML about its own process, and a context, lazily loaded code or a library's workspace is in
no call that it sees. The observer has all of it at hand each second, so it is published from there: a few words per
live process, written in place.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.edits import CONFIG_FILE
from fracgpu.kubeletplugin.prepare.plan import allocation_directory
from fracgpu.kubeletplugin.proof.evidence import AllocationEvidence
from fracgpu.native.errors import FeedbackUnwritable
from fracgpu.native.feedback import Feedback, FeedbackWriter, SlotFeedback

_LOG: Final = logging.getLogger(__name__)


def feedback_of(evidence: AllocationEvidence) -> Feedback:
    """Return what the processes of an allocation are told. Pure.

    Nothing about a process whose memory the driver does not state, nor about any while the driver is silent. How busy
    the GPU is has not been asked.
    """
    if evidence.silent is not None:
        return Feedback(utilization_measured=False)
    return Feedback(
        utilization_measured=False,
        slots=tuple(
            SlotFeedback(
                index=process.slot.index,
                generation=process.slot.generation,
                used_bytes=process.driver_bytes,
                host_pid=process.pid,
            )
            for process in evidence.processes
            if process.slot is not None and process.driver_bytes is not None
        ),
    )


class FeedbackPublisher:
    """Keeps the feedback of this node's allocations. Used by the observer's thread alone."""

    def __init__(self, options: PluginOptions) -> None:
        self._options = options
        # By allocation id: which file it is, and its writer; None for a file that has no feedback section.
        self._writers: dict[str, tuple[tuple[int, int], FeedbackWriter | None]] = {}

    def publish(self, evidence: Iterable[AllocationEvidence], *, asked_ns: int) -> None:
        """Publish one look; `asked_ns` is the CLOCK_MONOTONIC time before the driver was asked."""
        seen = set()
        for one in evidence:
            seen.add(one.record.allocation_id)
            writer = self._writer(one.record.allocation_id)
            if writer is not None:
                writer.publish(feedback_of(one), published_ns=asked_ns)
        for gone in self._writers.keys() - seen:
            self._forget(gone)

    def close(self) -> None:
        """Give all files up."""
        for allocation_id in tuple(self._writers):
            self._forget(allocation_id)

    def _writer(self, allocation_id: str) -> FeedbackWriter | None:
        path = allocation_directory(self._options, allocation_id) / CONFIG_FILE
        identity = _identity(path)
        known = self._writers.get(allocation_id)
        if known is not None and known[0] == identity:
            return known[1]
        self._forget(allocation_id)
        if identity is None:
            return None
        writer = self._open(path, allocation_id)
        self._writers[allocation_id] = identity, writer
        return writer

    def _open(self, path: Path, allocation_id: str) -> FeedbackWriter | None:
        try:
            return FeedbackWriter(path)
        except FeedbackUnwritable as error:
            _LOG.info("no feedback for an allocation", extra={"allocation": allocation_id, "error": str(error)})
            return None

    def _forget(self, allocation_id: str) -> None:
        _, writer = self._writers.pop(allocation_id, (None, None))
        if writer is not None:
            writer.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
