"""Every metric of the plugin: a public contract, because alerts and dashboards are written against these names.

The names are what Prometheus shows; OTLP carries the same. Nothing is named after a pod, so that there are never more
series than the claims and GPUs of this node need. docs/user/observability.md explains each; a test compares the two.
"""

from typing import Final

from fracgpu.driver.metric import Metric, catalogue

_GPU: Final = ("gpu_uuid", "device")
_ALLOCATION: Final = ("namespace", "claim", "request", "device", "gpu_uuid", "allocation_id")


# What the plugin did.
CLAIM_DURATION = Metric(
    "fracgpu_claim_operation_duration_seconds",
    "histogram",
    "s",
    ("op", "outcome"),
    "How long preparing and unpreparing a claim took.",
)
SLICE_WRITES = Metric(
    "fracgpu_slice_writes_total", "counter", "", ("outcome",), "Writes of this node's ResourceSlice to the API server."
)
STATUS_WRITES = Metric(
    "fracgpu_status_writes_total", "counter", "", ("outcome",), "Writes of a claim's device status to the API server."
)
JANITOR_REMOVALS = Metric(
    "fracgpu_janitor_removals_total",
    "counter",
    "",
    ("kind",),
    "What the janitor took away as nothing needed it.",
)
NVML_FAILURES = Metric(
    "fracgpu_nvml_failures_total", "counter", "", (), "Questions that NVML did not answer, in time or at all."
)

# What is so on the node.
NVML_AVAILABLE = Metric("fracgpu_nvml_available", "gauge", "", (), "1 if NVML answered the last question, 0 if not.")
CHECKPOINT_READABLE = Metric(
    "fracgpu_checkpoint_readable", "gauge", "", (), "1 if the checkpoint can be read, else 0: nothing can be done."
)
CLAIMS = Metric("fracgpu_claims", "gauge", "", ("state",), "Claims on this node by the state of their entry.")
GPU_HEALTHY = Metric("fracgpu_gpu_healthy", "gauge", "", _GPU, "1 if the GPU answers, 0 if not.")
GPU_MEMORY_TOTAL = Metric("fracgpu_gpu_memory_total_bytes", "gauge", "By", _GPU, "Physical memory of the GPU.")
GPU_MEMORY_USED = Metric(
    "fracgpu_gpu_memory_used_bytes", "gauge", "By", _GPU, "Memory in use on the GPU, whoever uses it, as NVML counts."
)
GPU_MEMORY_ALLOCATED = Metric(
    "fracgpu_gpu_memory_allocated_bytes", "gauge", "By", _GPU, "Memory that claims on this node were given of the GPU."
)
GPU_MEMORY_CAPACITY = Metric(
    "fracgpu_gpu_memory_capacity_bytes", "gauge", "By", _GPU, "Memory that may be given away: physical times the scale."
)
GPU_CORES_ALLOCATED = Metric(
    "fracgpu_gpu_cores_allocated_percent", "gauge", "%", _GPU, "Cores that claims were given, in percent of one GPU."
)
GPU_CORES_CAPACITY = Metric(
    "fracgpu_gpu_cores_capacity_percent", "gauge", "%", _GPU, "Cores that may be given away: 100 times the scale."
)
GPU_SLOTS_ALLOCATED = Metric("fracgpu_gpu_slots_allocated", "gauge", "", _GPU, "Sharers that the GPU has.")
GPU_SLOTS_CAPACITY = Metric("fracgpu_gpu_slots_capacity", "gauge", "", _GPU, "Sharers that the GPU may have.")
GPU_FOREIGN_PROCESSES = Metric(
    "fracgpu_gpu_foreign_processes", "gauge", "", _GPU, "Processes on the GPU that belong to no claim of this node."
)
GPU_HIDDEN_PROCESSES = Metric(
    "fracgpu_gpu_hidden_processes", "gauge", "", _GPU, "Processes on the GPU that the plugin can not see."
)

# What is so of each allocation.
ALLOCATION_CONDITION = Metric(
    "fracgpu_allocation_condition",
    "gauge",
    "",
    (*_ALLOCATION, "condition", "status"),
    "1 for the status (True, False, Unknown) that the condition has, 0 for the others.",
)
ALLOCATION_MEMORY_LIMIT = Metric(
    "fracgpu_allocation_memory_limit_bytes",
    "gauge",
    "By",
    _ALLOCATION,
    "Its memory limit; absent where there is none.",
)
ALLOCATION_MEMORY_USED = Metric(
    "fracgpu_allocation_memory_used_bytes", "gauge", "By", _ALLOCATION, "Memory charged to the allocation now."
)
ALLOCATION_MEMORY_PEAK = Metric(
    "fracgpu_allocation_memory_peak_bytes", "gauge", "By", _ALLOCATION, "Most memory that was ever charged to it."
)
ALLOCATION_DRIVER_MEMORY_USED = Metric(
    "fracgpu_allocation_driver_memory_used_bytes",
    "gauge",
    "By",
    _ALLOCATION,
    "What the driver counts for its processes, contexts included; absent where it does not say.",
)
ALLOCATION_HOST_PINNED = Metric(
    "fracgpu_allocation_host_pinned_bytes",
    "gauge",
    "By",
    _ALLOCATION,
    "Memory of the host that its processes pinned through CUDA; no limit is set for it.",
)
ALLOCATION_CORES = Metric(
    "fracgpu_allocation_cores_percent", "gauge", "%", _ALLOCATION, "Cores that it was given, in percent of one GPU."
)
ALLOCATION_REFUSALS = Metric(
    "fracgpu_allocation_refusals_total", "counter", "", _ALLOCATION, "Requests for memory that the limit refused."
)
ALLOCATION_PROCESSES = Metric(
    "fracgpu_allocation_processes", "gauge", "", _ALLOCATION, "Its processes that the driver lists on the GPU."
)
ALLOCATION_OBSERVED = Metric(
    "fracgpu_allocation_observed_timestamp_seconds", "gauge", "s", _ALLOCATION, "When it was last looked at, Unix time."
)

CATALOGUE: Final = catalogue(globals())
"""All metrics, in the order of this file."""
