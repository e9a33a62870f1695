"""A plugin's metrics over a node that the test makes up, as Prometheus reads them."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fracgpu.driver.names import ClaimUid
from fracgpu.driver.telemetry import configure_telemetry
from fracgpu.driver.usage import GpuMemory
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, ClaimEntry, EntryState
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.observation import (
    AllocationObservation,
    Finding,
    GpuObservation,
    NodeObservation,
    Truth,
)
from fracgpu.kubeletplugin.telemetry.metrics import (
    PluginMetrics,
)
from fracgpu.kubeletplugin.telemetry.node_metrics import NodeMetrics

GIB = 1 << 30
SEEN_AT = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


def gpu_uuid(number: int) -> str:
    digits = str(number + 1)
    return f"GPU-{digits * 8}-{digits * 4}-{digits * 4}-{digits * 4}-{digits * 12}"


def record(claim_uid: str, number: int = 0, gpu: int = 0, **changes: Any) -> AllocationRecord:
    device = f"gpu-{str(gpu + 1) * 8}"
    values: dict[str, Any] = {
        "allocation_id": f"{claim_uid}-gpu-{device}-{number}",
        "index": number,
        "request": "gpu",
        "pool": "n1",
        "device": device,
        "gpu_uuid": gpu_uuid(gpu),
        "share_id": None,
        "memory_bytes": 8 * GIB,
        "cores": 30,
        "slots": 1,
        "limited": True,
        "admin": False,
    }
    return AllocationRecord(**values | changes)


def entry(uid: str, *records: AllocationRecord, state: EntryState = EntryState.PREPARED) -> ClaimEntry:
    return ClaimEntry(
        claim_uid=uid, namespace="ns", name="c", state=state, library_digest="d" * 64, allocations=records
    )


def observed(of: AllocationRecord, *, namespace: str = "ns", claim: str = "c", **changes: Any) -> AllocationObservation:
    well = Finding(Truth.TRUE, "Well", "all is well")
    values: dict[str, Any] = {
        "claim": ClaimRef(namespace, claim, ClaimUid("uid")),
        "record": of,
        "library_digest": "d" * 64,
        "prepared": well,
        "enforced": well,
        "within_limit": well,
        "compatible": well,
        "used_bytes": GIB,
        "peak_bytes": 2 * GIB,
        "refusals": 3,
        "processes": 2,
        "observed_at": SEEN_AT,
        "driver_bytes": 5 * GIB,
        "host_pinned_bytes": 7 * GIB,
        "memory_limit_bytes": of.memory_bytes if of.limited else None,
    }
    return AllocationObservation(**values | changes)


def gpu(number: int = 0, **changes: Any) -> GpuObservation:
    values: dict[str, Any] = {
        "gpu_uuid": gpu_uuid(number),
        "healthy": True,
        "memory": GpuMemory(total=44 * GIB + 5, used=9 * GIB, free=35 * GIB + 5),
        "foreign_processes": 0,
    }
    return GpuObservation(**values | changes)


class Plugin:
    """The metrics of a plugin whose node is what the test says, scraped by Prometheus."""

    def __init__(self) -> None:
        self.telemetry = configure_telemetry("fracgpu-test", prometheus=True)
        self.counted = PluginMetrics(self.telemetry.meter("tests"))
        self.observation: NodeObservation | None = None
        self.entries: Callable[[], Iterable[ClaimEntry]] = tuple
        self.telemetry.sources.add(
            "tests",
            NodeMetrics(
                options=PluginOptions(node_name="n1", memory_scale=Decimal("1.5"), cores_scale=Decimal(2), slots=10),
                observe=lambda: self.observation,
                entries=lambda: self.entries(),
            ),
        )

    def is_(self, allocations: Iterable[AllocationObservation] = (), gpus: Iterable[GpuObservation] = ()) -> None:
        self.observation = NodeObservation(allocations=tuple(allocations), gpus=tuple(gpus))

    def scrape(self) -> Samples:
        """Samples by name and labels. Fails, as Prometheus does, on a series that comes twice."""
        assert self.telemetry.registry is not None
        found: Samples = {}
        for family in text_string_to_metric_families(generate_latest(self.telemetry.registry).decode()):
            for sample in family.samples:
                series = found.setdefault(sample.name, {})
                labels = frozenset(sample.labels.items())
                assert labels not in series, f"{sample.name}{sample.labels} twice"
                series[labels] = sample.value
        return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """The one sample of that name that has these labels."""
    found = [number for key, number in samples.get(name, {}).items() if labels.items() <= dict(key).items()]
    assert len(found) == 1, (name, labels, samples.get(name))
    return found[0]
