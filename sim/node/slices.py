"""What the kubelet does to ResourceSlices that are not its own: it deletes them.

All slices of the node at its own start, and those of a driver some time after the driver's last plugin went away. A
plugin has to live with both.
"""

from __future__ import annotations

import logging
import threading
import urllib.parse

from fracgpu.sim.node.api import KubeApi
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError

_LOG = logging.getLogger(__name__)
_SLICES = "/apis/resource.k8s.io/v1/resourceslices"


class SliceJanitor:
    """Deletes slices of one node; `driver_gone` starts the grace period that `keep` ends."""

    def __init__(self, api: KubeApi, node_name: str, *, grace_s: float) -> None:
        self._api = api
        self._node_name = node_name
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._timers: dict[str, threading.Timer] = {}

    def wipe(self, driver: str | None = None) -> None:
        """Delete the slices of this node, of all drivers or of one."""
        query = urllib.parse.urlencode({"fieldSelector": f"spec.nodeName={self._node_name}"})
        try:
            for item in self._api.get(f"{_SLICES}?{query}")["items"]:
                if item["spec"].get("nodeName") == self._node_name and driver in {None, item["spec"]["driver"]}:
                    self._api.delete(f"{_SLICES}/{item['metadata']['name']}")
        except (ApiRefusedError, ApiUnreachableError) as error:
            _LOG.warning("slices not deleted driver=%s error=%s", driver, error)

    def driver_gone(self, driver: str) -> None:
        """Delete the driver's slices after the grace period."""
        timer = threading.Timer(self._grace_s, self.wipe, [driver])
        timer.daemon = True
        with self._lock:
            self._timers[driver] = timer
            timer.start()

    def keep(self, driver: str) -> None:
        """The driver is back: keep its slices."""
        with self._lock:
            timer = self._timers.pop(driver, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """Forget every grace period."""
        with self._lock:
            for timer in self._timers.values():
                timer.cancel()
