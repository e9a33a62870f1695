"""The rules that turn containers into a pod's status."""

from typing import Any

import pytest

from fracgpu.sim.node.pod_status import merge_conditions, pod_phase, pod_status
from fracgpu.sim.node.runner import ContainerView

WAITING = ContainerView()
RUNNING = ContainerView(state={"running": {}})


def ended(code: int, *, finished: bool = True) -> ContainerView:
    return ContainerView(state={"terminated": {"exitCode": code}}, finished=finished)


CRASHING = ContainerView(
    state={"waiting": {"reason": "CrashLoopBackOff"}}, last_state={"terminated": {"exitCode": 1}}, restart_count=3
)


@pytest.mark.parametrize(
    ("views", "phase"),
    [
        ([], "Pending"),
        ([WAITING], "Pending"),
        ([RUNNING], "Running"),
        ([RUNNING, WAITING], "Pending"),
        ([ended(0), WAITING], "Pending"),
        ([CRASHING], "Running"),
        ([ended(0), RUNNING], "Running"),
        ([ended(1, finished=False)], "Running"),
        ([ended(0)], "Succeeded"),
        ([ended(0), ended(0)], "Succeeded"),
        ([ended(0), ended(3)], "Failed"),
    ],
)
def test_phase(views: list[ContainerView], phase: str) -> None:
    assert pod_phase(views) == phase


def test_status_keeps_what_others_wrote() -> None:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    claims = [{"name": "gpu", "resourceClaimName": "p-gpu-x"}]
    pod: dict[str, Any] = {
        "spec": {"containers": [{"name": "main", "image": "i"}]},
        "status": {"conditions": [scheduled], "resourceClaimStatuses": claims, "startTime": "2020-01-01T00:00:00Z"},
    }
    status = pod_status(pod, {"main": RUNNING}, host_ip="10.0.0.1", start_time="2021-01-01T00:00:00Z")
    assert status["resourceClaimStatuses"] == claims
    assert status["startTime"] == "2020-01-01T00:00:00Z"
    assert scheduled in status["conditions"]
    assert {one["type"]: one["status"] for one in status["conditions"]}["Ready"] == "True"
    assert status["containerStatuses"][0]["image"] == "i"


def test_a_transition_time_moves_only_with_the_status() -> None:
    old = [{"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z", "reason": "Old"}]
    (same,) = merge_conditions(old, {"Ready": (False, "ContainersNotReady")})
    assert (same["lastTransitionTime"], same["reason"]) == ("2020-01-01T00:00:00Z", "ContainersNotReady")
    (changed,) = merge_conditions(old, {"Ready": (True, "ContainersNotReady")})
    assert changed["lastTransitionTime"] > "2020-01-01T00:00:00Z"
    assert "reason" not in changed
