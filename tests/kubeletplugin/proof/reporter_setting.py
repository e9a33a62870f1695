"""A reporter, the API server that it writes to, and the clock that it goes by, all in memory."""

# ruff: noqa: ARG002 (the stand-in has the signatures of what it stands for)

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fracgpu.driver.kube.errors import Conflict, NotFound
from fracgpu.driver.names import DRIVER_NAME, ClaimUid
from fracgpu.driver.usage import GpuMemory
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.members import ClaimConsumers
from fracgpu.kubeletplugin.proof.observation import (
    AllocationObservation,
    Finding,
    GpuObservation,
    NodeObservation,
    Truth,
)
from fracgpu.kubeletplugin.proof.reporter import StatusReporter
from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim

GIB = 1 << 30
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GOOD = Finding(Truth.TRUE, "InterceptorAttached", "1 process has the interceptor")
BAD = Finding(Truth.FALSE, "LibraryNotLoaded", "process 4711 (python) uses the GPU without the interceptor")
OPEN = Finding(Truth.UNKNOWN, "NoProcess", "no process")
PARAMETERS = b'{ "memory": "8Gi" }'


def observed(name: str = "c1", enforced: Finding = OPEN, **changes: Any) -> AllocationObservation:
    record = AllocationRecord(
        allocation_id=f"uid-{name}-gpu-gpu-11111111-0",
        index=0,
        request="gpu",
        pool="n1",
        device="gpu-11111111",
        gpu_uuid="GPU-11111111-2222-3333-4444-555555555555",
        share_id=None,
        memory_bytes=8 * GIB,
        cores=0,
        slots=1,
        limited=True,
        admin=False,
    )
    fields: dict[str, Any] = {
        "claim": ClaimRef("ns", name, ClaimUid(f"uid-{name}")),
        "record": record,
        "library_digest": "d" * 64,
        "prepared": Finding(Truth.TRUE, "Prepared", ""),
        "enforced": enforced,
        "within_limit": Finding(Truth.TRUE, "WithinLimit", ""),
        "compatible": Finding(Truth.TRUE, "Compatible", ""),
        "used_bytes": 0,
        "peak_bytes": 0,
        "refusals": 0,
        "processes": 0,
        "observed_at": NOW,
        "memory_limit_bytes": 8 * GIB,
    }
    return AllocationObservation(**fields | changes)


def node(*allocations: AllocationObservation) -> NodeObservation:
    gpu = GpuObservation(gpu_uuid="GPU-1", healthy=True, memory=GpuMemory(0, 0, 0), foreign_processes=0)
    return NodeObservation(allocations=allocations, gpus=(gpu,))


def stored_claim(name: str = "c1", *devices: dict[str, Any]) -> dict[str, Any]:
    result = {"request": "gpu", "driver": DRIVER_NAME, "pool": "n1", "device": "gpu-11111111"}
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": "1"},
        "status": {
            "allocation": {"devices": {"results": [result]}},
            "reservedFor": [{"resource": "pods", "name": "p1", "uid": "pod-uid"}],
            "devices": list(devices),
        },
    }


@dataclass
class Api:
    """ClaimStatusApi in memory. `fails` are raised by the next writes, one each, `reading` by every read.

    Without `keeps_devices` it is an API server with the feature gate DRAResourceClaimDeviceStatus off.
    """

    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    fails: list[Exception] = field(default_factory=list)
    reading: Exception | None = None
    keeps_devices: bool = True
    calls: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    on_write: Callable[[], None] = lambda: None

    def add(self, name: str = "c1", *devices: dict[str, Any]) -> None:
        self.claims[name] = stored_claim(name, *devices)

    def get_claim(self, namespace: str, name: str) -> dict[str, Any]:
        self.calls.append(f"get {name}")
        if self.reading is not None:
            raise self.reading
        if name not in self.claims:
            raise NotFound(f"claim {name}", "status 404", remedy="create it")
        return copy.deepcopy(self.claims[name])

    def patch_claim_status(self, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        self._write(f"patch {name}", name, patch["metadata"]["resourceVersion"], patch["status"]["devices"])
        return copy.deepcopy(self.claims[name])

    def get_claim_message(self, namespace: str, name: str) -> ResourceClaim:
        raw = self.get_claim(namespace, name)
        message = ResourceClaim()
        message.metadata.name, message.metadata.namespace = name, namespace
        message.metadata.uid, message.metadata.resourceVersion = raw["metadata"]["uid"], "m"
        message.spec.devices.config.add().deviceConfiguration.opaque.parameters.raw = PARAMETERS
        for one in raw["status"]["allocation"]["devices"]["results"]:
            result = message.status.allocation.devices.results.add()
            result.driver, result.pool, result.device = one["driver"], one["pool"], one["device"]
        for one in raw["status"]["devices"]:
            message.status.devices.add(driver=one["driver"], pool=one["pool"], device=one["device"])
        return message

    def replace_claim_status_message(self, claim: ResourceClaim) -> ResourceClaim:
        assert claim.spec.devices.config[0].deviceConfiguration.opaque.parameters.raw == PARAMETERS
        devices = [
            {
                "driver": one.driver,
                "pool": one.pool,
                "device": one.device,
                "conditions": [{"type": c.type, "status": c.status, "reason": c.reason} for c in one.conditions],
                "data": json.loads(one.data.raw or b"{}"),
            }
            for one in claim.status.devices
        ]
        self._write(f"message {claim.metadata.name}", claim.metadata.name, None, devices)
        return claim if self.keeps_devices else ResourceClaim()

    def create_event(self, namespace: str, body: dict[str, Any]) -> None:
        self._fail("event")
        self.events.append(body)

    def writes(self) -> list[str]:
        return [call for call in self.calls if call.startswith(("patch ", "message "))]

    def enforced(self, name: str = "c1") -> str:
        (entry,) = [one for one in self.claims[name]["status"]["devices"] if one["driver"] == DRIVER_NAME]
        (condition,) = [one for one in entry["conditions"] if one["type"] == "Enforced"]
        return f"{condition['status']}/{condition['reason']}"

    def _write(self, call: str, name: str, version: str | None, devices: list[dict[str, Any]]) -> None:
        self._fail(call)
        current = self.claims[name]["metadata"]
        if version is not None and version != current["resourceVersion"]:
            raise Conflict("claim", "status 409", remedy="read it again")
        current["resourceVersion"] = str(int(current["resourceVersion"]) + 1)
        self.claims[name]["status"]["devices"] = devices if self.keeps_devices else []

    def _fail(self, call: str) -> None:
        self.calls.append(call)
        self.on_write()
        if self.fails:
            raise self.fails.pop(0)


def failure(kind: type[Any]) -> Exception:
    error: Exception = kind("PATCH claim", "status 4xx: no", remedy="see")
    return error


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Setting:
    def __init__(self) -> None:
        self.api = Api()
        self.clock = Clock()
        self.consumers = ClaimConsumers()
        self.outcomes: list[str] = []
        self.reporter = StatusReporter(
            node_name="n1",
            cluster=self.api,
            consumers=self.consumers,
            on_outcome=lambda _ref, outcome: self.outcomes.append(str(outcome)),
            clock=self.clock,
            now=lambda: NOW,
        )

    def see(self, *allocations: AllocationObservation, after: float = 0.0) -> list[str]:
        """Let time pass, report the observation, and return the writes that followed."""
        self.clock.seconds += after
        before = len(self.api.writes())
        self.reporter.observe(node(*allocations))
        self.reporter.step()
        return self.api.writes()[before:]
