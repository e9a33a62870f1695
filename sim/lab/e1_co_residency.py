"""Exercise 1: two pods hold two slices of one GPU at the same time, on the same node."""

from __future__ import annotations

from fracgpu.driver.quantity import quantity_bytes
from fracgpu.sim.lab.evidence import Evidence, mib
from fracgpu.sim.lab.stage import SHARING_PODS, Stage
from fracgpu.sim.node.api import Json

TITLE = "two pods share one GPU"


def run(stage: Stage, evidence: Evidence) -> None:
    """Create both pods with their claims, wait until they run, compare what they were given."""
    for name in SHARING_PODS:
        stage.cluster.apply(stage.manifest(name, stage.sizes.slice_mib), stage.namespace)
    pods = [stage.cluster.wait_pod(name, namespace=stage.namespace) for name in SHARING_PODS]
    claims = [stage.claim(name) for name in SHARING_PODS]
    results = [claim["status"]["allocation"]["devices"]["results"][0] for claim in claims]

    nodes = {pod["spec"]["nodeName"] for pod in pods}
    evidence.check("both pods run on one node", len(nodes) == 1, f"{' and '.join(SHARING_PODS)} on {_words(nodes)}")
    devices = {f"{result['pool']}/{result['device']}" for result in results}
    evidence.check("both claims hold the same device", len(devices) == 1, f"device {_words(devices)}")
    shares = {result["shareID"] for result in results}
    lines = "; ".join(f"{name}: {_share(result)}" for name, result in zip(SHARING_PODS, results, strict=True))
    evidence.check("each claim has a share of its own", len(shares) == len(SHARING_PODS), lines)
    taken = [quantity_bytes(result["consumedCapacity"]["memory"]) for result in results]
    evidence.check(
        f"each share takes {mib(stage.sizes.slice_bytes)} of the device",
        taken == [stage.sizes.slice_bytes] * len(SHARING_PODS),
        " and ".join(map(mib, taken)),
    )
    evidence.data |= {"pods": pods, "claims": claims}


def _share(result: Json) -> str:
    amounts = " ".join(f"{name}={amount}" for name, amount in sorted(result["consumedCapacity"].items()))
    return f"share {result['shareID'][:8]} {amounts}"


def _words(names: set[str]) -> str:
    return ", ".join(sorted(names))
