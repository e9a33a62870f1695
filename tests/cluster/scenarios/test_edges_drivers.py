"""Devices of two drivers in one pod: while the other one fails, ours is called again and again.

kube-scheduler can put both into one claim. Of ours that our controller allocates, a claim has nothing else.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fracgpu.sim.node.api import Json
from tests.cluster import fixtures
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import eventually, pods_of
from tests.cluster.machine.layout import CDI_DIR
from tests.cluster.scenarios.edge_objects import apply, claim, pod, request, totals, view, wait_event
from tests.cluster.scenarios.other_driver import OTHER_DRIVER, OtherDriver, published

# What the other driver finds of ours each time that it is called.
Seen = list[dict[Path, tuple[int, bytes]]]


_NUDGES = itertools.count()


def runs_when_nudged(cluster: Cluster, namespace: str, name: str) -> bool:
    """Tell whether a pod runs. After a failed Prepare the kubelet waits over a minute, unless the pod changes."""
    nudge = {"metadata": {"annotations": {"e2e.example.com/nudge": str(next(_NUDGES))}}}
    pod: Json = cluster.api.merge_patch(f"{pods_of(namespace)}/{name}", nudge)
    return bool(pod["status"]["phase"] == "Running")


@pytest.mark.parametrize("allocator", fixtures.EACH_ALLOCATOR)
def test_a_driver_that_fails_beside_us_costs_nothing(cluster: Cluster, namespace: str, allocator: str) -> None:
    seen: Seen = []

    def refusal() -> str:
        # The kubelet calls the drivers in any order: fail until one call has come after a Prepare of ours.
        seen.append({path: (path.stat().st_ino, path.read_bytes()) for path in CDI_DIR.iterdir()})
        return "" if any(seen[:-1]) else "the other driver is not ready"

    ours, other = request(capacity={"memory": "1Gi"}), request("thing", device_class=OTHER_DRIVER)
    claims = [claim("both", ours, other)] if allocator == "scheduler" else [claim("ours", ours), claim("other", other)]
    names = [one["metadata"]["name"] for one in claims]
    with published(cluster), OtherDriver(refusal).served():
        apply(cluster, namespace, *claims, pod("user", *names))
        eventually(lambda: runs_when_nudged(cluster, namespace, "user"), what="pod Running")

        # Ours was prepared, then prepared again when the other had failed: the same file, not even written again.
        assert {path: (path.stat().st_ino, path.read_bytes()) for path in CDI_DIR.iterdir()} == next(filter(None, seen))
        assert totals(view(cluster, "user", namespace)) == [1 << 30]
        cluster.delete_pod("user", namespace)
    assert list(CDI_DIR.iterdir()) == []


def test_a_claim_for_two_drivers_is_told_to_become_two(cluster: Cluster, namespace: str) -> None:
    both = claim("both", request(capacity={"memory": "1Gi"}), request("thing", device_class=OTHER_DRIVER))
    with published(cluster):
        apply(cluster, namespace, both, pod("user", "both"))
        wait_event(cluster, namespace, "user", f"device class {OTHER_DRIVER} is of another driver")
        assert "allocation" not in cluster.claim("both", namespace).get("status", {})
        cluster.delete_pod("user", namespace)
