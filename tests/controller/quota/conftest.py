"""Quotas, claims and an API server that keeps the statuses of quotas."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fracgpu.controller.quota.book import QuotaKey, key_of
from fracgpu.driver.kube.errors import ClusterError, Conflict, NotFound

Json = dict[str, Any]


def make_quota(name: str = "q", namespace: str = "team", **hard: Any) -> Json:
    """Return a FractionQuota as the API server has stored it."""
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 1}
    return {"metadata": metadata, "spec": {"hard": hard}}


class StatusServer:
    """Stores quotas as an API server does: by resourceVersion."""

    def __init__(self) -> None:
        self.objects: dict[QuotaKey, Json] = {}
        self.writes: list[Json] = []
        self.failure: ClusterError | None = None

    def store(self, quota: Json) -> Json:
        """Create or change a quota from elsewhere; return it with its new resourceVersion."""
        known = self.objects.get(key_of(quota))
        version = int(known["metadata"]["resourceVersion"]) + 1 if known else 1
        stored = copy.deepcopy(quota)
        stored["metadata"]["resourceVersion"] = str(version)
        if known and "status" in known:
            stored.setdefault("status", known["status"])
        self.objects[key_of(quota)] = stored
        return copy.deepcopy(stored)

    def replace_quota_status(self, quota: Json) -> Json:
        """Replace a status."""
        self.writes.append(quota)
        if self.failure is not None:
            raise self.failure
        known = self.objects.get(key_of(quota))
        if known is None:
            raise NotFound("quota", "is not there", remedy="-")
        if known["metadata"]["resourceVersion"] != quota["metadata"]["resourceVersion"]:
            raise Conflict("quota", "is newer", remedy="-")
        return self.store(known | {"status": quota["status"]})


class Serial:
    """Runs calls one after another."""

    def run_all(self, calls: Sequence[Callable[[], None]]) -> None:
        """Run them."""
        for call in calls:
            call()


@pytest.fixture
def server() -> StatusServer:
    return StatusServer()
