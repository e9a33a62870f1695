"""What `status.devices` of a claim says about our devices: conditions and data. Pure.

Only our driver's entries of this node are ever changed; those of other drivers and nodes, and fields of our own entries
that are not ours to set, stay as they are. `data` holds strings, integers and booleans only, because the API server
compares its bytes, and floats and spaces do not survive re-encoding.

Each write wakes the schedulers of the whole cluster. So numbers count as changed only when they mean something else:
amounts of memory by more than a twentieth.

Source: k8s.io/api/resource/v1 AllocatedDeviceStatus, metav1.Condition.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.api.cluster import Json
from fracgpu.kubeletplugin.proof.observation import AllocationObservation, Finding, Truth

BACKEND: Final = "interceptor"
MAX_CONDITIONS: Final = 8
_MAX_MESSAGE: Final = 1024
_OBSERVED_AT: Final = "observedAt"
_AMOUNTS: Final = ("memoryUsedBytes", "memoryPeakBytes")
_LIMIT: Final = "memoryLimitBytes"
_SUSPENDED: Final = "suspended"
# Amounts of several results on one device add up; these are the keys that do.
_SUMMED: Final = (*_AMOUNTS, _LIMIT, "coresPercent", "refusals", "processes")
# An amount has changed when it did by more than one part in so many, of the limit if there is one.
_PARTS: Final = 20
_SEVERITY: Final = (Truth.FALSE, Truth.UNKNOWN, Truth.TRUE)


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """Which entry of status.devices: the list's map keys. No share is an empty `share_id`."""

    pool: str
    device: str
    share_id: str

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "DeviceKey | None":
        """Return the key of an allocation result or a status entry; None when it is another driver's."""
        if entry.get("driver") != DRIVER_NAME:
            return None
        return cls(str(entry.get("pool", "")), str(entry.get("device", "")), str(entry.get("shareID") or ""))


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What one entry shall say: findings by condition type, in the order in which they are written, and data."""

    key: DeviceKey
    conditions: Mapping[str, Finding]
    data: Mapping[str, str | int]

    @property
    def verdicts(self) -> tuple[tuple[str, str, str], ...]:
        """Type, status and reason of each condition: what makes a write urgent when it changes."""
        return tuple((kind, str(one.truth), one.reason) for kind, one in self.conditions.items())


def make_reports(allocations: Iterable[AllocationObservation]) -> tuple[DeviceReport, ...]:
    """Return one report per device and share of one claim.

    Results that the API can not tell apart (two on one device, on a server that keeps no share ids) become one report
    with the worst verdicts and the sums.
    """
    found: dict[DeviceKey, DeviceReport] = {}
    for one in allocations:
        report = _report(one)
        earlier = found.get(report.key)
        found[report.key] = report if earlier is None else _joined(earlier, report)
    return tuple(found.values())


def updated_devices(claim: Json, reports: Sequence[DeviceReport], now: datetime) -> list[Json] | None:
    """Return the new status.devices of the raw `claim`, or None when there is nothing worth writing.

    Reports on devices that are not allocated any more are left out: the API server would refuse the whole write.
    """
    status = claim.get("status") or {}
    allocated = allocated_keys(claim)
    devices: list[Json] = list(status.get("devices") or ())
    places = {key: index for index, entry in enumerate(devices) if (key := DeviceKey.of(entry)) is not None}
    changed = False
    for report in reports:
        if report.key not in allocated:
            continue
        place = places.get(report.key)
        entry = updated_entry({} if place is None else devices[place], report, now)
        if entry is None:
            continue
        changed = True
        if place is None:
            devices.append(entry)
        else:
            devices[place] = entry
    return devices if changed else None


def allocated_keys(claim: Json) -> frozenset[DeviceKey]:
    """Return the keys of our driver's results in the raw `claim`."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or ()
    return frozenset(key for result in results if (key := DeviceKey.of(result)) is not None)


