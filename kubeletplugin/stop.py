"""The plugin's stop, which has one reason more than others: the driver under it was replaced."""

import logging
from typing import Final

from fracgpu.driver.process.stop import Stop

_LOG: Final = logging.getLogger(__name__)

EXIT_DRIVER_REPLACED: Final = 3


class PluginStop(Stop):
    """Any thread asks for the plugin's stop, the main thread waits for it."""

    def driver_replaced(self) -> None:
        """Have the plugin stop because only a new process can use the driver that is there now."""
        remedy = "the plugin ends, to be started again with the new library; containers go on meanwhile"
        _LOG.error("the driver was replaced", extra={"remedy": remedy})
        self.ask(EXIT_DRIVER_REPLACED)
