"""What the kubelet does to ResourceSlices that are not its own: it deletes them.

All slices of the node at its own start, and those of a driver some time after the driver's last plugin went away. A
plugin has to live with both, also with a deletion that was tried again and again while the API server was away and that
comes when the plugin is long back.

Source: wipeResourceSlices in pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go of Kubernetes 1.36.3.
"""

from __future__ import annotations

import logging
import threading
import urllib.parse
from collections.abc import Iterator

from fracgpu.sim.node.api import KubeApi
from fracgpu.sim.node.timings import backoff
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError

_LOG = logging.getLogger(__name__)
_SLICES = "/apis/resource.k8s.io/v1/resourceslices"


class SliceJanitor:
    """Deletes slices of one node; `driver_gone` starts the grace period that `keep` ends. Times are in seconds."""

    def __init__(self, api: KubeApi, node_name: str, *, grace_s: float, retry_s: tuple[float, float]) -> None:
        self._api = api
        self._node_name = node_name
        self._grace_s = grace_s
        self._retry_s = retry_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._timers: dict[str, threading.Timer] = {}

    def wipe(self, driver: str | None = None) -> None:
        """Delete the slices of this node, of all drivers or of one; what fails is tried again in the background."""
        if not self._wiped(driver):
            threading.Thread(target=self._keep_trying, args=[driver], name="slice-wipe", daemon=True).start()

    def _keep_trying(self, driver: str | None) -> None:
        delays: Iterator[float] = backoff(self._retry_s)
        while not self._stop.wait(next(delays)):
            if self._wiped(driver):
                return

    def _wiped(self, driver: str | None) -> bool:
        selector = f"spec.nodeName={self._node_name}" + (f",spec.driver={driver}" if driver else "")
        try:
            self._api.delete(f"{_SLICES}?{urllib.parse.urlencode({'fieldSelector': selector})}")
        except (ApiRefusedError, ApiUnreachableError) as error:
            _LOG.warning("slices not deleted driver=%s error=%s", driver, error)
            return False
        return True

    def driver_gone(self, driver: str) -> None:
        """Delete the driver's slices after the grace period."""
        timer = threading.Timer(self._grace_s, self.wipe, [driver])
        timer.daemon = True
        with self._lock:
            self._timers[driver] = timer
            timer.start()

    def keep(self, driver: str) -> None:
        """The driver is back: keep its slices, unless their deletion has begun."""
        with self._lock:
            timer = self._timers.pop(driver, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """Forget every grace period and everything that was to be tried again."""
        self._stop.set()
        with self._lock:
            for timer in self._timers.values():
                timer.cancel()
