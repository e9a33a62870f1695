"""Exercise 4: a third pod that asks for more than is left waits, is told so, and disturbs nobody.

kube-scheduler has one sentence for every claim that it cannot allocate, or that nobody has allocated yet: that is the
pod's condition. fracgpu's controller says what is missing, in events of pod and claim, whoever allocates.
"""

from __future__ import annotations

from typing import Final

from fracgpu.driver.reasons import ReasonCode
from fracgpu.sim.lab.describe import pod_condition
from fracgpu.sim.lab.evidence import Evidence
from fracgpu.sim.lab.stage import SHARING_PODS, THIRD_POD, Stage
from fracgpu.sim.node.api import Json

TITLE = "a third pod that does not fit waits, and is told why"

_SCHEDULER_SAYS: Final = "cannot allocate all claims"
_TOLD: Final = "ClaimUnschedulable"
_CODE: Final = ReasonCode.CARD_INSUFFICIENT_MEMORY.value


def run(stage: Stage, evidence: Evidence) -> None:
    """Ask for more than the two slices leave but less than the card has; look for the reason where users look."""
    sizes = stage.sizes
    stage.cluster.apply(stage.manifest(THIRD_POD, sizes.third_mib), stage.namespace)
    told = {kind: _await_told(stage, kind) for kind in ("Pod", "ResourceClaim")}
    pod = _await_condition(stage)
    evidence.check("the third pod is Pending", pod["status"].get("phase") == "Pending", _scheduling(pod))
    evidence.check(f"an event of the pod says {_CODE}", _CODE in told["Pod"], f"{_TOLD}: {told['Pod']}")
    numbers = (f"need {sizes.third_mib}Mi", f"max free {sizes.free_mib}Mi")
    evidence.check(
        f"it has the numbers ({' and '.join(numbers)})",
        all(number in told["Pod"] for number in numbers),
        f"the card has {sizes.card_mib} MiB, two slices of {sizes.slice_mib} MiB are taken",
    )
    same = told["ResourceClaim"] == told["Pod"]
    evidence.check("the claim says the same", same, "in its event" if same else f"{_TOLD}: {told['ResourceClaim']}")
    claim = stage.claim(THIRD_POD)
    allocation = claim.get("status", {}).get("allocation")
    evidence.check("the claim has been given nothing", not allocation, f"allocation {allocation or 'none'}")
    phases = {name: stage.pod(name)["status"]["phase"] for name in SHARING_PODS}
    evidence.check(
        "the two sharing pods still run",
        set(phases.values()) == {"Running"},
        ", ".join(f"{name} {phase}" for name, phase in phases.items()),
    )
    evidence.data |= {"pod": pod, "told": told}


def _await_told(stage: Stage, kind: str) -> str:
    """Wait until an event of the third pod or its claim says why it has no GPU; return the message."""

    def told(events: dict[str, Json]) -> str | None:
        for event in events.values():
            about = event["involvedObject"]
            if (about.get("kind"), about.get("name"), event.get("reason")) == (kind, THIRD_POD, _TOLD):
                return str(event["message"])
        return None

    what = f"event {_TOLD} of {kind} {THIRD_POD}"
    return stage.cluster.wait_for(f"/api/v1/namespaces/{stage.namespace}/events", told, what=what)


def _await_condition(stage: Stage) -> Json:
    """Wait until the third pod's PodScheduled condition has kube-scheduler's words; return the pod."""

    def refused(pods: dict[str, Json]) -> Json | None:
        pod = pods.get(THIRD_POD, {})
        return pod if _SCHEDULER_SAYS in pod_condition(pod, "PodScheduled").get("message", "") else None

    what = f"{_SCHEDULER_SAYS} on pod {THIRD_POD}"
    return stage.cluster.wait_for(f"/api/v1/namespaces/{stage.namespace}/pods", refused, what=what)


def _scheduling(pod: Json) -> str:
    condition = pod_condition(pod, "PodScheduled")
    return f"PodScheduled={condition.get('status')} {condition.get('reason', '')}: {condition.get('message', '')}"
