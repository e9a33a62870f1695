"""All that tells of the controller, put together: metrics, traces, heartbeats, the HTTP port.

The controller's other parts know only what they need of it (a counter to call), and work without any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from opentelemetry.trace import Tracer

from fracgpu.controller.options import ControllerOptions
from fracgpu.controller.telemetry.catalogue import EVENTS_WAITING, WATCH_SILENCE
from fracgpu.controller.telemetry.metrics import ControllerMetrics
from fracgpu.driver.metric import Metric
from fracgpu.driver.metric_sources import Family, Reading
from fracgpu.driver.process.http_endpoint import HttpEndpoint
from fracgpu.driver.process.liveness import Check
from fracgpu.driver.telemetry import configure_telemetry

SERVICE_NAME: Final = "fracgpu-controller"
_SCOPE: Final = "fracgpu.controller"


class ControllerTelemetry:
    """Telemetry of one controller process: `metrics` and `tracer` for its parts, a port for Prometheus and the probes.

    Where traces and metrics are pushed to, if anywhere, stands in OpenTelemetry's environment variables. Raises
    ConfigInvalid for one of those that can not be used.
    """

    def __init__(self, options: ControllerOptions) -> None:
        self._options = options
        self._telemetry = configure_telemetry(
            SERVICE_NAME, prometheus=options.http_port is not None, attributes={"k8s.pod.name": options.identity}
        )
        self._endpoint: HttpEndpoint | None = None
        self.tracer: Tracer = self._telemetry.tracer(_SCOPE)
        self.metrics = ControllerMetrics(self._telemetry.meter(_SCOPE), self.tracer)

    def tell_of_queues(self, *, silence: Callable[[], Mapping[str, float]], events: Callable[[], int]) -> None:
        """Show from now on for how long each watch was silent, by resource, and how many events wait."""

        def look() -> Iterable[Family]:
            yield _gauge(WATCH_SILENCE, [Reading(age, {"resource": plural}) for plural, age in silence().items()])
            yield _gauge(EVENTS_WAITING, [Reading(float(events()), {})])

        self._telemetry.sources.add(_SCOPE, look)

    def serve(self, *, alive: Mapping[str, Check], ready: Mapping[str, Check]) -> None:
        """Open the HTTP port, if the options name one. Raises OptionInvalid, naming the flag, if that can not be."""
        if self._options.http_port is None or self._telemetry.registry is None:
            return
        self._endpoint = HttpEndpoint(
            self._options.http_address,
            self._options.http_port,
            registry=self._telemetry.registry,
            alive=alive,
            ready=ready,
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


def _gauge(metric: Metric, readings: list[Reading]) -> Family:
    return Family(name=metric.name, unit=metric.unit, description=metric.description, counter=False, readings=readings)
