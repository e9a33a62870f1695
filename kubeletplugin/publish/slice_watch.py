"""Tells when the node's ResourceSlices are no longer what they were.

A thread of its own: a watch that hangs (a connection that died without a word) must delay nothing but the news that it
would have brought, and the publisher looks by itself now and then.
"""

import logging
from collections.abc import Callable
from typing import Final

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.process.background import Wait
from fracgpu.kubeletplugin.api.cluster import ClusterApi, SliceEvent

_LOG: Final = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


class SliceWatch:
    """Watches our slices of one node; `on_change` is called when one changed in a way that is not `expected`."""

    def __init__(
        self,
        cluster: ClusterApi,
        node_name: str,
        *,
        on_change: Callable[[], None],
        expected: Callable[[SliceEvent], bool],
    ) -> None:
        self._cluster = cluster
        self._node_name = node_name
        self._on_change = on_change
        self._expected = expected

    def run(self, wait: Wait) -> None:
        """List and watch until `wait` says stop; pauses grow while the API server does not answer."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self.follow()
                pause = _FIRST_PAUSE_SECONDS
            except FracgpuError as error:
                _LOG.warning("slices not watched", extra={"error": str(error), "retry_seconds": pause})
            except Exception:
                # Whatever it is, the watch is what brings a wiped slice back within seconds: go on trying.
                _LOG.exception("slices not watched", extra={"retry_seconds": pause})
            if wait(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def follow(self) -> None:
        """Watch once, until the API server ends it. Raises ClusterError."""
        version = self._cluster.list_slices(self._node_name).resource_version
        # What happened before this version has no event any more.
        self._on_change()
        for event in self._cluster.watch_slices(self._node_name, version):
            if not self._expected(event):
                self._on_change()
