"""allocatedResourcesStatus of a pod's containers: how the devices of their claims are.

Each entry is a claim, or one request of it, of a container; an entry without devices is left out. A device is named by
its first CDI id, by driver, pool and device without one, and named once however often it was prepared.

Source: UpdateAllocatedResourcesStatus in pkg/kubelet/cm/dra/manager.go of Kubernetes 1.36.3.
"""

from __future__ import annotations

from collections.abc import Mapping

from fracgpu.sim.node.api import Json
from fracgpu.sim.node.claim_cache import ClaimInfo
from fracgpu.sim.node.device_health import DeviceHealthCache
from fracgpu.sim.node.dra_client import PreparedDevice
from fracgpu.sim.node.errors import ClaimNotNamed
from fracgpu.sim.node.pod_claims import pod_claims


def resource_status(pod: Json, known: Mapping[str, ClaimInfo], health: DeviceHealthCache) -> dict[str, list[Json]]:
    """Return the entries by container name; ``known`` is what the node knows of the claims of the pod's namespace."""
    try:
        names = {one.name: one.claim for one in pod_claims(pod)}
    except ClaimNotNamed:
        return {}
    found: dict[str, list[Json]] = {}
    for container in pod["spec"]["containers"]:
        entries: dict[str, list[Json]] = {}
        for wanted in container.get("resources", {}).get("claims") or []:
            request = wanted.get("request", "")
            info = known.get(names.get(wanted["name"]) or "")
            if info is not None:
                entries[f"claim:{wanted['name']}" + (f"/{request}" if request else "")] = _devices(
                    info, request, health
                )
        found[container["name"]] = [{"name": name, "resources": shown} for name, shown in entries.items() if shown]
    return found


def _devices(info: ClaimInfo, request: str, health: DeviceHealthCache) -> list[Json]:
    shown: dict[str, Json] = {}
    # A container may name one alternative of a request, devices only name the request.
    for device in info.devices_of(request.partition("/")[0]):
        name = _resource_id(device)
        state = health.get(device.driver, device.pool_name, device.device_name)
        message = {"message": state.message} if state.message else {}
        shown.setdefault(name, {"resourceID": name, "health": state.health} | message)
    return list(shown.values())


def _resource_id(device: PreparedDevice) -> str:
    if device.cdi_device_ids:
        return device.cdi_device_ids[0]
    return f"{device.driver}/{device.pool_name}/{device.device_name}"
