"""Exercise 4: a third pod that asks for more than is left waits, says why with numbers, and disturbs nobody."""

from __future__ import annotations

from fracgpu.driver.reasons import ReasonCode
from fracgpu.sim.lab.describe import pod_condition, pod_events
from fracgpu.sim.lab.evidence import Evidence
from fracgpu.sim.lab.lab import Lab
from fracgpu.sim.lab.stage import SHARING_PODS, THIRD_POD, Stage
from fracgpu.sim.node.api import Json

TITLE = "a third pod that does not fit waits, and says why"


def run(stage: Stage, evidence: Evidence) -> None:
    """Ask for more than the two slices leave but less than the card has; look for the reason where users look."""
    lab, sizes = stage.lab, stage.sizes
    lab.apply(stage.manifest(THIRD_POD, sizes.third_mib))
    code = ReasonCode.CARD_INSUFFICIENT_MEMORY.value
    pod, reason = _await_reason(lab, code)
    evidence.check("the third pod is Pending", pod["status"].get("phase") == "Pending", _scheduling(pod))
    events = [line for line in pod_events(pod, lab.events()) if code in line]
    evidence.check(f"an event of the pod says {code} too", bool(events), events[0] if events else "no such event")
    numbers = (f"{sizes.third_mib}Mi", f"{sizes.free_mib}Mi")
    evidence.check(
        f"it names what is needed and what is free ({' and '.join(numbers)})",
        all(number in reason for number in numbers),
        f"the card has {sizes.card_mib} MiB, two slices of {sizes.slice_mib} MiB are taken",
    )
    phases = {name: lab.pod(name)["status"]["phase"] for name in SHARING_PODS}
    evidence.check(
        "the two sharing pods still run",
        set(phases.values()) == {"Running"},
        ", ".join(f"{name} {phase}" for name, phase in phases.items()),
    )
    evidence.data |= {"pod": pod, "reason": reason}


def _await_reason(lab: Lab, code: str) -> tuple[Json, str]:
    """Wait until the third pod's PodScheduled condition carries the reason code; return the pod and the message.

    The condition comes last: the events are written by then.
    """

    def explained(pods: dict[str, Json]) -> tuple[Json, str] | None:
        pod = pods.get(THIRD_POD, {})
        message: str = pod_condition(pod, "PodScheduled").get("message", "")
        return (pod, message) if code in message else None

    return lab.wait_for("/api/v1/namespaces/default/pods", explained, what=f"{code} on pod {THIRD_POD}")


def _scheduling(pod: Json) -> str:
    condition = pod_condition(pod, "PodScheduled")
    return f"PodScheduled={condition.get('status')} {condition.get('reason', '')}: {condition.get('message', '')}"
