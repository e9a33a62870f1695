"""kube-scheduler's sentence, word by word."""

from __future__ import annotations

import pytest

from fracgpu.sim.control.fit_error import CANNOT_ALLOCATE, DEALLOCATED, NO_CLAIMS, STILL, fit_error, pre_filter_error

ELSEWHERE = "resourceclaim not available on the node"


@pytest.mark.parametrize(
    ("rejections", "after", "message"),
    [
        (
            [CANNOT_ALLOCATE] * 2,
            STILL,
            "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, "
            "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        ),
        (
            [ELSEWHERE, "Insufficient cpu, Insufficient memory", "Insufficient cpu", "node(s) were unschedulable"],
            DEALLOCATED,
            "0/4 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 1 resourceclaim not "
            "available on the node, 2 Insufficient cpu. deallocation of ResourceClaim completed, "
            "preemption: 0/4 nodes are available: 2 No preemption victims found for incoming pod, "
            "2 Preemption is not helpful for scheduling.",
        ),
        (
            ["Too many pods", "node(s) didn't have free ports for the requested pod ports"],
            NO_CLAIMS,
            "0/2 nodes are available: 1 Too many pods, 1 node(s) didn't have free ports for the requested pod ports. "
            "no new claims to deallocate, preemption: 0/2 nodes are available: "
            "2 No preemption victims found for incoming pod.",
        ),
        ([], STILL, "no nodes available to schedule pods"),
    ],
    ids=["claims", "mixed", "resolvable", "no nodes"],
)
def test_nodes_that_reject(rejections: list[str], after: str, message: str) -> None:
    assert fit_error({f"n{at}": text for at, text in enumerate(rejections)}, after) == message


def test_refused_before_any_node() -> None:
    assert pre_filter_error(["n1", "n2"], "request gpu: device class x does not exist") == (
        "0/2 nodes are available: request gpu: device class x does not exist. no new claims to deallocate, "
        "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    )
    assert pre_filter_error([], "whatever") == "no nodes available to schedule pods"
