"""Counts what the plugin does.

The other parts say what happened, in their own words (`slice_written`, `swept`); how it becomes a metric is decided
here. A meter without exporters makes every call nearly free, so nobody needs to ask whether somebody listens.
"""

from typing import Final

from opentelemetry.metrics import Counter, Meter

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.metric import Metric
from fracgpu.kubeletplugin.telemetry.catalogue import (
    CLAIM_DURATION,
    JANITOR_REMOVALS,
    NVML_AVAILABLE,
    NVML_FAILURES,
    SLICE_WRITES,
    STATUS_WRITES,
)

OK: Final = "ok"
"""The outcome of what succeeded. Any other is a reason code or the name of an error, see `outcome_of`."""
DEFECT: Final = "Defect"
"""The outcome of what failed in a way that nobody thought of."""

# In the words of those who tell: publisher, claim_writer, janitor.
SLICE_OUTCOMES: Final = ("created", "replaced", "deleted", "refused", "failed")
STATUS_OUTCOMES: Final = ("written", "dropped", "unchanged", "gone", "conflict", "forbidden", "refused", "unavailable")
REMOVAL_KINDS: Final = ("claim", "spec", "allocation", "interceptor", "temporary")

# From a claim that is prepared already to the deadline of a call, and the kubelet's own of 45 s.
CLAIM_DURATION_BUCKETS_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 45.0,
)  # fmt: skip


def outcome_of(error: BaseException | None) -> str:
    """Return the outcome that metrics, traces and logs show for `error`, None meaning success.

    The stable reason code of a refusal, else the name of our error type, `OSError` for what the system refused, and
    `Defect` for all others: a fixed set, whatever users write.
    """
    if error is None:
        return OK
    code = getattr(error, "code", None)
    if isinstance(error, FracgpuError):
        return str(code) if code is not None else type(error).__name__
    return "OSError" if isinstance(error, OSError) else DEFECT


class PluginMetrics:
    """The plugin's counters and its histogram. Safe to use from several threads."""

    def __init__(self, meter: Meter) -> None:
        self._claim_duration = meter.create_histogram(
            CLAIM_DURATION.name,
            unit=CLAIM_DURATION.unit,
            description=CLAIM_DURATION.description,
            explicit_bucket_boundaries_advisory=CLAIM_DURATION_BUCKETS_SECONDS,
        )
        self._slice_writes = _counter(meter, SLICE_WRITES)
        self._status_writes = _counter(meter, STATUS_WRITES)
        self._removals = _counter(meter, JANITOR_REMOVALS)
        self._nvml_failures = _counter(meter, NVML_FAILURES)
        self._nvml_available = meter.create_gauge(
            NVML_AVAILABLE.name, unit=NVML_AVAILABLE.unit, description=NVML_AVAILABLE.description
        )
        # A series that begins with its first failure has no increase: rate() and alerts would miss that one.
        for counter, label, values in (
            (self._slice_writes, "outcome", SLICE_OUTCOMES),
            (self._status_writes, "outcome", STATUS_OUTCOMES),
            (self._removals, "kind", REMOVAL_KINDS),
        ):
            for value in values:
                counter.add(0, {label: value})
        self._nvml_failures.add(0)

    def claim_done(self, op: str, outcome: str, seconds: float) -> None:
        """One claim was prepared or unprepared (`op`), or not; `outcome` as `outcome_of` says."""
        self._claim_duration.record(seconds, {"op": op, "outcome": outcome})

    def slice_written(self, outcome: str) -> None:
        """The ResourceSlice was written, or not; one of SLICE_OUTCOMES."""
        self._slice_writes.add(1, {"outcome": outcome})

    def status_written(self, outcome: str) -> None:
        """The status of a claim was written, or not; one of STATUS_OUTCOMES."""
        self._status_writes.add(1, {"outcome": outcome})

    def swept(self, kind: str, count: int) -> None:
        """The janitor removed `count` things of one of REMOVAL_KINDS."""
        self._removals.add(count, {"kind": kind})

    def nvml_asked(self, *, answered: bool) -> None:
        """NVML was asked something; a lost or unknown GPU is an answer."""
        self._nvml_available.set(int(answered))
        if not answered:
            self._nvml_failures.add(1)


def _counter(meter: Meter, metric: Metric) -> Counter:
    return meter.create_counter(metric.name, unit=metric.unit, description=metric.description)
