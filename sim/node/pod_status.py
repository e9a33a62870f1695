"""The status of a pod, computed from its containers: pure, so that every rule can be looked at on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fracgpu.sim.node.api import Json
from fracgpu.sim.node.clock import now
from fracgpu.sim.node.runner import ContainerView

TERMINAL_PHASES = ("Succeeded", "Failed")


def pod_phase(views: Sequence[ContainerView]) -> str:
    """Return the phase: Pending until every container has run once, then Running until none may run again."""
    if views and all(view.finished for view in views):
        return "Failed" if any(view.exit_code != 0 for view in views) else "Succeeded"
    never_ran = any(view.exit_code is None and "running" not in view.state for view in views)
    return "Pending" if never_ran or not views else "Running"


def container_status(container: Json, view: ContainerView, resources: Sequence[Json] = ()) -> Json:
    """Return the ContainerStatus of one container; ``resources`` is the health of its devices."""
    running = "running" in view.state
    image = container.get("image", "")
    return {
        "name": container["name"],
        "image": image,
        "imageID": "",
        "state": view.state,
        "lastState": view.last_state,
        "ready": running,
        "started": running,
        "restartCount": view.restart_count,
        **({"containerID": view.container_id} if view.container_id else {}),
        **({"allocatedResourcesStatus": list(resources)} if resources else {}),
    }


def pod_status(
    pod: Json,
    views: Mapping[str, ContainerView],
    *,
    host_ip: str,
    start_time: str,
    resources: Mapping[str, Sequence[Json]] | None = None,
) -> Json:
    """Return the whole new status of ``pod``; what others wrote (scheduling, claims) is kept.

    ``resources`` is allocatedResourcesStatus by container name.
    """
    containers = pod["spec"]["containers"]
    ordered = [views.get(container["name"], ContainerView()) for container in containers]
    phase = pod_phase(ordered)
    ready = phase == "Running" and all("running" in view.state for view in ordered)
    reason = "PodCompleted" if phase == "Succeeded" else "PodFailed" if phase == "Failed" else "ContainersNotReady"
    conditions = {
        "PodReadyToStartContainers": (bool(views) and phase not in TERMINAL_PHASES, ""),
        "Initialized": (True, ""),
        "Ready": (ready, reason),
        "ContainersReady": (ready, reason),
    }
    previous = pod.get("status", {})
    statuses = [
        container_status(container, view, (resources or {}).get(container["name"], ()))
        for container, view in zip(containers, ordered, strict=True)
    ]
    return {
        **previous,
        "phase": phase,
        "conditions": merge_conditions(previous.get("conditions") or [], conditions),
        "containerStatuses": statuses,
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": previous.get("startTime", start_time),
    }


def merge_conditions(previous: Sequence[Json], wanted: Mapping[str, tuple[bool, str]]) -> list[Json]:
    """Return the conditions with the wanted ones set; the transition time moves only when the status does."""
    by_type: dict[str, dict[str, Any]] = {condition["type"]: dict(condition) for condition in previous}
    for kind, (is_true, reason_if_false) in wanted.items():
        status = "True" if is_true else "False"
        old = by_type.get(kind, {})
        changed = {"type": kind, "status": status}
        changed["lastTransitionTime"] = old["lastTransitionTime"] if old.get("status") == status else now()
        if not is_true and reason_if_false:
            changed["reason"] = reason_if_false
        by_type[kind] = changed
    return list(by_type.values())
