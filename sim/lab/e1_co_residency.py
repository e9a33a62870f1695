"""Exercise 1: two pods hold two slices of one GPU at the same time, on the same node."""

from __future__ import annotations

from typing import Final

from fracgpu.controller.objects.holdings import holdings_of
from fracgpu.driver.grant import is_grant
from fracgpu.driver.quantity import format_bytes
from fracgpu.sim.lab.allocations import allocation_ids
from fracgpu.sim.lab.controller_process import LEASE, leader
from fracgpu.sim.lab.credentials import NAMESPACE
from fracgpu.sim.lab.errors import LabTimeout
from fracgpu.sim.lab.evidence import Evidence, mib
from fracgpu.sim.lab.stage import SHARING_PODS, Stage
from fracgpu.sim.node.api import Json

TITLE = "two pods share one GPU"
ALLOCATORS: Final = {"controller": "fracgpu's controller", "scheduler": "kube-scheduler"}

_TOLD = "ClaimAllocated"


def run(stage: Stage, evidence: Evidence) -> None:
    """Create both pods with their claims, wait until they run, compare what they were given."""
    for name in SHARING_PODS:
        stage.cluster.apply(stage.manifest(name, stage.sizes.slice_mib), stage.namespace)
    pods = [_await_running(stage, name) for name in SHARING_PODS]
    claims = [stage.claim(name) for name in SHARING_PODS]
    results = [claim["status"]["allocation"]["devices"]["results"][0] for claim in claims]

    nodes = {pod["spec"]["nodeName"] for pod in pods}
    evidence.check("both pods run on one node", len(nodes) == 1, f"{' and '.join(SHARING_PODS)} on {_words(nodes)}")
    devices = {f"{result['pool']}/{result['device']}" for result in results}
    evidence.check("both claims hold the same device", len(devices) == 1, f"device {_words(devices)}")
    shares = {allocation_ids(claim)[0] for claim in claims}
    lines = "; ".join(f"{name}: {_share(claim)}" for name, claim in zip(SHARING_PODS, claims, strict=True))
    evidence.check("each claim has a share of its own", len(shares) == len(SHARING_PODS), lines)
    taken = [holdings_of(claim)[0].memory_bytes for claim in claims]
    evidence.check(
        f"each share takes {mib(stage.sizes.slice_bytes)} of the device",
        taken == [stage.sizes.slice_bytes] * len(SHARING_PODS),
        " and ".join(map(mib, taken)),
    )
    _check_allocator(stage, evidence, claims)
    _check_told(stage, evidence)
    evidence.data |= {"pods": pods, "claims": claims}


def _await_running(stage: Stage, name: str) -> Json:
    """Wait until a pod runs. If it does not, and fracgpu's controller is what is missing, say that."""
    try:
        return stage.cluster.wait_pod(name, namespace=stage.namespace)
    except LabTimeout as error:
        if stage.allocator != "controller" or leader(stage.cluster.api):
            raise
        what = f"{error.what}; fracgpu's controller allocates here, and none holds the Lease {NAMESPACE}/{LEASE}"
        raise LabTimeout(error.subject, what, remedy="start the controller, or see its log") from error


def _check_allocator(stage: Stage, evidence: Evidence, claims: list[Json]) -> None:
    """Only fracgpu's controller writes a grant: by that an allocation says who made it."""
    configs = [claim["status"]["allocation"]["devices"].get("config", []) for claim in claims]
    granted = [any(is_grant(one.get("opaque", {}).get("parameters")) for one in config) for config in configs]
    evidence.check(
        f"{ALLOCATORS[stage.allocator]} has allocated them",
        granted == [stage.allocator == "controller"] * len(claims),
        f"{sum(granted)} of {len(granted)} allocations carry its grant of amounts"
        if stage.allocator == "controller"
        else f"{sum(granted)} of {len(granted)} allocations carry a grant, which only fracgpu's controller writes",
    )


def _check_told(stage: Stage, evidence: Evidence) -> None:
    """Whoever allocates, the pod's events say what it got, and where."""
    pod = SHARING_PODS[0]

    def told(events: dict[str, Json]) -> str | None:
        about = (event for event in events.values() if event["involvedObject"].get("name") == pod)
        return next((f"{_TOLD}: {event['message']}" for event in about if event.get("reason") == _TOLD), None)

    what = f"{_TOLD} in an event of pod {pod}"
    seen = stage.cluster.wait_for(f"/api/v1/namespaces/{stage.namespace}/events", told, what=what)
    evidence.check(
        f"an event of pod {pod} says what it got", f"{format_bytes(stage.sizes.slice_bytes)} memory" in seen, seen
    )


def _share(claim: Json) -> str:
    """Say what a claim has, as the API keeps it, or, where it drops that, as the grant says."""
    (held,), (result,) = holdings_of(claim), claim["status"]["allocation"]["devices"]["results"]
    share = f"share {result['shareID'][:8]}" if "shareID" in result else "share without an id"
    return f"{share} cores={held.cores} memory={format_bytes(held.memory_bytes)} slots={held.slots}"


def _words(names: set[str]) -> str:
    return ", ".join(sorted(names))
