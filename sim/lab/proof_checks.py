"""What the plugin says on the claims while the pods climb, held against what the pods themselves see.

`status.devices` is where a user looks, so it must say the truth: enforced, with limit and use, where the interceptor is
in place; and plainly something else where containers have no mounts and the plugin cannot see into them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.sim.lab.bundle import DESCRIPTION_FILE
from fracgpu.sim.lab.climbing import held_climbs
from fracgpu.sim.lab.cluster import RESOURCE_API
from fracgpu.sim.lab.errors import LabTimeout
from fracgpu.sim.lab.evidence import Evidence, mib
from fracgpu.sim.lab.kubectl_describe import describe
from fracgpu.sim.lab.stage import SHARING_PODS, Stage
from fracgpu.sim.lab.waiting import wait_for_collection
from fracgpu.sim.node.api import Json

# Without mounts the plugin may never recognise a program; so many looks would have done.
_PATIENCE_S: Final = 10.0
CONDITIONS: Final = ("Prepared", "Enforced", "WithinLimit", "Compatible")
# Nothing was there to be seen yet, or any more: not the answer that is waited for while programs run.
_NOTHING_SEEN: Final = "NoProcess"
_TEXTS: Final = ("backend", "libraryDigest", "gpuUUID", "observedAt")
_NUMBERS: Final = (
    *("memoryLimitBytes", "memoryUsedBytes", "memoryPeakBytes", "coresPercent"),
    *("refusals", "processes"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """What a pod sees of its GPU through NVML: total and used bytes, UUID."""

    total_bytes: int
    used_bytes: int
    gpu_uuid: str


def run(stage: Stage, evidence: Evidence) -> None:
    """Climb in both pods; wait until both claims tell what the plugin saw; compare it with the pods' own view."""
    with held_climbs(stage):
        claims = _await_verdicts(stage)
        views = {name: _view(stage, name) for name in SHARING_PODS}
        events = stage.cluster.events(stage.namespace)
    evidence.files[DESCRIPTION_FILE] = "\n\n".join(describe(claims[name], events) for name in SHARING_PODS)
    for name in SHARING_PODS:
        entry = our_entry(claims[name]) or {}
        evidence.data[f"{name} status"] = entry
        if stage.looks_inside:
            check_enforced(evidence, name, entry, views[name])
        else:
            check_not_claimed(evidence, name, entry)


def our_entry(claim: Json) -> Json | None:
    """Return the entry of our driver in a claim's status.devices; None when there is none."""
    devices = claim.get("status", {}).get("devices") or []
    return next((entry for entry in devices if entry["driver"] == DRIVER_NAME), None)


def condition(entry: Json, kind: str) -> Json:
    """Return a condition of an entry; empty if it has none of that type."""
    return next((one for one in entry.get("conditions") or [] if one["type"] == kind), {})


def check_enforced(evidence: Evidence, name: str, entry: Json, view: PodView) -> None:
    """Expect the whole proof: all conditions, all data, and the pod's own numbers."""
    for kind in CONDITIONS:
        evidence.check(
            f"{name}: its claim says {kind}", condition(entry, kind).get("status") == "True", _told(entry, kind)
        )
    data = entry.get("data") or {}
    wrong = sorted(
        [key for key in _TEXTS if not isinstance(data.get(key), str)]
        + [key for key in _NUMBERS if type(data.get(key)) is not int]
    )
    missing = f"missing or of a wrong type: {', '.join(wrong)}" if wrong else ", ".join(sorted(data))
    evidence.check(f"{name}: its claim carries the data", not wrong, missing)
    limit, used = int(data.get("memoryLimitBytes") or 0), int(data.get("memoryUsedBytes") or 0)
    evidence.check(
        f"{name}: claim and pod agree on limit and GPU",
        limit == view.total_bytes and data.get("gpuUUID") == view.gpu_uuid,
        f"claim {mib(limit)} of {data.get('gpuUUID')}, pod {mib(view.total_bytes)} of {view.gpu_uuid}",
    )
    # The claim has what was seen when its condition changed: the program may have had less then, never more.
    evidence.check(
        f"{name}: the claim says what the pod uses",
        0 < used <= view.used_bytes <= limit and int(data.get("processes") or 0) >= 1,
        f"claim {mib(used)} by {data.get('processes')} process(es), pod {mib(view.used_bytes)}",
    )


def check_not_claimed(evidence: Evidence, name: str, entry: Json) -> None:
    """Expect that what cannot be seen is not asserted: without mounts the plugin has nothing to recognise a pod by."""
    enforced = condition(entry, "Enforced")
    evidence.check(
        f"{name}: without mounts its claim does not say that the limit is enforced",
        enforced.get("status") in ("False", "Unknown") and bool(enforced.get("message")),
        _told(entry, "Enforced"),
    )


def _told(entry: Json, kind: str) -> str:
    found = condition(entry, kind)
    return f"{kind}={found['status']} {found['reason']}: {found['message']}" if found else f"no condition {kind}"


def _await_verdicts(stage: Stage) -> dict[str, Json]:
    """Wait until each pod's claim has a verdict about programs that run; return the claims by pod."""

    def told(claims: dict[str, Json]) -> dict[str, Json] | None:
        found = {name: claims[name] for name in SHARING_PODS if name in claims and _has_verdict(claims[name])}
        return found if len(found) == len(SHARING_PODS) else None

    what = "status.devices of both claims about the programs that climb"
    patience_s = stage.cluster.deadline_s
    deadline_s = patience_s if stage.looks_inside else min(_PATIENCE_S, patience_s)
    path = f"{RESOURCE_API}/namespaces/{stage.namespace}/resourceclaims"
    try:
        return wait_for_collection(stage.cluster.api, path, told, deadline_s=deadline_s, what=what)
    except LabTimeout:
        if stage.looks_inside:
            raise
        # Nothing seen is an honest answer too.
        return {name: stage.claim(name) for name in SHARING_PODS}


def _has_verdict(claim: Json) -> bool:
    reason = condition(our_entry(claim) or {}, "Enforced").get("reason")
    return reason is not None and reason != _NOTHING_SEEN


def _view(stage: Stage, name: str) -> PodView:
    seen: dict[str, Any] = json.loads(stage.output_of(name, ["fracgpu-view"]))["nvml"]["devices"][0]
    memory = seen["v1"]
    return PodView(total_bytes=memory["total_bytes"], used_bytes=memory["used_bytes"], gpu_uuid=seen["uuid"])
