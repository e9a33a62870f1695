"""The plugin as a process: options, signals, exit status."""

import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.log import configure_logging
from fracgpu.driver.process.stop import EXIT_FAILED, EXIT_USAGE
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.plugin import Plugin
from fracgpu.kubeletplugin.stop import PluginStop

_LOG: Final = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the kubelet plugin with the arguments `argv` until SIGTERM or SIGINT; return the exit status.

    0 after a clean stop, 1 when something on the node or in the cluster keeps it from starting, 2 for wrong options, 3
    when the driver was replaced by one that only a new process can use: start the plugin again. A missing driver is no
    reason to end. Nothing goes to stdout, logs go to stderr. Must be called from the main thread, which receives the
    signals; a second signal changes nothing.
    """
    try:
        options = PluginOptions.from_argv(argv)
    except FracgpuError as error:
        sys.stderr.write(f"fracgpu kubeletplugin: {error}\n")
        return EXIT_USAGE
    configure_logging(options.log_level, json=options.log_json)
    stop = PluginStop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.ask())
    try:
        with ExitStack() as running:
            plugin = Plugin(options, on_driver_replaced=stop.driver_replaced)
            running.callback(plugin.stop)
            plugin.start()
            stop.wait()
    except (FracgpuError, OSError) as error:
        _LOG.error("plugin stopped", extra={"error": str(error)})
        return EXIT_FAILED
    _LOG.info("plugin stopped", extra={"exit_status": stop.exit_status})
    return stop.exit_status