def updated_entry(entry: Json, report: DeviceReport, now: datetime) -> Json | None:
    """Return `entry` (empty for a new one) with what `report` says, or None when that is nothing worth writing."""
    present = {str(one.get("type")): one for one in entry.get("conditions") or ()}
    same = all(
        (one := present.get(kind)) is not None
        and (one.get("status"), one.get("reason")) == (str(finding.truth), finding.reason)
        for kind, finding in report.conditions.items()
    )
    if same and not data_differs(entry.get("data") or {}, report.data):
        return None
    key = report.key
    names = {"driver": DRIVER_NAME, "pool": key.pool, "device": key.device}
    conditions = [_condition(kind, finding, present.get(kind), now) for kind, finding in report.conditions.items()]
    others = [one for kind, one in present.items() if kind not in report.conditions]
    return {
        **entry,
        **names,
        **({"shareID": key.share_id} if key.share_id else {}),
        "conditions": [*conditions, *others][:MAX_CONDITIONS],
        "data": dict(report.data),
    }


def data_differs(former: Mapping[str, Any], data: Mapping[str, str | int]) -> bool:
    """Tell whether `data` says something else than `former`: see the module's text on numbers."""

    def plain(one: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in one.items() if key not in (*_AMOUNTS, _OBSERVED_AT)}

    if plain(former) != plain(data):
        return True
    return any(_moved(former.get(key), data.get(key), data.get(_LIMIT)) for key in _AMOUNTS)


def timestamp(moment: datetime) -> str:
    """Return `moment` as RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moved(former: object, new: object, limit: object) -> bool:
    if not isinstance(former, int) or not isinstance(new, int):
        return former != new
    whole = limit if isinstance(limit, int) else max(former, new)
    return abs(new - former) * _PARTS > whole


def _report(one: AllocationObservation) -> DeviceReport:
    record = one.record
    data: dict[str, str | int | None] = {
        "backend": BACKEND,
        "coresPercent": record.cores,
        "gpuUUID": record.gpu_uuid,
        "libraryDigest": one.library_digest,
        _LIMIT: one.memory_limit_bytes,
        "memoryPeakBytes": one.peak_bytes,
        "memoryUsedBytes": one.used_bytes,
        _OBSERVED_AT: timestamp(one.observed_at),
        "processes": one.processes,
        "refusals": one.refusals,
        # Said only while it is so: most claims never are.
        _SUSPENDED: True if one.suspended else None,
    }
    conditions = {
        "Prepared": one.prepared,
        "Enforced": one.enforced,
        "WithinLimit": one.within_limit,
        "Compatible": one.compatible,
    }
    return DeviceReport(
        key=DeviceKey(record.pool, record.device, record.share_id or ""),
        conditions=conditions,
        data={key: value for key, value in data.items() if value is not None},
    )


def _joined(first: DeviceReport, second: DeviceReport) -> DeviceReport:
    def worst(kind: str) -> Finding:
        return min(first.conditions[kind], second.conditions[kind], key=lambda one: _SEVERITY.index(one.truth))

    data = dict(first.data)
    for key, value in second.data.items():
        earlier = data.get(key)
        if key in _SUMMED and isinstance(value, int) and isinstance(earlier, int):
            data[key] = earlier + value
    for key in _SUMMED:
        # Half a sum would be a lie: without one of the two amounts there is none.
        if (key in first.data) != (key in second.data):
            data.pop(key, None)
    if _SUSPENDED in second.data:
        data[_SUSPENDED] = True
    return replace(first, conditions={kind: worst(kind) for kind in first.conditions}, data=data)


def _condition(kind: str, finding: Finding, present: Json | None, now: datetime) -> Json:
    kept = present is not None and present.get("status") == str(finding.truth)
    since = present.get("lastTransitionTime") if kept and present is not None else None
    # Paths of a container may hold bytes that are no text.
    message = finding.message.encode(errors="replace").decode()[:_MAX_MESSAGE]
    return {
        "type": kind,
        "status": str(finding.truth),
        "reason": finding.reason,
        "message": message,
        "lastTransitionTime": since or timestamp(now),
    }
