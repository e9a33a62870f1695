"""What is so on this node, as metrics: claims, GPUs, allocations.

Everything is computed anew at each collection from two values, the checkpoint's entries and the last observation, so a
claim that is gone leaves no series behind and nothing can disagree with what the plugin acts on. The computation is
pure; `NodeMetrics` only fetches the two.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.gpu import scaled_cores, scaled_memory_bytes
from fracgpu.driver.metric import Metric
from fracgpu.driver.metric_sources import Family, Reading
from fracgpu.driver.names import device_name
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, ClaimEntry, EntryState
from fracgpu.kubeletplugin.proof.observation import AllocationObservation, GpuObservation, NodeObservation, Truth
from fracgpu.kubeletplugin.telemetry import catalogue as catalogue

_LOG: Final = logging.getLogger(__name__)
_Labels = Mapping[str, str]
_Values = Iterable[tuple[_Labels, float | None]]


class NodeMetrics:
    """The source of this node's metrics, for fracgpu.driver.metric_sources.

    `observe` returns the last observation, None before the first. `entries` returns the checkpoint's claims and may
    raise CheckpointInvalid or OSError: then what depends on them is left out, and a metric says so.
    """

    def __init__(
        self,
        *,
        options: PluginOptions,
        observe: Callable[[], NodeObservation | None],
        entries: Callable[[], Iterable[ClaimEntry]],
    ) -> None:
        self._options = options
        self._observe = observe
        self._entries = entries

    def __call__(self) -> Sequence[Family]:
        """Return all families as they are now."""
        observation = self._observe()
        try:
            entries: tuple[ClaimEntry, ...] | None = tuple(self._entries())
        except (FracgpuError, OSError) as error:
            _LOG.warning("metrics without the checkpoint", extra={"error": str(error)})
            entries = None
        return node_families(observation, entries, self._options)


def node_families(
    observation: NodeObservation | None, entries: Sequence[ClaimEntry] | None, options: PluginOptions
) -> tuple[Family, ...]:
    """Return the metrics of a node with this observation and these checkpoint entries; None is not known."""
    gpus = () if observation is None else observation.gpus
    allocations = () if observation is None else observation.allocations
    return (*_claim_families(entries), *_gpu_families(gpus, entries, options), *_allocation_families(allocations))


def _claim_families(entries: Sequence[ClaimEntry] | None) -> Iterable[Family]:
    yield _family(catalogue.CHECKPOINT_READABLE, [({}, entries is not None)])
    if entries is not None:
        states = [entry.state for entry in entries]
        yield _family(catalogue.CLAIMS, [({"state": state.value}, states.count(state)) for state in EntryState])


def _gpu_families(
    gpus: Sequence[GpuObservation], entries: Sequence[ClaimEntry] | None, options: PluginOptions
) -> Iterable[Family]:
    seen = [(_gpu_labels(gpu.gpu_uuid), gpu) for gpu in gpus]
    # A GPU that does not answer has no memory to tell of; a zero would look like one without any.
    known = [(labels, gpu) for labels, gpu in seen if gpu.memory.total]
    yield _family(catalogue.GPU_HEALTHY, ((labels, gpu.healthy) for labels, gpu in seen))
    yield _family(catalogue.GPU_MEMORY_TOTAL, ((labels, gpu.memory.total) for labels, gpu in known))
    yield _family(catalogue.GPU_MEMORY_USED, ((labels, gpu.memory.used) for labels, gpu in known))
    yield _family(
        catalogue.GPU_MEMORY_CAPACITY,
        ((labels, scaled_memory_bytes(gpu.memory.total, options.memory_scale)) for labels, gpu in known),
    )
    yield _family(catalogue.GPU_CORES_CAPACITY, ((labels, scaled_cores(options.cores_scale)) for labels, _ in seen))
    yield _family(catalogue.GPU_SLOTS_CAPACITY, ((labels, options.slots) for labels, _ in seen))
    yield _family(catalogue.GPU_FOREIGN_PROCESSES, ((labels, gpu.foreign_processes) for labels, gpu in seen))
    yield _family(catalogue.GPU_HIDDEN_PROCESSES, ((labels, gpu.hidden_processes) for labels, gpu in seen))
    if entries is not None:
        yield from _given_away([gpu.gpu_uuid for gpu in gpus], entries)


def _given_away(gpu_uuids: Iterable[str], entries: Iterable[ClaimEntry]) -> Iterable[Family]:
    # Admin access needs no exception: its amounts are zero. A GPU that is gone is shown while claims hold it.
    records = [record for entry in entries for record in entry.allocations]
    by_gpu: dict[str, list[AllocationRecord]] = {uuid: [] for uuid in gpu_uuids}
    for record in records:
        by_gpu.setdefault(record.gpu_uuid, []).append(record)
    given = [(_gpu_labels(uuid), of_gpu) for uuid, of_gpu in by_gpu.items()]
    yield _family(
        catalogue.GPU_MEMORY_ALLOCATED, ((labels, sum(r.memory_bytes for r in of_gpu)) for labels, of_gpu in given)
    )
    yield _family(catalogue.GPU_CORES_ALLOCATED, ((labels, sum(r.cores for r in of_gpu)) for labels, of_gpu in given))
    yield _family(catalogue.GPU_SLOTS_ALLOCATED, ((labels, sum(r.slots for r in of_gpu)) for labels, of_gpu in given))


def _allocation_families(allocations: Sequence[AllocationObservation]) -> Iterable[Family]:
    seen = [(_allocation_labels(allocation), allocation) for allocation in allocations]
    yield _family(catalogue.ALLOCATION_CONDITION, (value for labels, a in seen for value in _conditions(labels, a)))
    yield _family(
        catalogue.ALLOCATION_MEMORY_LIMIT,
        ((labels, a.memory_limit_bytes) for labels, a in seen),
    )
    yield _family(catalogue.ALLOCATION_MEMORY_USED, ((labels, a.used_bytes) for labels, a in seen))
    yield _family(catalogue.ALLOCATION_MEMORY_PEAK, ((labels, a.peak_bytes) for labels, a in seen))
    yield _family(catalogue.ALLOCATION_DRIVER_MEMORY_USED, ((labels, a.driver_bytes) for labels, a in seen))
    yield _family(catalogue.ALLOCATION_HOST_PINNED, ((labels, a.host_pinned_bytes) for labels, a in seen))
    yield _family(catalogue.ALLOCATION_CORES, ((labels, a.record.cores) for labels, a in seen))
    yield _family(catalogue.ALLOCATION_REFUSALS, ((labels, a.refusals) for labels, a in seen))
    yield _family(catalogue.ALLOCATION_PROCESSES, ((labels, a.processes) for labels, a in seen))
    yield _family(catalogue.ALLOCATION_OBSERVED, ((labels, a.observed_at.timestamp()) for labels, a in seen))


def _conditions(labels: _Labels, allocation: AllocationObservation) -> _Values:
    findings = {
        "Prepared": allocation.prepared,
        "Enforced": allocation.enforced,
        "WithinLimit": allocation.within_limit,
        "Compatible": allocation.compatible,
    }
    for condition, finding in findings.items():
        for truth in Truth:
            yield {**labels, "condition": condition, "status": truth.value}, finding.truth is truth


def _gpu_labels(gpu_uuid: str) -> _Labels:
    return {"gpu_uuid": gpu_uuid, "device": device_name(gpu_uuid)}


def _allocation_labels(allocation: AllocationObservation) -> _Labels:
    # Namespace and name are not enough: a claim that is deleted and created again may overlap with its predecessor, and
    # two results of a request may lie on one GPU. Prometheus refuses a whole scrape for one series that comes twice.
    return {
        "namespace": allocation.claim.namespace,
        "claim": allocation.claim.name,
        "request": allocation.record.request,
        "device": allocation.record.device,
        "gpu_uuid": allocation.record.gpu_uuid,
        "allocation_id": allocation.record.allocation_id,
    }


def _family(metric: Metric, values: _Values) -> Family:
    # OTLP has no truth values: 1 and 0.
    readings = tuple(Reading(value + 0, labels) for labels, value in values if value is not None)
    return Family(
        name=metric.name,
        unit=metric.unit,
        description=metric.description,
        counter=metric.kind == "counter",
        readings=readings,
    )
