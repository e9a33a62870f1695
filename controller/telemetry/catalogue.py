"""Every metric of the controller: a public contract, because alerts and dashboards are written against these names.

The names are what Prometheus shows; OTLP carries the same. docs/user/observability.md explains each; a test compares
the two.
"""

from typing import Final

from fracgpu.driver.metric import Metric, catalogue

DECISION_DURATION = Metric(
    "fracgpu_allocator_decision_duration_seconds",
    "histogram",
    "s",
    ("outcome",),
    "How long it took to find a place, or the reasons why there is none.",
)
REFUSALS = Metric(
    "fracgpu_allocator_refusals_total", "counter", "", ("code",), "Explanations why there is no place, by their code."
)
WRITES = Metric(
    "fracgpu_allocator_writes_total", "counter", "", ("kind", "outcome"), "Writes of allocations to the API server."
)
DEALLOCATIONS = Metric(
    "fracgpu_allocator_scheduler_deallocations_total",
    "counter",
    "",
    (),
    "Allocations of ours that kube-scheduler took back.",
)
ROLLBACKS = Metric(
    "fracgpu_allocator_rollbacks_total", "counter", "", (), "Parts of placements that were taken back to be made anew."
)
COLLECTIONS = Metric(
    "fracgpu_allocator_collections_total", "counter", "", (), "Allocations taken back because nobody used them."
)
FENCED = Metric(
    "fracgpu_allocator_fenced_batches_total",
    "counter",
    "",
    (),
    "Batches given up as another replica leads by now.",
)
PENDING = Metric("fracgpu_allocator_pending", "gauge", "", (), "Pods and claims that wait for an allocation.")
LEADER = Metric("fracgpu_allocator_leader", "gauge", "", (), "1 if this replica leads, 0 if not.")
EVENTS = Metric("fracgpu_allocator_events_total", "counter", "", ("outcome",), "Events on pods and claims.")
EVENTS_WAITING = Metric("fracgpu_allocator_events_waiting", "gauge", "", (), "Events that wait to be written.")
WATCH_SILENCE = Metric(
    "fracgpu_allocator_watch_silence_seconds",
    "gauge",
    "s",
    ("resource",),
    "For how long nothing was heard of the API server, which speaks about once a minute.",
)

CATALOGUE: Final = catalogue(globals())
"""All metrics, in the order of this file."""
