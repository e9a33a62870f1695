"""Writes what was observed to a claim's status, by whichever way the API server accepts.

The usual way is a merge patch of status.devices, with the resourceVersion that was read. Two kinds of claims go over
protobuf instead: those whose opaque parameters do not survive JSON (the API server then answers that an immutable field
changed), and those on which another driver reports too, because a list is patched as a whole and its data would be
spelt anew. Nothing depends on a write: one that fails is told and forgotten, and the claim's pods never notice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from fracgpu.driver.kill_points import kill_point
from fracgpu.driver.kube.errors import Conflict, Forbidden, Immutable, NotFound, Refused, Unavailable
from fracgpu.kubeletplugin.api.cluster import ClaimStatusApi, Json
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.device_status import DeviceKey, DeviceReport, allocated_keys, updated_devices
from fracgpu.kubeletplugin.proof.device_status_message import update_message

# Others write the claim too, but each of them seldom; who loses this often in a row has a reason to pause.
_ATTEMPTS: Final = 4


class Outcome(StrEnum):
    """How a write ended.

    GONE: the claim was deleted, deallocated, or is another one of that name. DROPPED: the API server took the write and
    kept nothing of it, as it does where the feature gate DRAResourceClaimDeviceStatus is off.
    """

    WRITTEN = "written"
    DROPPED = "dropped"
    UNCHANGED = "unchanged"
    GONE = "gone"
    CONFLICT = "conflict"
    FORBIDDEN = "forbidden"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class WriteResult:
    """How a write ended, why it failed if it did, and the claim as it was read before (None if it could not be)."""

    outcome: Outcome
    error: str = ""
    claim: Json | None = None


class ClaimWriter:
    """Writes to claims, one at a time. Remembers which of them only protobuf can write."""

    def __init__(self, cluster: ClaimStatusApi, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._cluster = cluster
        self._now = now
        self._by_message: set[str] = set()

    def write(self, ref: ClaimRef, reports: Sequence[DeviceReport]) -> WriteResult:
        """Make the status of the claim say what `reports` say; never raises ClusterError."""
        claim: Json | None = None
        try:
            for _ in range(_ATTEMPTS):
                claim = self._cluster.get_claim(ref.namespace, ref.name)
                if (claim.get("metadata") or {}).get("uid") != ref.uid or not allocated_keys(claim):
                    return WriteResult(Outcome.GONE)
                try:
                    return WriteResult(self._write(ref, claim, reports), claim=claim)
                except Conflict as error:
                    conflict = error
        except NotFound:
            return WriteResult(Outcome.GONE)
        except Unavailable as error:
            return WriteResult(Outcome.UNAVAILABLE, str(error), claim)
        except Forbidden as error:
            return WriteResult(Outcome.FORBIDDEN, str(error), claim)
        except Refused as error:
            return WriteResult(Outcome.REFUSED, str(error), claim)
        return WriteResult(Outcome.CONFLICT, str(conflict), claim)

    def keep_only(self, claim_uids: frozenset[str]) -> None:
        """Forget all other claims."""
        self._by_message &= claim_uids

    def _write(self, ref: ClaimRef, claim: Json, reports: Sequence[DeviceReport]) -> Outcome:
        now = self._now()
        devices = updated_devices(claim, reports, now)
        if devices is None:
            return Outcome.UNCHANGED
        if ref.uid in self._by_message or _others_have_data(devices):
            return self._write_message(ref, reports, now)
        version = claim["metadata"].get("resourceVersion")
        patch = {"metadata": {"resourceVersion": version}, "status": {"devices": devices}}
        kill_point("patch claim status")
        try:
            stored = self._cluster.patch_claim_status(ref.namespace, ref.name, patch)
        except Immutable:
            self._by_message.add(ref.uid)
            return self._write_message(ref, reports, now)
        return Outcome.WRITTEN if (stored.get("status") or {}).get("devices") else Outcome.DROPPED

    def _write_message(self, ref: ClaimRef, reports: Sequence[DeviceReport], now: datetime) -> Outcome:
        message = self._cluster.get_claim_message(ref.namespace, ref.name)
        if message.metadata.uid != ref.uid:
            return Outcome.GONE
        if not update_message(message, reports, now):
            return Outcome.UNCHANGED
        kill_point("replace claim status")
        stored = self._cluster.replace_claim_status_message(message)
        return Outcome.WRITTEN if stored.status.devices else Outcome.DROPPED


def _others_have_data(devices: Sequence[dict[str, Any]]) -> bool:
    return any(DeviceKey.of(entry) is None and "data" in entry for entry in devices)
