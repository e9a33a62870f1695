"""Objects of the API in a few words, for people who wait for them."""

from __future__ import annotations

from collections.abc import Iterable

from fracgpu.sim.node.api import Json

_NEWEST_EVENTS = 3


def pod_story(pod: Json, events: Iterable[Json]) -> str:
    """Return phase, unmet conditions, waiting containers and the newest events of a pod in one line."""
    status = pod.get("status", {})
    unmet = [one for one in status.get("conditions") or [] if one["status"] != "True" and one.get("message")]
    parts = [f"phase {status.get('phase', 'none')}", *(f"{one['type']}: {one['message']}" for one in unmet)]
    for container in status.get("containerStatuses") or []:
        for kind in ("waiting", "terminated"):
            if detail := container["state"].get(kind):
                words = [detail.get("reason", kind), str(detail.get("exitCode", "")), detail.get("message", "")]
                parts.append(f"container {container['name']} {' '.join(word for word in words if word)}")
    return "; ".join([*parts, *pod_events(pod, events)[-_NEWEST_EVENTS:]])


def pod_events(pod: Json, events: Iterable[Json]) -> list[str]:
    """Return the events of a pod as ``reason: message``, oldest first."""
    own = [event for event in events if event.get("involvedObject", {}).get("uid") == pod["metadata"]["uid"]]
    own.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
    return [f"{event['reason']}: {event['message']}" for event in own]


def pod_condition(pod: Json, kind: str) -> Json:
    """Return a condition of a pod; empty if it has none of that type."""
    conditions: list[Json] = pod.get("status", {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), {})
