"""All that tells of the plugin, put together: counters, node metrics, traces, heartbeats, the HTTP port.

The plugin's other parts know only what they need of it (a counter to call, a tracer), and work without any of it.
"""

from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.trace import Tracer

from fracgpu.driver.process.background import Wait
from fracgpu.driver.process.http_endpoint import HttpEndpoint
from fracgpu.driver.process.liveness import Check, Heartbeat, beating
from fracgpu.driver.telemetry import configure_telemetry
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import ClaimEntry
from fracgpu.kubeletplugin.proof.observation import NodeObservation
from fracgpu.kubeletplugin.telemetry.metrics import PluginMetrics
from fracgpu.kubeletplugin.telemetry.node_metrics import NodeMetrics
from fracgpu.kubeletplugin.telemetry.readiness import Published, readiness_checks

SERVICE_NAME: Final = "fracgpu-kubeletplugin"
_SCOPE: Final = "fracgpu.kubeletplugin"

LOOP_BOUND_SECONDS: Final = 300.0
"""How long a loop may work at a stretch: far more than the time limits of its calls (15 s for each request to the API
server, 15 s for NVML, 10 s for the node lock) add up to on a bad day."""


class PluginTelemetry:
    """Telemetry of one plugin process: `metrics` and `tracer` for its parts, a port for Prometheus and the probes.

    Where traces and metrics are pushed to, if anywhere, stands in OpenTelemetry's environment variables. Raises
    ConfigInvalid for one of those that can not be used.
    """

    def __init__(self, options: PluginOptions) -> None:
        self._options = options
        self._telemetry = configure_telemetry(
            SERVICE_NAME, prometheus=options.http_port is not None, attributes={"k8s.node.name": options.node_name}
        )
        self._alive: dict[str, Check] = {}
        self._endpoint: HttpEndpoint | None = None
        self.metrics = PluginMetrics(self._telemetry.meter(_SCOPE))
        self.tracer: Tracer = self._telemetry.tracer(_SCOPE)

    def tell_of_node(
        self, *, observe: Callable[[], NodeObservation | None], entries: Callable[[], Iterable[ClaimEntry]]
    ) -> None:
        """Show claims, GPUs and allocations from now on; see NodeMetrics for the two functions."""
        source = NodeMetrics(options=self._options, observe=observe, entries=entries)
        self._telemetry.sources.add(_SCOPE, source)

    def watched(
        self, name: str, run: Callable[[Wait], None], *, bound_seconds: float = LOOP_BOUND_SECONDS
    ) -> Callable[[Wait], None]:
        """Return the loop `run`, which /healthz calls dead when it works for longer than `bound_seconds` at a stretch.

        Start the loop soon: its time runs from here.
        """
        heartbeat = Heartbeat(bound_seconds=bound_seconds)
        self._alive[name] = heartbeat.check
        return lambda wait: run(beating(wait, heartbeat))

    def serve(self, *, registered: Callable[[], bool], slices: Published) -> None:
        """Open the HTTP port, if the options name one. Raises OptionInvalid, naming the flag, if that can not be.

        Call it before the sockets listen, so that a port that is taken ends the plugin before any pod relies on it.
        """
        if self._options.http_port is None or self._telemetry.registry is None:
            return
        self._endpoint = HttpEndpoint(
            self._options.http_address,
            self._options.http_port,
            registry=self._telemetry.registry,
            alive=self._alive,
            ready=readiness_checks(registered=registered, slices=slices),
        )
        self._endpoint.start()

    @property
    def http_port(self) -> int | None:
        """The port that is listened on, None if there is none."""
        return None if self._endpoint is None else self._endpoint.port

    def close(self) -> None:
        """Close the port and push what is left, which takes a few seconds at most."""
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
        self._telemetry.shutdown()
