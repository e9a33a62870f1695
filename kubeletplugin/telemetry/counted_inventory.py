"""A GPU inventory that tells the metrics whether NVML answers.

Each of its users copes with a driver that is silent in its own way, and none of them knows of the others' failures.
Here all of them pass.
"""

from collections.abc import Callable
from typing import TypeVar

from fracgpu.driver.errors import InventoryUnavailable
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.inventory import GpuInventory
from fracgpu.driver.names import GpuUuid
from fracgpu.driver.usage import GpuMemory, GpuProcess
from fracgpu.kubeletplugin.telemetry.metrics import PluginMetrics

_Answer = TypeVar("_Answer")


class CountedInventory:
    """GpuInventory that does what `inventory` does, and tells `metrics`."""

    def __init__(self, inventory: GpuInventory, metrics: PluginMetrics) -> None:
        self._inventory = inventory
        self._metrics = metrics

    def list_gpus(self) -> tuple[Gpu, ...]:
        """Return all GPUs by index."""
        return self._asked(self._inventory.list_gpus)

    def processes(self, uuid: GpuUuid) -> tuple[GpuProcess, ...]:
        """Return the processes on one GPU, by PID."""
        return self._asked(lambda: self._inventory.processes(uuid))

    def memory(self, uuid: GpuUuid) -> GpuMemory:
        """Return the memory of one GPU."""
        return self._asked(lambda: self._inventory.memory(uuid))

    def _asked(self, question: Callable[[], _Answer]) -> _Answer:
        answered = True
        try:
            return question()
        except InventoryUnavailable:
            answered = False
            raise
        finally:
            self._metrics.nvml_asked(answered=answered)
