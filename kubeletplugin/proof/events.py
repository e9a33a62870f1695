"""Events about limits that are not enforced, and that are again: on the claim, and on the pods that use it.

A condition is found by whoever looks at the claim; an event is found by whoever looks at the pod. One is made when a
verdict that was written to the claim changes, so a plugin that starts again does not repeat it.
"""

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.api.cluster import Json
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.device_status import DeviceKey, DeviceReport, timestamp
from fracgpu.kubeletplugin.proof.observation import Finding, Truth

_ENFORCED: Final = "Enforced"
_RESTORED: Final = "EnforcementRestored"
# The API server's own limits: of a name (DNS subdomain), and of an event's message.
_MAX_NAME_PREFIX: Final = 236
_MAX_NOTE: Final = 1024


def enforcement_events(
    ref: ClaimRef, claim: Json, reports: Sequence[DeviceReport], *, node_name: str, now: datetime
) -> Iterator[Json]:
    """Yield the events that tell how `reports` differ from what the raw `claim` said before.

    Nothing is told of a device that was never seen enforced nor bypassed before and is not bypassed now.
    """
    former = {DeviceKey.of(entry): _status(entry) for entry in (claim.get("status") or {}).get("devices") or ()}
    for report in reports:
        finding = report.conditions[_ENFORCED]
        news = _news(former.get(report.key), finding)
        if news is not None:
            kind, reason = news
            message = f"{report.key.device} of claim {ref.name}: {finding.message}"
            for about in (_claim_reference(ref), *_pod_references(ref, claim)):
                yield _event(about, kind, reason, message, node_name=node_name, now=now)


def _news(former: str | None, finding: Finding) -> tuple[str, str] | None:
    if finding.truth is Truth.FALSE:
        return None if former == Truth.FALSE else ("Warning", finding.reason)
    # The end of a bypassing process leaves nothing to see (Unknown); only a right one is good news.
    return ("Normal", _RESTORED) if former == Truth.FALSE and finding.truth is Truth.TRUE else None


def _status(entry: Json) -> str | None:
    conditions = entry.get("conditions") or ()
    return next((one.get("status") for one in conditions if one.get("type") == _ENFORCED), None)


def _claim_reference(ref: ClaimRef) -> Json:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "namespace": ref.namespace,
        "name": ref.name,
        "uid": ref.uid,
    }


def _pod_references(ref: ClaimRef, claim: Json) -> Iterator[Json]:
    for one in (claim.get("status") or {}).get("reservedFor") or ():
        if one.get("resource") == "pods":
            yield {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": ref.namespace,
                "name": one.get("name"),
                "uid": one.get("uid"),
            }


def _event(about: dict[str, Any], kind: str, reason: str, message: str, *, node_name: str, now: datetime) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about['name'][:_MAX_NAME_PREFIX].rstrip('-.')}.{uuid.uuid4().hex[:16]}",
            "namespace": about["namespace"],
        },
        "involvedObject": about,
        "type": kind,
        "reason": reason,
        "message": message.encode(errors="replace").decode()[:_MAX_NOTE],
        "source": {"component": DRIVER_NAME, "host": node_name},
        "reportingComponent": DRIVER_NAME,
        "reportingInstance": node_name,
        "firstTimestamp": timestamp(now),
        "lastTimestamp": timestamp(now),
        "count": 1,
    }
