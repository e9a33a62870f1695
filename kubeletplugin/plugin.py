"""All parts of the plugin, wired in one place, started and stopped in the right order.

Nothing is published before the kubelet has registered the plugin: pods come as soon as there is a slice, and one whose
Prepare fails, for want of a plugin or otherwise, is tried again after a minute or more. At the end the registration
socket goes first, then calls in progress finish, then the loops stop. Slice, CDI specs, checkpoint and running pods
stay as they are: the kubelet removes the slice of a plugin that stays away.
"""

import logging
import platform
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import grpc

from fracgpu.driver.gpu import Gpu
from fracgpu.driver.process.background import Background, Wait
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.gpus.deadline_inventory import DeadlineInventory
from fracgpu.kubeletplugin.gpus.health import HealthMonitor
from fracgpu.kubeletplugin.gpus.inventory_session import InventorySession
from fracgpu.kubeletplugin.gpus.node_driver import read_driver
from fracgpu.kubeletplugin.janitor.janitor import Janitor
from fracgpu.kubeletplugin.kubelet.health_service import HealthService
from fracgpu.kubeletplugin.kubelet.registration import PluginServers
from fracgpu.kubeletplugin.kubelet.services import add_services
from fracgpu.kubeletplugin.options import PluginOptions, check_directories
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.preparer import CHECKPOINT_FILE, ClaimPreparer
from fracgpu.kubeletplugin.proof.members import ClaimConsumers
from fracgpu.kubeletplugin.proof.observer import Observer
from fracgpu.kubeletplugin.proof.reporter import StatusReporter
from fracgpu.kubeletplugin.publish.publisher import SlicePublisher
from fracgpu.kubeletplugin.publish.slice_watch import SliceWatch
from fracgpu.kubeletplugin.telemetry.counted_inventory import CountedInventory
from fracgpu.kubeletplugin.telemetry.plugin_telemetry import LOOP_BOUND_SECONDS, PluginTelemetry
from fracgpu.native.libraries import NativeLibraries

_LOG: Final = logging.getLogger(__name__)
# A watch lasts four minutes by itself.
_WATCH_BOUND_SECONDS: Final = 600.0
# One round asks the API server about each claim in turn, which may let each of the questions time out.
_CLAIMS_BOUND_SECONDS: Final = 3600.0


class Plugin:
    """One plugin on one node: `start` once, then `stop` once."""

    def __init__(self, options: PluginOptions, *, on_driver_replaced: Callable[[], None]) -> None:
        """Make all parts. The interceptor is stored on the node; nothing listens and nothing is published yet.

        Raises FracgpuError or OSError for what keeps the plugin from working at all. A missing driver does not.
        """
        check_directories(options)
        natives = NativeLibraries.locate()
        self._options = options
        self._closing = ExitStack()
        self._background = Background()
        self._telemetry = PluginTelemetry(options)
        self._closing.callback(self._telemetry.close)
        self._cluster = KubernetesCluster(options.kubeconfig)
        self._closing.callback(self._cluster.close)
        session = InventorySession(lambda: read_driver(options).files.nvml, on_replaced=on_driver_replaced)
        limited = DeadlineInventory(session)
        self._closing.callback(limited.close)
        self._inventory = CountedInventory(limited, self._telemetry.metrics)
        self._preparer = ClaimPreparer(
            options=options,
            cluster=self._cluster,
            inventory=self._inventory,
            libraries=natives.interceptor,
            machine=platform.machine(),
        )
        self._make_slice_parts()
        self._make_proof_parts()
        self._janitor = Janitor(
            options=options,
            cluster=self._cluster,
            library_digest=self._preparer.library_digest,
            removed=self._telemetry.metrics.swept,
        )
        self._servers = PluginServers(
            options,
            self._add_services,
            HealthService(self._monitor, pool=options.node_name),
            on_registered=self._publisher.wake,
        )

    def start(self) -> None:
        """Listen, and publish once registered.

        Raises FracgpuError or OSError; what has started by then goes with `stop`.
        """
        self._closing.callback(self._background.stop)
        self._closing.callback(self._servers.stop)
        self._telemetry.serve(registered=self._servers.registration.registered.is_set, slices=self._publisher)
        self._servers.start()
        self._run("sockets", self._servers.run)
        self._run("health", self._monitor.run)
        self._run("slices", self._publisher.run, wake=self._publisher.wake)
        self._run("slice-watch", self._watch.run, bound_seconds=_WATCH_BOUND_SECONDS, awaited=False)
        self._run("observer", self._observer.run)
        self._run("reporter", self._reporter.run, bound_seconds=_CLAIMS_BOUND_SECONDS)
        self._run("janitor", self._janitor.run, bound_seconds=_CLAIMS_BOUND_SECONDS)
        _LOG.info("plugin started", extra={"node": self._options.node_name, "registry": self._options.registry_dir})

    def stop(self) -> None:
        """Stop what was started, in reverse order."""
        self._closing.close()

    def _make_slice_parts(self) -> None:
        self._monitor = HealthMonitor(self._inventory)
        self._publisher = SlicePublisher(
            options=self._options,
            cluster=self._cluster,
            gpus=self._known_gpus,
            on_write=self._telemetry.metrics.slice_written,
            tracer=self._telemetry.tracer,
        )
        self._monitor.listen(self._publisher.wake)
        self._watch = SliceWatch(
            self._cluster,
            self._options.node_name,
            on_change=self._publisher.wake,
            expected=self._publisher.expected,
        )

    def _known_gpus(self) -> tuple[Gpu, ...] | None:
        """Return what is to be published, None while the slice is to stay as it is."""
        return self._monitor.gpus() if self._servers.registration.registered.is_set() else None

    def _make_proof_parts(self) -> None:
        checkpoints = CheckpointStore(self._options.state_dir / CHECKPOINT_FILE, Files())
        consumers = ClaimConsumers()
        self._reporter = StatusReporter(
            node_name=self._options.node_name,
            cluster=self._cluster,
            consumers=consumers,
            on_outcome=lambda _, outcome: self._telemetry.metrics.status_written(outcome.value),
            tracer=self._telemetry.tracer,
        )
        self._observer = Observer(
            options=self._options,
            inventory=self._inventory,
            checkpoints=checkpoints,
            consumers=consumers,
            machine=platform.machine(),
            listeners=(self._reporter.observe,),
        )
        self._telemetry.tell_of_node(observe=self._observer.latest, entries=lambda: checkpoints.load().entries.values())

    def _add_services(self, server: grpc.Server) -> None:
        add_services(self._preparer, server, metrics=self._telemetry.metrics, tracer=self._telemetry.tracer)

    def _run(
        self,
        name: str,
        run: Callable[[Wait], None],
        *,
        wake: Callable[[], None] | None = None,
        awaited: bool = True,
        bound_seconds: float = LOOP_BOUND_SECONDS,
    ) -> None:
        watched = self._telemetry.watched(name, run, bound_seconds=bound_seconds)
        self._background.start(name, watched, wake=wake, awaited=awaited)
