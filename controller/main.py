"""The controller as a process: options, signals, exit status."""

import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from fracgpu.controller.options import ControllerOptions
from fracgpu.controller.service import ControllerService
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.log import configure_logging
from fracgpu.driver.process.stop import EXIT_FAILED, EXIT_USAGE, Stop

_LOG: Final = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the controller with the arguments `argv` until SIGTERM or SIGINT; return the exit status.

    0 after a clean stop, 1 when something in the cluster or the process keeps it from working, 2 for wrong options.
    Nothing goes to stdout, logs go to stderr. Must be called from the main thread, which receives the signals; a second
    signal changes nothing.
    """
    try:
        options = ControllerOptions.from_argv(argv)
    except FracgpuError as error:
        sys.stderr.write(f"fracgpu controller: {error}\n")
        return EXIT_USAGE
    configure_logging(options.log_level, json=options.log_json)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.ask())
    try:
        with ExitStack() as running:
            service = ControllerService(options, on_failure=lambda: stop.ask(EXIT_FAILED))
            running.callback(service.stop)
            service.start()
            stop.wait()
    except (FracgpuError, OSError) as error:
        _LOG.error("controller stopped", extra={"error": str(error)})
        return EXIT_FAILED
    _LOG.info("controller stopped", extra={"exit_status": stop.exit_status})
    return stop.exit_status
