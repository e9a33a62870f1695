"""The status of a pod, computed from its containers: pure, so that every rule can be looked at on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fracgpu.sim.node.api import Json
from fracgpu.sim.node.clock import now
from fracgpu.sim.node.pod_containers import is_sidecar
from fracgpu.sim.node.runner import ContainerView

TERMINAL_PHASES = ("Succeeded", "Failed")


def pod_phase(views: Sequence[ContainerView]) -> str:
    """Return the phase: Pending until every container has run once, then Running until none may run again."""
    if views and all(view.finished for view in views):
        return "Failed" if any(view.exit_code != 0 for view in views) else "Succeeded"
    return "Running" if views and all(view.has_run for view in views) else "Pending"


def _phase(pod: Json, views: Mapping[str, ContainerView]) -> str:
    """Return the phase of a pod that may have init containers."""
    failed = any(
        view.finished and view.exit_code != 0 and not is_sidecar(container)
        for container, view in _in_order(pod, "initContainers", views)
    )
    if failed:
        return "Failed"
    phase = pod_phase([view for _, view in _in_order(pod, "containers", views)])
    sidecars = any(
        "running" in view.state and is_sidecar(container) for container, view in _in_order(pod, "initContainers", views)
    )
    return "Running" if sidecars and phase in TERMINAL_PHASES else phase


def _in_order(pod: Json, group: str, views: Mapping[str, ContainerView]) -> list[tuple[Json, ContainerView]]:
    reason = "PodInitializing" if pod["spec"].get("initContainers") else "ContainerCreating"
    unborn = ContainerView(state={"waiting": {"reason": reason}})
    return [(container, views.get(container["name"], unborn)) for container in pod["spec"].get(group) or []]


def _is_initialized(pod: Json, views: Mapping[str, ContainerView]) -> bool:
    return all(
        view.has_run if is_sidecar(container) else view.finished and view.exit_code == 0
        for container, view in _in_order(pod, "initContainers", views)
    )


def past_views(pod: Json) -> dict[str, ContainerView]:
    """Return how the containers of a pod ended that ran before this node was restarted and may not run again.

    A pod that is not restarted gets no second sandbox, so nothing of it is prepared again. How a container ended that
    was running then nobody knows: containerd says 255.
    """
    groups = [pod.get("status", {}).get(kind) or [] for kind in ("initContainerStatuses", "containerStatuses")]
    statuses = [one for group in groups for one in group if one.get("containerID")]
    if pod["spec"].get("restartPolicy", "Always") != "Never":
        return {}
    return {one["name"]: _past_view(one) for one in statuses}


def _past_view(status: Json) -> ContainerView:
    state = status["state"]
    if "terminated" not in state:
        times = {"startedAt": state.get("running", {}).get("startedAt", now()), "finishedAt": now()}
        ended = {"exitCode": 255, "reason": "Unknown", "containerID": status["containerID"], **times}
        state = {"terminated": ended}
    return ContainerView(
        state=state, restart_count=status["restartCount"], container_id=status["containerID"], finished=True
    )


def container_status(
    container: Json, view: ContainerView, resources: Sequence[Json] = (), *, initial: bool = False
) -> Json:
    """Return the ContainerStatus of one container; ``resources`` is the health of its devices.

    An init container that is no sidecar is ready when it succeeded.
    """
    running = "running" in view.state
    ready = view.finished and view.exit_code == 0 if initial and not is_sidecar(container) else running
    image = container.get("image", "")
    return {
        "name": container["name"],
        "image": image,
        "imageID": "",
        "state": view.state,
        "lastState": view.last_state,
        "ready": ready,
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
    ended: bool = True,
) -> Json:
    """Return the whole new status of ``pod``; what others wrote (scheduling, claims) is kept.

    ``resources`` is allocatedResourcesStatus by container name. Until ``ended`` the pod keeps its phase though all its
    containers have finished: the phase tells others that what the pod held is free.
    """
    previous = pod.get("status", {})
    phase = _phase(pod, views)
    if phase in TERMINAL_PHASES and not ended:
        phase = previous.get("phase", "Pending")
    own, first = _in_order(pod, "containers", views), _in_order(pod, "initContainers", views)
    ready = phase == "Running" and all("running" in view.state for _, view in own)
    reason = "PodCompleted" if phase == "Succeeded" else "PodFailed" if phase == "Failed" else "ContainersNotReady"
    conditions = {
        "PodReadyToStartContainers": (bool(views) and phase not in TERMINAL_PHASES, ""),
        "Initialized": (_is_initialized(pod, views), "ContainersNotInitialized"),
        "Ready": (ready, reason),
        "ContainersReady": (ready, reason),
    }
    health = resources or {}
    statuses = [container_status(container, view, health.get(container["name"], ())) for container, view in own]
    initial = [container_status(container, view, initial=True) for container, view in first]
    return {
        **previous,
        "phase": phase,
        "conditions": merge_conditions(previous.get("conditions") or [], conditions),
        "containerStatuses": statuses,
        **({"initContainerStatuses": initial} if initial else {}),
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
