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
    reason = _await_reason(lab)
    pod = lab.pod(THIRD_POD)
    evidence.check("the third pod is Pending", pod["status"].get("phase") == "Pending", _scheduling(lab))
    code = ReasonCode.CARD_INSUFFICIENT_MEMORY.value
    evidence.check(f"the reason is {code}", code in reason, reason)
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


def _await_reason(lab: Lab) -> str:
    """Wait for the news about the third pod that carries the reason code."""
    code = ReasonCode.CARD_INSUFFICIENT_MEMORY.value

    def explained(_: dict[str, Json]) -> str | None:
        news = [*pod_events(lab.pod(THIRD_POD), lab.events()), _scheduling(lab)]
        return next((line for line in reversed(news) if code in line), None)

    return lab.wait_for("/api/v1/namespaces/default/events", explained, what=f"{code} on pod {THIRD_POD}")


def _scheduling(lab: Lab) -> str:
    condition = pod_condition(lab.pod(THIRD_POD), "PodScheduled")
    return f"PodScheduled={condition.get('status')} {condition.get('reason', '')}: {condition.get('message', '')}"
