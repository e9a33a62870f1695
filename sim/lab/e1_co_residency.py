"""Exercise 1: two pods hold two slices of one GPU at the same time, on the same node."""

from __future__ import annotations

from fracgpu.sim.lab.evidence import Evidence
from fracgpu.sim.lab.stage import SHARING_PODS, Stage
from fracgpu.sim.node.api import Json

TITLE = "two pods share one GPU"


def run(stage: Stage, evidence: Evidence) -> None:
    """Create both pods with their claims, wait until they run, compare what they were given."""
    for name in SHARING_PODS:
        stage.lab.apply(stage.manifest(name, stage.sizes.slice_mib))
    pods = [stage.lab.wait_pod(name) for name in SHARING_PODS]
    claims = [stage.lab.claims_of(pod)[0] for pod in pods]
    results = [claim["status"]["allocation"]["devices"]["results"][0] for claim in claims]

    nodes = {pod["spec"]["nodeName"] for pod in pods}
    evidence.check("both pods run on one node", len(nodes) == 1, f"{' and '.join(SHARING_PODS)} on {_words(nodes)}")
    devices = {f"{result['pool']}/{result['device']}" for result in results}
    evidence.check("both claims hold the same device", len(devices) == 1, f"device {_words(devices)}")
    shares = [share_of(claim) for claim in claims]
    evidence.check("each claim has a share of its own", len(set(shares)) == 2, "; ".join(map(_share_line, claims)))
    evidence.data |= {"pods": pods, "claims": claims}


def share_of(claim: Json) -> str:
    """Return what tells this claim's share of a device from another's: the share id, else the claim's own uid."""
    result = claim["status"]["allocation"]["devices"]["results"][0]
    return str(result.get("shareID") or claim["metadata"]["uid"])


def _share_line(claim: Json) -> str:
    result = claim["status"]["allocation"]["devices"]["results"][0]
    amounts = result.get("consumedCapacity") or {}
    words = " ".join(f"{name}={amount}" for name, amount in sorted(amounts.items()))
    return f"{claim['metadata']['name']}: share {share_of(claim)[:8]} {words}".rstrip()


def _words(names: set[str]) -> str:
    return ", ".join(sorted(names))
