"""Puts the plugin together and runs it until it is told to stop."""

import logging
import platform
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from fracgpu.cdi.discovery import discover_driver
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.inventory import NvmlInventory
from fracgpu.driver.log import configure_logging
from fracgpu.kubeletplugin.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.options import PluginOptions, check_directories
from fracgpu.kubeletplugin.preparer import ClaimPreparer
from fracgpu.kubeletplugin.publisher import SlicePublisher
from fracgpu.kubeletplugin.registration import PluginServers
from fracgpu.native.libraries import NativeLibraries

_LOG: Final = logging.getLogger(__name__)
_EXIT_OK: Final = 0
_EXIT_FAILED: Final = 1
_EXIT_USAGE: Final = 2
# The publisher's thread may be inside a watch that only the API server ends; it holds nothing that must be saved.
_PUBLISHER_JOIN_SECONDS: Final = 1.0


def main(argv: Sequence[str]) -> int:
    """Run the kubelet plugin with the arguments `argv` until SIGTERM or SIGINT; return the exit status.

    0 after a clean stop, 2 for wrong options, 1 when something on the node or in the cluster keeps it from starting.
    Nothing goes to stdout, logs go to stderr. Must be called from the main thread, which receives the signals.
    """
    try:
        options = PluginOptions.from_argv(argv)
    except FracgpuError as error:
        sys.stderr.write(f"fracgpu kubeletplugin: {error}\n")
        return _EXIT_USAGE
    configure_logging(options.log_level, json=options.log_json)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with ExitStack() as running:
            start(options, running, stop)
            stop.wait()
    except (FracgpuError, OSError) as error:
        _LOG.error("plugin stopped", extra={"error": str(error)})
        return _EXIT_FAILED
    _LOG.info("plugin stopped")
    return _EXIT_OK


def start(options: PluginOptions, running: ExitStack, stop: threading.Event) -> None:
    """Start all parts; `running` stops them in reverse order, the registration socket first.

    The slice stays published: running pods and a plugin that comes back at once lose nothing by it, and the kubelet
    removes it when the plugin stays away. Raises FracgpuError or OSError.
    """
    check_directories(options)
    natives = NativeLibraries.locate()
    driver = discover_driver(options.driver_root)
    inventory = running.enter_context(NvmlInventory(driver.nvml))
    cluster = KubernetesCluster(options.kubeconfig)
    running.callback(cluster.close)
    preparer = ClaimPreparer(
        options=options,
        cluster=cluster,
        inventory=inventory,
        libraries=(natives.container_cuda, natives.container_nvml),
        machine=platform.machine(),
    )
    publisher = SlicePublisher(options=options, cluster=cluster, inventory=inventory)
    thread = threading.Thread(target=publisher.run, args=(stop.wait,), name="slices", daemon=True)
    servers = PluginServers(options, preparer)
    running.callback(_stop_thread, thread, stop)
    running.callback(servers.stop)
    servers.start()
    # Only now: pods come as soon as there is a slice.
    thread.start()
    _LOG.info("plugin started", extra={"node": options.node_name, "driver_version": driver.version})


def _stop_thread(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread.is_alive():
        thread.join(_PUBLISHER_JOIN_SECONDS)
