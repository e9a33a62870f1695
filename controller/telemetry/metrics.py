"""Counts what the controller does.

The other parts say what happened, in their own words; how it becomes a metric is decided here. A meter without
exporters makes every call nearly free, so nobody needs to ask whether somebody listens.
"""

from __future__ import annotations

import time
from typing import Final

from opentelemetry.metrics import Counter, Meter
from opentelemetry.trace import Tracer

from fracgpu.controller.telemetry.catalogue import (
    COLLECTIONS,
    DEALLOCATIONS,
    DECISION_DURATION,
    EVENTS,
    FENCED,
    LEADER,
    PENDING,
    REFUSALS,
    ROLLBACKS,
    WRITES,
)
from fracgpu.controller.tell.events import OUTCOMES as EVENT_OUTCOMES
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.metric import Metric

OTHER: Final = "Other"
"""Stands for every code, kind or outcome that is not known here, so that series stay few whatever is told."""
PLACED: Final = "placed"
REFUSED: Final = "refused"
DECISION_OUTCOMES: Final = (PLACED, REFUSED)
WRITE_KINDS: Final = ("allocation", "release")
WRITE_OUTCOMES: Final = ("written", "refused", "conflict", "unknown", "skipped")
_CODES: Final = frozenset(code.value for code in ReasonCode)
_NANOS: Final = 1_000_000_000

# A placement in a large cluster should take less than a millisecond; a survey of all GPUs some of them.
DECISION_BUCKETS_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
)  # fmt: skip


class ControllerMetrics:
    """AllocatorMetrics of ports.py, and what the parts around the allocator count. Safe to use from several threads.

    Each decision also becomes a span of `tracer`.
    """

    def __init__(self, meter: Meter, tracer: Tracer) -> None:
        self._tracer = tracer
        self._decisions = meter.create_histogram(
            DECISION_DURATION.name,
            unit=DECISION_DURATION.unit,
            description=DECISION_DURATION.description,
            explicit_bucket_boundaries_advisory=DECISION_BUCKETS_SECONDS,
        )
        self._refusals = _counter(meter, REFUSALS)
        self._writes = _counter(meter, WRITES)
        self._events = _counter(meter, EVENTS)
        self._deallocations = _counter(meter, DEALLOCATIONS)
        self._rollbacks = _counter(meter, ROLLBACKS)
        self._collections = _counter(meter, COLLECTIONS)
        self._fenced = _counter(meter, FENCED)
        self._pending = meter.create_gauge(PENDING.name, unit=PENDING.unit, description=PENDING.description)
        self._leader = meter.create_gauge(LEADER.name, unit=LEADER.unit, description=LEADER.description)
        self._begin_at_zero()

    def placed(self, seconds: float) -> None:
        """A place was found; deciding took `seconds`."""
        self._decisions.record(seconds, {"outcome": PLACED})
        self._trace(seconds, PLACED)

    def refused(self, code: str, seconds: float) -> None:
        """There was no place, first of all for the reason `code`; deciding took `seconds`."""
        known = code if code in _CODES else OTHER
        self._decisions.record(seconds, {"outcome": REFUSED})
        self._refusals.add(1, {"code": known})
        self._trace(seconds, known)

    def wrote(self, kind: str, outcome: str) -> None:
        """A write of `kind` (allocation, release) ended: written, refused, conflict, unknown or skipped."""
        known = outcome if outcome in WRITE_OUTCOMES else OTHER
        self._writes.add(1, {"kind": kind if kind in WRITE_KINDS else OTHER, "outcome": known})

    def taken_back(self) -> None:
        """kube-scheduler has deallocated a claim that we had allocated."""
        self._deallocations.add(1)

    def rolled_back(self) -> None:
        """A part of a pod's claims was taken back, so that all of them find a place together."""
        self._rollbacks.add(1)

    def collected(self) -> None:
        """An allocation that nobody used was taken back."""
        self._collections.add(1)

    def fenced(self) -> None:
        """A batch was given up, because the term of office was over."""
        self._fenced.add(1)

    def pending(self, count: int) -> None:
        """So many pods and claims wait for an allocation."""
        self._pending.set(count)

    def leads(self, *, leads: bool) -> None:
        """Tell that this replica has begun or ceased to lead. One that does not knows nothing of who waits."""
        self._leader.set(int(leads))
        if not leads:
            self._pending.set(0)

    def told(self, outcome: str) -> None:
        """An event was written, or not; one of the outcomes of tell.events."""
        self._events.add(1, {"outcome": outcome if outcome in EVENT_OUTCOMES else OTHER})

    def _trace(self, seconds: float, outcome: str) -> None:
        end = time.time_ns()
        attributes = {"fracgpu.outcome": outcome}
        span = self._tracer.start_span("fracgpu.decide", start_time=end - int(seconds * _NANOS), attributes=attributes)
        span.end(end)

    def _begin_at_zero(self) -> None:
        # A series that begins with its first event has no increase: rate() and alerts would miss that one.
        for counter in (self._deallocations, self._rollbacks, self._collections, self._fenced):
            counter.add(0)
        for outcome in EVENT_OUTCOMES:
            self._events.add(0, {"outcome": outcome})
        for kind in WRITE_KINDS:
            for outcome in WRITE_OUTCOMES:
                self._writes.add(0, {"kind": kind, "outcome": outcome})
        self.leads(leads=False)


def _counter(meter: Meter, metric: Metric) -> Counter:
    return meter.create_counter(metric.name, unit=metric.unit, description=metric.description)
