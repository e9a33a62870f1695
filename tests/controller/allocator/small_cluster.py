"""A cluster of a few objects with one allocator that leads and is told everything at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from fracgpu.controller.allocator.allocator import Allocator, AllocatorOptions
from fracgpu.controller.allocator.world import Owner
from fracgpu.driver.names import CLASS_FRACTION
from tests.controller.allocator.simulation import cluster
from tests.controller.allocator.simulation.replica import Notes
from tests.controller.allocator.simulation.store import Store, Watch, copied

Json = dict[str, Any]


class DirectApi:
    """ControllerApi on the store. `refuse` holds errors that the next writes of a kind raise instead of writing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.refuse: dict[str, list[Exception]] = {"metadata": [], "status": []}

    def list_claims(self) -> Sequence[Json]:
        return [copied(claim) for claim in self.store.all("resourceclaims")]

    def get_claim(self, namespace: str, name: str) -> Json:
        return copied(self.store.get("resourceclaims", namespace, name))

    def lease_holder(self) -> str:
        return self.store.lease_holder

    def keeps_capacity(self) -> bool:
        return self.store.keeps_capacity

    def replace_claim(self, claim: Json) -> Json:
        return self._replace("metadata", claim)

    def replace_claim_status(self, claim: Json) -> Json:
        return self._replace("status", claim)

    def replace_quota_status(self, quota: Json) -> Json:
        return copied(self.store.replace("fractionquotas", quota, status=True))

    def _replace(self, kind: str, claim: Json) -> Json:
        if self.refuse[kind]:
            raise self.refuse[kind].pop(0)
        return copied(self.store.replace("resourceclaims", claim, status=kind == "status"))


class InOrder:
    """Executor that runs calls one after the other."""

    def run_all(self, calls: Sequence[Callable[[], None]]) -> None:
        for call in calls:
            call()


class SmallCluster:
    """Objects by hand. `settle` lets the allocator hear and act until it has nothing more to do at this time."""

    def __init__(self, *, owner: Owner = "controller", orphan_seconds: float = 300.0) -> None:
        self.now = 0.0
        self.store = Store(lambda _: None)
        self.store.lease_holder = "term-1"
        self.api = DirectApi(self.store)
        self.notes = Notes()
        self.store.create("deviceclasses", cluster.device_class())
        self.allocator = Allocator(
            api=self.api,
            teller=self.notes,
            metrics=self.notes,
            executor=InOrder(),
            clock=lambda: self.now,
            options=AllocatorOptions(owner=owner, orphan_seconds=orphan_seconds),
        )
        self._watch = Watch(self.store)
        for change in self._watch.first:
            self.allocator.observe(change)
        self._created = itertools.count(1)
        self._owner = owner

    def node(self, name: str, *gib: int, **changes: Any) -> None:
        """Add a node with GPUs of so many GiB; `changes` replace members of its spec."""
        node = cluster.node(name)
        node["spec"] |= changes
        self.store.create("nodes", node)
        devices = [cluster.device(number, size) for number, size in enumerate(gib)]
        for device in devices:
            device["attributes"]["allocator"] = {"string": self._owner}
        self.store.create("resourceslices", cluster.slice_of(name, devices))

    def claim(
        self, name: str, memory: str = "4Gi", *, annotations: dict[str, str] | None = None, **exactly: Any
    ) -> Json:
        """Add a claim with one request; `exactly` are further members of it."""
        body = {
            "deviceClassName": CLASS_FRACTION,
            "allocationMode": "ExactCount",
            "count": 1,
            "capacity": {"requests": {"memory": memory}},
        }
        meta: Json = {"name": name, "namespace": "default"}
        if annotations:
            meta["annotations"] = annotations
        claim = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": meta,
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {**body, **exactly}}]}},
        }
        return self.store.create("resourceclaims", claim)

    def pod(self, name: str, *claims: str, **spec: Any) -> Json:
        """Add a pod that uses claims; each is younger than those before."""
        pod = cluster.pod(name, list(claims))
        pod["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{next(self._created):02d}Z"
        pod["spec"] |= spec
        return self.store.create("pods", pod)

    def settle(self, *, rounds: int = 6) -> None:
        for _ in range(rounds):
            for resource in self._watch.lagging():
                while resource in self._watch.lagging():
                    self.allocator.observe(self._watch.take(resource))
            self.allocator.step("term-1")

    def place_of(self, claim: str) -> str:
        """Return `node/device` of each result of a claim, joined by commas; empty when it is not allocated."""
        status = self.store.get("resourceclaims", "default", claim).get("status") or {}
        results = (status.get("allocation") or {"devices": {"results": []}})["devices"]["results"]
        return ",".join(f"{result['pool']}/{result['device']}" for result in results)

    def told(self, resource: str, name: str, reason: str) -> str:
        """Return what was last told about an object for a reason, empty when nothing was."""
        uid = self.store.get(resource, "default", name)["metadata"]["uid"]
        return self.notes.told.get((uid, reason), "")

    def set_status(self, claim: str, **members: Any) -> None:
        """Set members of a claim's status; None removes one."""

        def edit(body: Json) -> None:
            for member, value in members.items():
                if value is None:
                    body.setdefault("status", {}).pop(member, None)
                else:
                    body.setdefault("status", {})[member] = value

        self.store.change("resourceclaims", self.store.get("resourceclaims", "default", claim), edit, status=True)
