"""Is the plugin ready: can pods come?

They can when the kubelet knows the plugin, and the node's slice is published or it is known why not.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.process.liveness import Check


class Published(Protocol):
    """What readiness asks of the slice publisher."""

    @property
    def published(self) -> threading.Event:
        """Set while the slice is as it should be."""

    @property
    def refusal(self) -> str | None:
        """Why nothing may be published, None if nothing stands against it."""


def readiness_checks(*, registered: Callable[[], bool], slices: Published) -> Mapping[str, Check]:
    """Return the checks of /readyz: the kubelet knows us, and the slice is published or refused for a known reason.

    A refusal is for an administrator to cure and stands in the log; a plugin that is never ready would only stop the
    roll-out that cures it.
    """

    def registration() -> str | None:
        return None if registered() else f"the kubelet has not registered {DRIVER_NAME} yet; see its log"

    def slice_published() -> str | None:
        done = slices.published.is_set() or slices.refusal is not None
        return None if done else "the ResourceSlice is not published yet; see the plugin's log for the reason"

    return {"registration": registration, "slice": slice_published}
