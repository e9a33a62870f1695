"""Keeps this node's ResourceSlice as it should be.

The kubelet deletes a node's slices when it starts and half a minute after a plugin went away, people delete them by
hand, and nobody tells us; so the slice is watched and put back. It is written only when it would mean something else,
because every write wakes the schedulers. And each write is compared with what the API server kept: one that drops the
sharing fields would let kube-scheduler hand out whole cards as fractions, so then nothing is published.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.inventory import GpuInventory
from fracgpu.driver.names import ALLOCATOR_SCHEDULER
from fracgpu.kubeletplugin.cluster import ClusterApi, Json
from fracgpu.kubeletplugin.errors import NotFound
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.slice_diff import dropped_fields, same_slice
from fracgpu.kubeletplugin.slices import build_slice, slice_name

_LOG: Final = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
# What kube-scheduler needs to share a device; without one of them it would hand out whole cards.
_SHARING_FIELDS: Final = frozenset({"allowMultipleAllocations", "requestPolicy", "validRange"})

Wait = Callable[[float], bool]
"""Waits that many seconds, or less if the plugin is to stop; returns whether it is."""


class SlicePublisher:
    """Publishes the slice of one node and keeps it published. One thread calls `run`."""

    def __init__(self, *, options: PluginOptions, cluster: ClusterApi, inventory: GpuInventory) -> None:
        self._options = options
        self._cluster = cluster
        self._inventory = inventory
        self._kept: tuple[Json, Json] | None = None
        self.refusal: str | None = None
        self.published = threading.Event()

    def run(self, wait: Wait) -> None:
        """Publish and watch until `wait` says stop.

        Pauses between two writes grow while something keeps undoing them, and between failed attempts.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                version, changed = self.sync()
                if not changed:
                    pause = _FIRST_PAUSE_SECONDS
                self._watch(version)
            except FracgpuError as error:
                _LOG.warning("slice not up to date", extra={"error": str(error), "retry_seconds": pause})
            except Exception:
                # Whatever it is, a node without a slice gets no pods: go on trying.
                _LOG.exception("slice not up to date", extra={"retry_seconds": pause})
            if wait(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def sync(self) -> tuple[str, bool]:
        """Make the slice right once; return the version to watch from and whether anything had to be written.

        Raises ClusterError, or InventoryUnavailable.
        """
        node = self._cluster.get_node(self._options.node_name)
        wanted = build_slice(self._inventory.list_gpus(), self._options, node_uid=node["metadata"]["uid"])
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
        return listing.resource_version, changed

    def _watch(self, version: str) -> None:
        """Return when our slice is no longer what was stored last, or when the watch ends."""
        for event in self._cluster.watch_slices(self._options.node_name, version):
            ours = event.item.get("metadata", {}).get("name") == slice_name(self._options.node_name)
            if not ours or self._kept is None:
                return
            if event.kind == "DELETED" or not same_slice(self._kept[1], event.item):
                return

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
        _LOG.info("slice published", extra={"devices": len(wanted["spec"]["devices"]), "dropped": ",".join(lost)})
        return True

    def _send(self, wanted: Json, current: Json | None, *, dry_run: bool) -> Json:
        if current is None:
            return self._cluster.create_slice(wanted, dry_run=dry_run)
        metadata = {**current["metadata"], "ownerReferences": wanted["metadata"]["ownerReferences"]}
        return self._cluster.replace_slice({**current, "metadata": metadata, "spec": wanted["spec"]}, dry_run=dry_run)

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
        _LOG.error("slice refused", extra={"error": self.refusal})
        return True

    def _remember(self, wanted: Json, stored: Json) -> None:
        self._kept = (wanted, stored)
        self.published.set()

    def _delete(self, name: str) -> bool:
        try:
            self._cluster.delete_slice(name)
        except NotFound:
            return False
        return True
