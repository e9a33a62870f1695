"""Everybody else in the simulated cluster: users, kube-scheduler, kube-controller-manager, nodes that come and go."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable
from typing import Any, Final

from fracgpu.driver.kube.errors import Conflict, NotFound
from fracgpu.driver.names import API_VERSION, CLASS_FRACTION, CONFIG_KIND, DRIVER_NAME, FINALIZER
from tests.controller.allocator.simulation.store import Store

Json = dict[str, Any]
GIB: Final = 1 << 30
SELECTOR: Final = f"device.driver == '{DRIVER_NAME}'"


class Cluster:
    """Acts on the store at random; each method is one thing that happens at once."""

    def __init__(self, store: Store, dice: random.Random, nodes: int) -> None:
        self.store = store
        self.dice = dice
        self._numbers = itertools.count(1)
        self._slices = {f"n{number}": _slice(f"n{number}", dice) for number in range(1, nodes + 1)}
        store.create("deviceclasses", device_class())
        for name in self._slices:
            self._bring(name)

    def something_happens(self) -> None:
        """Let one thing happen."""
        happenings: list[Callable[[], None]] = [self.pod_appears] * 3 + [
            self.scheduler_looks,
            self.scheduler_looks,
            self.scheduler_takes_back,
            self.pod_ends,
            self.controller_manager_tidies,
            self.controller_manager_tidies,
            self.node_goes_or_comes,
        ]
        # Whoever finds that somebody was faster tries again some time.
        with contextlib.suppress(Conflict, NotFound):
            self.dice.choice(happenings)()

    def pod_appears(self) -> None:
        number = next(self._numbers)
        names = []
        for part in range(self.dice.choice([1, 1, 2])):
            name = f"c{number}-{part}"
            self.store.create("resourceclaims", self._claim(name))
            names.append(name)
        self.store.create("pods", pod(f"p{number}", names))

    def _claim(self, name: str) -> Json:
        requests, config = [], []
        for position in range(self.dice.choice([1, 1, 1, 1, 2])):
            amounts = {"memory": f"{self.dice.choice([2, 4, 6, 8])}Gi", "cores": str(self.dice.choice([0, 10, 30, 60]))}
            exactly: Json = {
                "deviceClassName": CLASS_FRACTION,
                "allocationMode": "ExactCount",
                "count": self.dice.choice([1, 1, 1, 1, 1, 2]),
                "capacity": {"requests": amounts},
            }
            requests.append({"name": f"r{position}", "exactly": exactly})
            config.append(_config(f"r{position}", amounts))
            if not self.store.keeps_capacity:
                del exactly["capacity"]
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"devices": {"requests": requests, "config": config}},
        }

    def scheduler_looks(self) -> None:
        """Reserve the claims of a pod that has all of them on one node, then bind it."""
        for pod in self._pods(bound=False):
            claims = [self.store.get("resourceclaims", "default", name) for name in _claims_named(pod)]
            nodes = {_node_of(claim) for claim in claims}
            if len(nodes) == 1 and (node := nodes.pop()) and self._has_node(node):
                entry = {"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
                for claim in claims:
                    self.store.change("resourceclaims", claim, _reserving(entry), status=True)
                self.store.change("pods", pod, _binding(node))
                return

    def scheduler_takes_back(self) -> None:
        """Deallocate an unreserved claim of a pod that waits."""
        for pod in self._pods(bound=False):
            for name in _claims_named(pod):
                claim = self.store.get("resourceclaims", "default", name)
                status = claim.get("status") or {}
                if status.get("allocation") and not status.get("reservedFor"):
                    self.store.change("resourceclaims", claim, _deallocating, status=True)
                    return

    def pod_ends(self) -> None:
        pods = self.store.all("pods")
        if pods:
            self.store.delete("pods", self.dice.choice(pods))

    def controller_manager_tidies(self) -> None:
        """Drop consumers that are gone, deallocate, and delete the claims of pods that are gone."""
        uids = {pod["metadata"]["uid"] for pod in self.store.all("pods")}
        used = {name for pod in self.store.all("pods") for name in _claims_named(pod)}
        for claim in self.store.all("resourceclaims"):
            status = claim.get("status") or {}
            reserved = status.get("reservedFor") or []
            if any(entry["uid"] not in uids for entry in reserved):
                self.store.change("resourceclaims", claim, _deallocating, status=True)
                return
            if claim["metadata"]["name"] not in used and not reserved and self.dice.random() < 0.5:
                self._delete_claim(claim)
                return

    def _delete_claim(self, claim: Json) -> None:
        self.store.delete("resourceclaims", claim)
        left = self.store.objects.get(("resourceclaims", "default", claim["metadata"]["name"]))
        if left is not None:
            if (left.get("status") or {}).get("allocation"):
                left = self.store.change("resourceclaims", left, _deallocating, status=True)
            self.store.change("resourceclaims", left, lambda body: body["metadata"].update(finalizers=[]))

    def node_goes_or_comes(self) -> None:
        name = self.dice.choice(sorted(self._slices))
        if self._has_node(name):
            for resource in ("resourceslices", "nodes"):
                self.store.delete(resource, self.store.get(resource, "", name))
        else:
            self._bring(name)

    def all_nodes_come(self) -> None:
        for name in self._slices:
            if not self._has_node(name):
                self._bring(name)

    def slices(self) -> list[Json]:
        """Return the slices of all nodes, there or not: allocations outlive a node that goes and comes back."""
        return list(self._slices.values())

    def waiting(self) -> list[Json]:
        return self._pods(bound=False)

    def _pods(self, *, bound: bool) -> list[Json]:
        pods = [pod for pod in self.store.all("pods") if bool(pod["spec"].get("nodeName")) == bound]
        return self.dice.sample(pods, len(pods))

    def _has_node(self, name: str) -> bool:
        return ("nodes", "", name) in self.store.objects

    def _bring(self, name: str) -> None:
        self.store.create("nodes", node(name))
        self.store.create("resourceslices", self._slices[name])


def _config(request: str, amounts: Json) -> Json:
    parameters = {
        "apiVersion": API_VERSION,
        "kind": CONFIG_KIND,
        "memory": amounts["memory"],
        "cores": int(amounts["cores"]),
    }
    return {"requests": [request], "opaque": {"driver": DRIVER_NAME, "parameters": parameters}}


def _claims_named(pod: Json) -> list[str]:
    return [entry["resourceClaimName"] for entry in pod["spec"]["resourceClaims"]]


def _node_of(claim: Json) -> str:
    allocation = (claim.get("status") or {}).get("allocation")
    if not allocation:
        return ""
    node: str = allocation["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
    return node


def _reserving(entry: Json) -> Callable[[Json], None]:
    def edit(body: Json) -> None:
        reserved = body["status"].setdefault("reservedFor", [])
        if entry not in reserved:
            reserved.append(entry)

    return edit


def _binding(node: str) -> Callable[[Json], None]:
    def edit(body: Json) -> None:
        body["spec"]["nodeName"] = node

    return edit


def _deallocating(body: Json) -> None:
    assert FINALIZER in body["metadata"]["finalizers"], "an allocation without the finalizer is never taken back"
    body["status"].pop("allocation", None)
    body["status"].pop("reservedFor", None)


def pod(name: str, claims: list[str]) -> Json:
    entries = [{"name": f"own-{claim}", "resourceClaimName": claim} for claim in claims]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "main"}], "resourceClaims": entries},
        "status": {"phase": "Pending"},
    }


def node(name: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"},
        },
    }


def _slice(node: str, dice: random.Random) -> Json:
    return slice_of(node, [device(number, dice.choice([8, 16])) for number in range(dice.choice([1, 2]))])


def slice_of(node: str, devices: list[Json]) -> Json:
    """Return the one ResourceSlice of a node."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": node},
        "spec": {
            "driver": DRIVER_NAME,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": devices,
        },
    }


def device(number: int, gib: int) -> Json:
    return {
        "name": f"gpu-{number:08x}",
        "allowMultipleAllocations": True,
        "attributes": {
            "allocator": {"string": "controller"},
            "uuid": {"string": f"GPU-{number:08x}-0000-0000-0000-000000000000"},
            "physicalMemoryMiB": {"int": gib * 1024},
            "oversubscribed": {"bool": False},
        },
        "capacity": {"memory": {"value": f"{gib}Gi"}, "cores": {"value": "100"}, "slots": {"value": "4"}},
    }


def device_class() -> Json:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": CLASS_FRACTION},
        "spec": {"selectors": [{"cel": {"expression": SELECTOR}}]},
    }
