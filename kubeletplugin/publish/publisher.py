"""Keeps this node's ResourceSlice as it should be.

The kubelet deletes a node's slices when it starts and half a minute after a plugin went away, people delete them by
hand, and nobody tells us; so the slice is watched and put back. It is written only when it would mean something else,
because every write wakes the schedulers: at most once a second, and less and less often while something keeps undoing
it. And each write is compared with what the API server kept: one that drops the sharing fields would let kube-scheduler
hand out whole cards as fractions, so then nothing is published.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from opentelemetry.trace import NoOpTracer, Tracer

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.kill_points import kill_point
from fracgpu.driver.kube.errors import ClusterError, NotFound
from fracgpu.driver.names import ALLOCATOR_SCHEDULER
from fracgpu.driver.process.background import Wait
from fracgpu.kubeletplugin.api.cluster import ClusterApi, Json, SliceEvent
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.publish.slice_diff import dropped_fields, same_slice
from fracgpu.kubeletplugin.publish.slices import build_slice, slice_name
from fracgpu.kubeletplugin.tracing import operation

_LOG: Final = logging.getLogger(__name__)
# Also the least time between two writes.
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
# The watch brings news at once; this is for the Node object, which is not watched, and for a watch that hangs.
_RESYNC_SECONDS: Final = 60.0
# What kube-scheduler needs to share a device; without one of them it would hand out whole cards.
_SHARING_FIELDS: Final = frozenset({"allowMultipleAllocations", "requestPolicy", "validRange"})


class SlicePublisher:
    """Publishes the slice of one node and keeps it published. One thread calls `run`, any thread `wake`.

    `gpus` returns what is to be published, None while the slice is to stay as it is. `on_write` is told the outcome of
    each write: created, replaced, deleted, refused (the API server drops what matters), failed.
    """

    def __init__(
        self,
        *,
        options: PluginOptions,
        cluster: ClusterApi,
        gpus: Callable[[], tuple[Gpu, ...] | None],
        on_write: Callable[[str], None] = lambda _: None,
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._cluster = cluster
        self._gpus = gpus
        self._on_write = on_write
        self._tracer = tracer or NoOpTracer()
        self._clock = clock
        self._kept: tuple[Json, Json] | None = None
        self._woken = threading.Event()
        self._error_pause = self._write_pause = _FIRST_PAUSE_SECONDS
        self._written_at: float | None = None
        self.refusal: str | None = None
        self.published = threading.Event()

    def wake(self) -> None:
        """Have the slice looked at now: GPUs changed, the slice changed, or the plugin is to stop."""
        self._woken.set()

    def run(self, wait: Wait) -> None:
        """Publish until `wait` says stop. After a write, and after a failure, nothing is done for a pause."""
        while True:
            pause = self._attempt()
            if wait(pause):
                return
            self._woken.wait(_RESYNC_SECONDS)
            if wait(0):
                return

    def _attempt(self) -> float:
        """Make the slice right once; return for how many seconds to do nothing."""
        # Cleared first: what comes while we work is looked at afterwards.
        self._woken.clear()
        try:
            with operation(self._tracer, "slice.sync"):
                changed = self.sync()
        except FracgpuError as error:
            _LOG.warning("slice not up to date", extra={"error": str(error), "retry_seconds": self._error_pause})
        except Exception:
            # Whatever it is, a node without a slice gets no pods: go on trying.
            _LOG.exception("slice not up to date", extra={"retry_seconds": self._error_pause})
        else:
            self._error_pause = _FIRST_PAUSE_SECONDS
            return self._pause_after_write() if changed else 0.0
        self._woken.set()
        pause, self._error_pause = self._error_pause, min(2 * self._error_pause, _LONGEST_PAUSE_SECONDS)
        return pause

    def _pause_after_write(self) -> float:
        """Return a pause that doubles when a write follows soon after the last one, and begins anew when not."""
        now, before = self._clock(), self._written_at
        self._written_at = now
        if before is None or now - before > 2 * self._write_pause + _FIRST_PAUSE_SECONDS:
            self._write_pause = _FIRST_PAUSE_SECONDS
        else:
            self._write_pause = min(2 * self._write_pause, _LONGEST_PAUSE_SECONDS)
        return self._write_pause

    def sync(self) -> bool:
        """Make the slice right once; return whether anything had to be written.

        Raises ClusterError, or InventoryUnavailable for GPUs that can not be published.
        """
        gpus = self._gpus()
        if gpus is None:
            return False
        node = self._node()
        wanted = build_slice(gpus, self._options, node_uid=node["metadata"]["uid"])
        listing = self._cluster.list_slices(self._options.node_name)
        name = wanted["metadata"]["name"]
        current = next((item for item in listing.items if item["metadata"]["name"] == name), None)
        changed = False
        for item in listing.items:
            if item is not current:
                # A pool of two slices of different ages is incomplete to the scheduler.
                changed |= self._delete(item["metadata"]["name"])
        if current is None or not self._is_right(wanted, current):
            changed |= self._write(wanted, current)
        return changed

    def _node(self) -> Json:
        name = self._options.node_name
        try:
            return self._cluster.get_node(name)
        except NotFound as error:
            remedy = "check --node-name; the slice follows as soon as the Node object is there"
            raise NotFound(f"node {name}", "has no Node object", remedy=remedy) from error

    def expected(self, event: SliceEvent) -> bool:
        """Whether a watch event shows what was stored last."""
        ours = event.item.get("metadata", {}).get("name") == slice_name(self._options.node_name)
        # Read once: this is the watch's thread.
        kept = self._kept
        return ours and event.kind != "DELETED" and kept is not None and same_slice(kept[1], event.item)

    def _is_right(self, wanted: Json, current: Json) -> bool:
        if same_slice(wanted, current):
            self._remember(wanted, current)
            return True
        # Fields that this API server drops will not come back by sending them again.
        return self._kept is not None and same_slice(self._kept[0], wanted) and same_slice(self._kept[1], current)

    def _write(self, wanted: Json, current: Json | None) -> bool:
        if self._options.allocator == ALLOCATOR_SCHEDULER and self._refused(
            self._send(wanted, current, dry_run=True), wanted
        ):
            return current is not None and self._delete(current["metadata"]["name"])
        stored = self._send(wanted, current, dry_run=False)
        if self._options.allocator == ALLOCATOR_SCHEDULER and self._refused(stored, wanted):
            return self._delete(stored["metadata"]["name"])
        self._remember(wanted, stored)
        lost = dropped_fields(wanted, stored)
        fields = {"devices": len(wanted["spec"]["devices"]), "dropped": ",".join(lost)}
        # Without the sharing fields nothing gets here unless our own controller allocates, which needs none of them.
        if _SHARING_FIELDS.issuperset(lost):
            _LOG.info("slice published", extra=fields)
        else:
            remedy = "enable the feature gates of what is dropped (taints: DRADeviceTaints)"
            _LOG.warning("slice published", extra={**fields, "remedy": remedy})
        return True

    def _send(self, wanted: Json, current: Json | None, *, dry_run: bool) -> Json:
        try:
            stored = self._sent(wanted, current, dry_run=dry_run)
        except ClusterError:
            self._on_write("failed")
            raise
        if not dry_run:
            self._on_write("created" if current is None else "replaced")
        return stored

    def _sent(self, wanted: Json, current: Json | None, *, dry_run: bool) -> Json:
        if current is None:
            kill_point("creation of the slice")
            return self._cluster.create_slice(wanted, dry_run=dry_run)
        metadata = {**current["metadata"], "ownerReferences": wanted["metadata"]["ownerReferences"]}
        body = {**current, "metadata": metadata, "spec": wanted["spec"]}
        kill_point("replacement of the slice")
        return self._cluster.replace_slice(body, dry_run=dry_run)

    def _refused(self, stored: Json, wanted: Json) -> bool:
        lost = _SHARING_FIELDS.intersection(dropped_fields(wanted, stored))
        if not lost:
            self.refusal = None
            return False
        self._kept = None
        self.published.clear()
        self.refusal = (
            f"node {self._options.node_name}: the API server drops {', '.join(sorted(lost))}, so nothing is published;"
            " enable the feature gate DRAConsumableCapacity, or set --allocator=controller"
        )
        self._on_write("refused")
        _LOG.error("slice refused", extra={"error": self.refusal})
        return True

    def _remember(self, wanted: Json, stored: Json) -> None:
        self._kept = (wanted, stored)
        self.published.set()

    def _delete(self, name: str) -> bool:
        kill_point("deletion of a slice")
        try:
            self._cluster.delete_slice(name)
        except NotFound:
            return False
        self._on_write("deleted")
        return True
