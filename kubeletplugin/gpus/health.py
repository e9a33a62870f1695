"""Looks at the GPUs every few seconds and tells who wants to know.

One place asks, so slice, health stream and metrics say the same. The inventory must have a time limit: a GPU that fell
off the bus can keep a call into NVML for ever.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.inventory import GpuInventory
from fracgpu.driver.process.background import Wait
from fracgpu.kubeletplugin.gpus.health_state import Health, NodeHealth, after_look, after_silence

_LOG: Final = logging.getLogger(__name__)
LOOK_SECONDS: Final = 5.0


class HealthMonitor:
    """Knows the GPUs of the node and whether they answer. One thread calls `run`, any thread the rest.

    `clock` gives Unix seconds.
    """

    def __init__(
        self,
        inventory: GpuInventory,
        *,
        clock: Callable[[], float] = time.time,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._inventory = inventory
        self._listeners: list[Callable[[], None]] = []
        self._clock = clock
        self._look_seconds = look_seconds
        self._looked = threading.Condition()
        self._latest = NodeHealth()
        self._looks = 0

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called after each change of what is known, from the thread that looks."""
        self._listeners.append(listener)

    def run(self, wait: Wait) -> None:
        """Look until `wait` says stop."""
        while True:
            self.look()
            if wait(self._look_seconds):
                return

    def look(self) -> None:
        """Ask the driver once. Never raises: a driver that does not answer is a finding."""
        before = self._latest
        try:
            after = after_look(before, self._inventory.list_gpus(), now=self._clock())
        except FracgpuError as error:
            after = after_silence(before, str(error), now=self._clock())
        except Exception as error:
            _LOG.exception("GPUs not listed")
            after = after_silence(before, f"{type(error).__name__}: {error}", now=self._clock())
        first = not before.looked_at
        changed = first or not after.says_the_same(before)
        _log_changes(before, after)
        with self._looked:
            self._latest = after
            self._looks += 1
            self._looked.notify_all()
        if changed:
            self._tell()

    def latest(self) -> tuple[NodeHealth, int]:
        """Return what is known now, and the number of looks so far, for `wait_for_look`."""
        with self._looked:
            return self._latest, self._looks

    def gpus(self) -> tuple[Gpu, ...] | None:
        """Return the GPUs to publish, those that do not answer as unhealthy; None while nothing is known yet.

        One look without an answer is not knowledge: a driver that is slow to start would empty the slice that the
        plugin before this one left.
        """
        latest, _ = self.latest()
        return latest.gpus if latest.answered or latest.silent else None

    def wait_for_look(self, looks: int, *, unless: Callable[[], bool]) -> None:
        """Return when there were more than `looks` looks, or when `unless` holds.

        `unless` is looked at before the wait and at every `interrupt`.
        """
        with self._looked:
            self._looked.wait_for(lambda: self._looks != looks or unless())

    def interrupt(self) -> None:
        """Make every `wait_for_look` look at its `unless`."""
        with self._looked:
            self._looked.notify_all()

    def _tell(self) -> None:
        for listener in self._listeners:
            try:
                listener()
            except Exception:
                _LOG.exception("listener failed")


def _log_changes(before: NodeHealth, after: NodeHealth) -> None:
    if after.silent_looks == 1:
        _LOG.warning("GPUs can not be listed", extra={"error": after.silence})
    elif after.silence != before.silence and after.silent_looks:
        _LOG.warning("GPUs can still not be listed", extra={"error": after.silence})
    elif before.silent_looks and not after.silent_looks:
        _LOG.info("GPUs are listed again", extra={"devices": len(after.states)})
    for uuid, state in after.states.items():
        former = before.states.get(uuid)
        if former is None:
            extra = {"gpu": uuid, "device": state.gpu.device_name, "health": Health(after.health(uuid)).name}
            _LOG.info("GPU found", extra=extra)
        elif former.answering and not state.answering:
            remedy = "look for Xid errors in the kernel log; a lost GPU needs a reset or a reboot"
            _LOG.error("GPU lost", extra={"gpu": uuid, "device": state.gpu.device_name, "remedy": remedy})
        elif state.answering and not former.answering:
            _LOG.info("GPU is back", extra={"gpu": uuid, "device": state.gpu.device_name})
