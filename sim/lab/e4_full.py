"""Exercise 4: a third pod that asks for more than is left waits, is told so, and disturbs nobody.

What it is told depends on who allocates: our controller says how much is missing, kube-scheduler has one sentence for
every claim that it cannot allocate.
"""

from __future__ import annotations

from typing import Final

from fracgpu.driver.reasons import ReasonCode
from fracgpu.sim.lab.describe import pod_condition, pod_events
from fracgpu.sim.lab.evidence import Evidence
from fracgpu.sim.lab.stage import SHARING_PODS, THIRD_POD, Stage
from fracgpu.sim.node.api import Json

TITLE = "a third pod that does not fit waits, and says why"

# By the allocator: what the pod is told.
_REASONS: Final = {
    "controller": ReasonCode.CARD_INSUFFICIENT_MEMORY.value,
    "scheduler": "cannot allocate all claims",
}


def run(stage: Stage, evidence: Evidence) -> None:
    """Ask for more than the two slices leave but less than the card has; look for the reason where users look."""
    sizes, words = stage.sizes, _REASONS[stage.allocator]
    stage.cluster.apply(stage.manifest(THIRD_POD, sizes.third_mib), stage.namespace)
    pod, reason = _await_reason(stage, words)
    evidence.check("the third pod is Pending", pod["status"].get("phase") == "Pending", _scheduling(pod))
    events = [line for line in pod_events(pod, stage.cluster.events(stage.namespace)) if words in line]
    evidence.check(f"an event of the pod says {words} too", bool(events), events[0] if events else "no such event")
    if stage.allocator == "controller":
        numbers = (f"{sizes.third_mib}Mi", f"{sizes.free_mib}Mi")
        evidence.check(
            f"it names what is needed and what is free ({' and '.join(numbers)})",
            all(number in reason for number in numbers),
            f"the card has {sizes.card_mib} MiB, two slices of {sizes.slice_mib} MiB are taken",
        )
    claim = stage.claim(THIRD_POD)
    allocation = claim.get("status", {}).get("allocation")
    evidence.check("its claim has been given nothing", not allocation, f"allocation {allocation or 'none'}")
    phases = {name: stage.pod(name)["status"]["phase"] for name in SHARING_PODS}
    evidence.check(
        "the two sharing pods still run",
        set(phases.values()) == {"Running"},
        ", ".join(f"{name} {phase}" for name, phase in phases.items()),
    )
    evidence.data |= {"pod": pod, "reason": reason}


def _await_reason(stage: Stage, words: str) -> tuple[Json, str]:
    """Wait until the third pod's PodScheduled condition carries the words; return the pod and the message.

    kube-scheduler writes condition and event independently of each other, so the event is waited for as well.
    """
    path = f"/api/v1/namespaces/{stage.namespace}"

    def explained(pods: dict[str, Json]) -> tuple[Json, str] | None:
        pod = pods.get(THIRD_POD, {})
        message: str = pod_condition(pod, "PodScheduled").get("message", "")
        return (pod, message) if words in message else None

    def told(events: dict[str, Json]) -> bool | None:
        about = [event for event in events.values() if event["involvedObject"].get("name") == THIRD_POD]
        return True if any(words in event.get("message", "") for event in about) else None

    found = stage.cluster.wait_for(f"{path}/pods", explained, what=f"{words} on pod {THIRD_POD}")
    stage.cluster.wait_for(f"{path}/events", told, what=f"{words} in an event of pod {THIRD_POD}")
    return found


def _scheduling(pod: Json) -> str:
    condition = pod_condition(pod, "PodScheduled")
    return f"PodScheduled={condition.get('status')} {condition.get('reason', '')}: {condition.get('message', '')}"
