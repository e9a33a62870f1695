"""The allocator's calls to the API server, each with a span that says what it was about.

Together with the spans of decisions they tell where the time between a pod and its allocation went.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.trace import Span, Status, StatusCode, Tracer

from fracgpu.controller.ports import ControllerApi, Json
from fracgpu.driver.kube.errors import ClusterError
from fracgpu.driver.names import DRIVER_NAME


class TracedApi:
    """ControllerApi that passes everything on, in spans."""

    def __init__(self, api: ControllerApi, tracer: Tracer) -> None:
        self._api = api
        self._tracer = tracer

    def list_claims(self) -> Sequence[Json]:
        """Return all ResourceClaims."""
        with self._span("list_claims") as span:
            found = self._api.list_claims()
            span.set_attribute("fracgpu.claims", len(found))
            return found

    def get_claim(self, namespace: str, name: str) -> Json:
        """Return a ResourceClaim."""
        about = {"k8s.namespace.name": namespace, "fracgpu.claim.name": name}
        with self._span("get_claim", about):
            return self._api.get_claim(namespace, name)

    def replace_claim(self, claim: Json) -> Json:
        """Mark a claim as ours."""
        with self._span("take", _about(claim)):
            return self._api.replace_claim(claim)

    def replace_claim_status(self, claim: Json) -> Json:
        """Write an allocation, or take it back."""
        allocation = (claim.get("status") or {}).get("allocation")
        with self._span("allocate" if allocation else "release", _about(claim)):
            return self._api.replace_claim_status(claim)

    def replace_quota_status(self, quota: Json) -> Json:
        """Replace a FractionQuota's status."""
        metadata = quota.get("metadata") or {}
        about = {
            "k8s.namespace.name": str(metadata.get("namespace", "")),
            "fracgpu.quota": str(metadata.get("name", "")),
        }
        with self._span("report_quota", about):
            return self._api.replace_quota_status(quota)

    def lease_holder(self) -> str:
        """Return who holds the Lease."""
        with self._span("ask_lease"):
            return self._api.lease_holder()

    def keeps_capacity(self) -> bool:
        """Tell whether the server keeps capacity."""
        with self._span("probe_capacity"):
            return self._api.keeps_capacity()

    @contextmanager
    def _span(self, name: str, about: dict[str, Any] | None = None) -> Iterator[Span]:
        with self._tracer.start_as_current_span(f"fracgpu.{name}", attributes=about, record_exception=False) as span:
            try:
                yield span
                span.set_attribute("fracgpu.outcome", "ok")
            except ClusterError as error:
                span.set_attribute("fracgpu.outcome", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                raise


def _about(claim: Json) -> dict[str, Any]:
    metadata = claim.get("metadata") or {}
    about: dict[str, Any] = {
        "k8s.namespace.name": str(metadata.get("namespace", "")),
        "fracgpu.claim.name": str(metadata.get("name", "")),
        "fracgpu.claim.uid": str(metadata.get("uid", "")),
    }
    devices = ((claim.get("status") or {}).get("allocation") or {}).get("devices") or {}
    ours = [result for result in devices.get("results") or () if result.get("driver") == DRIVER_NAME]
    if ours:
        about["fracgpu.pool"] = str(ours[0].get("pool", ""))
        about["fracgpu.devices"] = tuple(str(result.get("device", "")) for result in ours)
    return about
