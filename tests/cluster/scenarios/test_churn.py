"""A hundred short pods use GPUs and go; afterwards the node, the cluster and the metrics look as they did before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fracgpu.sim.lab.lab import RESOURCE_API
from fracgpu.sim.node.api import Json
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import eventually, eventually_equal, pods_of, wait_gone
from tests.cluster.manifests import claim_template, document, pod_spec
from tests.cluster.node_state import CLEAN, LIBRARIES, node_state

_PODS = 100
_AT_ONCE = 10


def _job(name: str, pods: int) -> Json:
    """Return a Job whose pods each climb to their limit and end."""
    command = ["sh", "-c", "fracgpu-climb driver 64 | grep -q refused"]
    template = {"spec": pod_spec({"resourceClaimTemplateName": "slices"}, command)}
    # A pod that fails is not tried again, so that it shows.
    spec = {"completions": pods, "parallelism": _AT_ONCE, "backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def _run(cluster: Cluster, namespace: str, name: str, pods: int) -> None:
    cluster.apply(document(_job(name, pods)), namespace)
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"

    def ended(found: dict[str, Json]) -> Json | None:
        status: Json = found[name].get("status", {})
        return status if {one["type"] for one in status.get("conditions", ())} & {"Complete", "Failed"} else None

    status = cluster.wait_for(jobs, ended, what=f"end of {pods} pods")
    assert (status.get("succeeded"), status.get("failed", 0)) == (pods, 0), status
    # Ended pods stay until their job goes; what they had of the GPU does not.
    eventually_equal(node_state, CLEAN)
    cluster.api.delete(f"{jobs}/{name}", {"propagationPolicy": "Foreground"})
    wait_gone(cluster, jobs, name)


def _series(cluster: Cluster) -> set[str]:
    """Return names and labels of the plugin's series, without buckets and the process's own."""
    return {re.sub(r" \S+$", "", line) for line in cluster.installation.metrics() if line.startswith("fracgpu_")}


def _traces(cluster: Cluster) -> Counter[tuple[str, str]]:
    """Count what pods may leave in the places that `node_state` does not cover, by place and name."""
    places: dict[str, Iterable[object]] = {
        "series": _series(cluster),
        "mount": _mounts(),
        "cgroup": cluster.pod_cgroups(),
        "library": LIBRARIES.iterdir(),
        "container": cluster.runtime.containers(),
    }
    return Counter((place, str(name)) for place, names in places.items() for name in names)


def _mounts() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def test_a_hundred_short_pods_leave_nothing_behind(cluster: Cluster, namespace: str) -> None:
    deadline, cluster.deadline_s = cluster.deadline_s, 600.0
    try:
        cluster.apply(document(claim_template("slices")), namespace)
        # What a first pod brings into being, such as the series of its outcomes, may stay.
        _run(cluster, namespace, "first", 1)
        eventually(lambda: not any(namespace in line for line in _series(cluster)), what="end of the claim's series")
        before = _traces(cluster)

        _run(cluster, namespace, "many", _PODS)

        eventually_equal(lambda: _traces(cluster) - before, Counter[tuple[str, str]]())
        for collection in (pods_of(namespace), f"{RESOURCE_API}/namespaces/{namespace}/resourceclaims"):
            assert cluster.api.get(collection)["items"] == []
    finally:
        cluster.deadline_s = deadline
