"""All feeds together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fracgpu.controller.ports import Change
from fracgpu.controller.watch.feed import Feed
from fracgpu.controller.watch.resources import WATCHED, Watched
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.driver.process.liveness import Check

_STOP_SECONDS: Final = 5.0


class Informers:
    """Tell `on_change` of everything that happens to the watched resources, from one thread per resource."""

    def __init__(
        self,
        transport: KubernetesTransport,
        on_change: Callable[[Change], None],
        *,
        watched: Sequence[Watched] = WATCHED,
    ) -> None:
        self._feeds = tuple(Feed(transport, one, on_change) for one in watched)

    def start(self) -> None:
        """Begin to list and watch."""
        for feed in self._feeds:
            feed.start()

    def stop(self) -> None:
        """End all feeds, in a few seconds at most."""
        threads = [threading.Thread(target=feed.stop, args=(_STOP_SECONDS,), daemon=True) for feed in self._feeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_STOP_SECONDS)

    def wait_synced(self, seconds: float) -> bool:
        """Wait until everything that there was has been told, for `seconds` at most; return whether it has."""
        end = time.monotonic() + seconds
        return all(feed.synced.wait(max(0.0, end - time.monotonic())) for feed in self._feeds)

    def synced(self) -> str | None:
        """Return None when everything that there was has been told, else what is missing: a check of readiness."""
        missing = [feed.plural for feed in self._feeds if not feed.synced.is_set()]
        return f"not listed yet: {', '.join(missing)}" if missing else None

    def alive(self) -> Mapping[str, Check]:
        """Return the checks of liveness, by resource."""
        return {f"watch {feed.plural}": feed.heartbeat.check for feed in self._feeds}

    def ages(self) -> Mapping[str, float]:
        """Return by resource for how many seconds nothing was heard of the API server."""
        return {feed.plural: feed.age() for feed in self._feeds}
