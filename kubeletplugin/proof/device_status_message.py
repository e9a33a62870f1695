"""The same change of status.devices, made in the API server's protobuf form of a claim.

JSON loses how opaque parameters were spelt; a claim whose creator wrote them with spaces can then not be updated any
more, because the API server sees immutable fields change. In protobuf they are bytes that nobody touches, and fields
that we do not know survive too. Only our own entries are translated to and from JSON.

Source: k8s.io/api/resource/v1/generated.proto.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fracgpu.driver.kube.transport import encode
from fracgpu.kubeletplugin.api.cluster import Json
from fracgpu.kubeletplugin.proof.device_status import DeviceKey, DeviceReport, timestamp, updated_entry
from fracgpu.proto.resource.v1.generated_pb2 import AllocatedDeviceStatus, Condition, ResourceClaim


def update_message(claim: ResourceClaim, reports: Sequence[DeviceReport], now: datetime) -> bool:
    """Change status.devices of `claim` in place as updated_devices does, and return whether anything was changed."""
    allocated = {_key(result) for result in claim.status.allocation.devices.results}
    places = {key: entry for entry in claim.status.devices if (key := _key(entry)) is not None}
    changed = False
    for report in reports:
        if report.key not in allocated:
            continue
        present = places.get(report.key)
        entry = updated_entry({} if present is None else _to_json(present), report, now)
        if entry is not None:
            _fill(claim.status.devices.add() if present is None else present, entry)
            changed = True
    return changed


def _key(entry: Any) -> DeviceKey | None:
    # Allocation results and status entries have these four fields in common.
    return DeviceKey.of(
        {"driver": entry.driver, "pool": entry.pool, "device": entry.device, "shareID": entry.shareID or None}
    )


def _to_json(entry: AllocatedDeviceStatus) -> Json:
    try:
        data = json.loads(entry.data.raw) if entry.data.raw else {}
    except ValueError:
        data = {}
    return {
        "conditions": [
            {
                "type": one.type,
                "status": one.status,
                "reason": one.reason,
                "message": one.message,
                "lastTransitionTime": timestamp(datetime.fromtimestamp(one.lastTransitionTime.seconds, UTC)),
            }
            for one in entry.conditions
        ],
        "data": data if isinstance(data, dict) else {},
    }


def _fill(entry: AllocatedDeviceStatus, content: Json) -> None:
    kept = {one.type: one for one in entry.conditions}
    conditions = [_condition(one, kept.get(one["type"])) for one in content["conditions"]]
    entry.driver, entry.pool, entry.device = content["driver"], content["pool"], content["device"]
    if content.get("shareID"):
        entry.shareID = content["shareID"]
    del entry.conditions[:]
    entry.conditions.extend(conditions)
    entry.data.raw = encode(content["data"])


def _condition(content: Json, present: Condition | None) -> Condition:
    """Return the condition; fields that we do not know stay."""
    condition = Condition()
    if present is not None:
        condition.CopyFrom(present)
    condition.type, condition.status = content["type"], content["status"]
    condition.reason, condition.message = content["reason"], content["message"]
    seconds = int(datetime.fromisoformat(content["lastTransitionTime"]).timestamp())
    condition.lastTransitionTime.seconds = seconds
    return condition
