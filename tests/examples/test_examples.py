"""Every example does what its README says, on the embedded cluster."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.lab.lab import Lab
from fracgpu.sim.lab.options import MIB, Card, LabOptions
from fracgpu.sim.node.api import Json

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TESTED = {
    "share-two-pods.yaml",
    "oversubscribe-pending.yaml",
    "job.yaml",
    # On both clusters: tests/scenarios/test_examples.py
    "scheduler-two-pods.yaml",
    "workers/worker-a.yaml",
    "workers/worker-b.yaml",
    # tests/cli/test_migrate.py
    "migrate/fracgpu-inference.yaml",
    "migrate/fracgpu-training.yaml",
    "migrate/hami-inference.yaml",
    "migrate/hami-training.yaml",
}


@pytest.fixture
def lab(native_build: NativeLibraries, request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(LabOptions(cards=(Card(memory_mib=request.param),))) as running:
        yield running


def apply(lab: Lab, name: str) -> None:
    lab.apply((EXAMPLES / name).read_text())


def wait_pod_of(lab: Lab, prefix: str, phase: str) -> Json:
    def reached(pods: dict[str, Json]) -> Json | None:
        found = [pod for name, pod in pods.items() if name.startswith(prefix) and pod["status"].get("phase") == phase]
        return found[0] if found else None

    return lab.wait_for("/api/v1/namespaces/default/pods", reached, what=f"{phase} pod of {prefix}")


def view(lab: Lab, pod: str) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(lab.output_of(pod, ["fracgpu-view"]))
    return seen


def test_every_example_is_tested() -> None:
    assert {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.yaml")} == TESTED


@pytest.mark.parametrize("lab", [49140], indirect=True, ids=["48GiB"])
def test_two_pods_share_and_a_third_waits(lab: Lab) -> None:
    apply(lab, "share-two-pods.yaml")
    for name in ("share-a", "share-b"):
        lab.wait_pod(name)
        seen = view(lab, name)
        assert [one["total_bytes"] for one in seen["cuda"]["devices"]] == [8000 * MIB]
        assert [one["v2"]["total_bytes"] for one in seen["nvml"]["devices"]] == [8000 * MIB]
    apply(lab, "oversubscribe-pending.yaml")

    def explained(events: dict[str, Json]) -> str | None:
        about = [one for one in events.values() if one["involvedObject"]["name"] == "too-big"]
        return next((str(one["message"]) for one in about if one["reason"] == "ClaimUnschedulable"), None)

    message = lab.wait_for("/api/v1/namespaces/default/events", explained, what="reason of the third pod")
    assert "CardInsufficientMemory (1/1 GPUs: need 45000Mi, max free 33140Mi)" in message


@pytest.mark.parametrize("lab", [10240], indirect=True, ids=["10GiB"])
def test_workers_get_their_percentage(lab: Lab) -> None:
    for worker, limit_mib, cores, held_mib in (("a", 2048, "25", 1500), ("b", 3072, "40", 2000)):
        apply(lab, f"workers/worker-{worker}.yaml")
        pod = wait_pod_of(lab, f"worker-{worker}-", "Running")
        name = pod["metadata"]["name"]
        assert [one["device_total_bytes"] for one in view(lab, name)["cuda"]["devices"]] == [limit_mib * MIB]
        (claim,) = lab.claims_of(pod)
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        assert result["consumedCapacity"]["cores"] == cores
        (held,) = [json.loads(line) for line in lab.wait_log(name, '"ready"').splitlines()]
        assert held["ready"]
        assert held["allocated_bytes"] == held_mib * MIB


@pytest.mark.parametrize("lab", [10240], indirect=True, ids=["10GiB"])
def test_the_job_is_refused_at_its_slice_and_succeeds(lab: Lab) -> None:
    apply(lab, "job.yaml")
    pod = wait_pod_of(lab, "climb-", "Succeeded")
    last = json.loads(lab.logs(pod["metadata"]["name"]).splitlines()[-1])
    assert last["name"] == "CUDA_ERROR_OUT_OF_MEMORY"
    # A fourth step would fit but for the program's context.
    assert last["allocated_bytes"] == 3 * 256 * MIB
    jobs = "/apis/batch/v1/namespaces/default/jobs"
    lab.wait_for(jobs, lambda found: found["climb"].get("status", {}).get("succeeded"), what="completion of the job")
    claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
    lab.wait_for(claims, lambda found: True if not found else None, what="end of the job's claim")
