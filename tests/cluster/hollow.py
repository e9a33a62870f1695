"""Nodes that are objects only, each with GPUs published as the plugin publishes them, and what plays their kubelet.

For control planes without a node (lone_plane.py): kube-scheduler, kube-controller-manager and our controller do their
whole work there. Nothing runs on a hollow node. Whoever plays its kubelet says of every pod bound to it that it runs;
no container is started, nothing is prepared, no limit is enforced.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from fracgpu.driver.amounts import Allocator
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import DEFAULT_SLOTS_PER_GPU, GpuUuid
from fracgpu.driver.quantity import MIB
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.publish.slices import build_slice
from fracgpu.sim.node.api import KubeApi
from fracgpu.sim.node.errors import ClaimNotNamed
from fracgpu.sim.node.pod_claims import pod_claims
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError, WatchStream

Json = dict[str, Any]
NODES: Final = "/api/v1/nodes"
SLICES: Final = "/apis/resource.k8s.io/v1/resourceslices"
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
# kube-controller-manager gives a node 50 s.
_BEAT_S: Final = 10.0
_REST_S: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class HollowNode:
    """What a node and its GPUs look like; nothing is created by it.

    `taints` and `unschedulable` are the node's, in the form of the API; the scales and `slots` the plugin's options.
    """

    name: str
    gpus: Sequence[Gpu] = ()
    allocator: Allocator = "controller"
    cpu: str = "8"
    memory: str = "32Gi"
    pods: str = "110"
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Json] = ()
    unschedulable: bool = False
    memory_scale: Decimal = Decimal(1)
    cores_scale: Decimal = Decimal(1)
    slots: int = DEFAULT_SLOTS_PER_GPU

    def node(self) -> Json:
        """Return the Node as a kubelet registers it: ready, with what it has to give."""
        resources = {"cpu": self.cpu, "memory": self.memory, "pods": self.pods, "ephemeral-storage": "100Gi"}
        spec: Json = {"taints": list(self.taints)} if self.taints else {}
        if self.unschedulable:
            spec["unschedulable"] = True
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", **self.labels}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hollow", **_beat()}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels},
            "spec": spec,
            "status": {"capacity": resources, "allocatable": resources, "conditions": [ready]},
        }

    def settled(self) -> Json:
        """Return a merge patch: the taints as kube-controller-manager leaves them, which takes it a while.

        Every node is created with the taint of one that is not ready.
        """
        cordoned = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
        return {"spec": {"taints": [*self.taints, *([cordoned] if self.unschedulable else [])]}}

    def slice(self, node_uid: str) -> Json:
        """Return the ResourceSlice that the plugin of this node would publish."""
        options = PluginOptions(
            node_name=self.name,
            allocator=self.allocator,
            memory_scale=self.memory_scale,
            cores_scale=self.cores_scale,
            slots=self.slots,
        )
        return build_slice(self.gpus, options, node_uid=node_uid)


def card(number: int, product: str = "NVIDIA L40S", mib: int = 46068, **changes: Any) -> Gpu:
    """Return a GPU; `number` makes it different from all others of the cluster."""
    known: Json = {
        "uuid": GpuUuid(f"GPU-{number:08x}-0000-4000-8000-{number:012x}"),
        "product_name": product,
        "brand": "Nvidia",
        "architecture": "Ada",
        "pci_bus_id": f"0000:{number % 256:02x}:00.0",
        "pcie_root": f"pci0000:{number % 256:02x}",
        "numa_node": 0,
        "memory_total_bytes": mib * MIB,
        "minor_number": number % 16,
        "index": number % 16,
        "driver_version": "580.65.6",
        "cuda_driver_version": "13.0.0",
        "compute_capability": "8.9.0",
    }
    return Gpu(**{**known, **changes})


def create_node(api: KubeApi, hollow: HollowNode) -> Json:
    """Create the node and its slice; return the slice as stored."""
    node = api.create(NODES, hollow.node())
    api.merge_patch(f"{NODES}/{hollow.name}", hollow.settled())
    return api.create(SLICES, hollow.slice(node["metadata"]["uid"]))


def is_settled(node: Json) -> bool:
    """Tell whether a node is without the taint that every node is created with."""
    return not any(taint["key"] == "node.kubernetes.io/not-ready" for taint in node["spec"].get("taints", []))


class HollowKubelet:
    """Plays the kubelet of hollow nodes in threads of its own; a context manager.

    A pod that is bound to one of them is Running as soon as all its claims are reserved for it, as a kubelet asks it
    to be, and gone when it is deleted. It ends by itself only when `finish` is called.
    """

    def __init__(self, api: KubeApi, nodes: Sequence[str]) -> None:
        """Use the API as administrator; nothing is sent yet."""
        self._api, self._nodes = api, set(nodes)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._watch: WatchStream | None = None
        self._threads = [threading.Thread(target=self._follow), threading.Thread(target=self._beat)]
        self._failures: list[str] = []

    def __enter__(self) -> HollowKubelet:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; raises AssertionError if the API refused anything that a kubelet does."""
        self._stop.set()
        with self._lock:
            if self._watch:
                self._watch.close()
        for thread in self._threads:
            thread.join()
        assert not self._failures, self._failures

    def add(self, *nodes: str) -> None:
        """Play the kubelet of further nodes, too."""
        self._nodes.update(nodes)

    def lose(self, node: str) -> None:
        """Play this node's kubelet no longer: its pods stay as they are, nobody beats for it."""
        self._nodes.discard(node)

    def finish(self, name: str, namespace: str, phase: str = "Succeeded") -> None:
        """Let a pod's containers end."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
        self._api.merge_patch(path, {"status": {"phase": phase, "conditions": _conditions("False")}})

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                listed = self._api.get("/api/v1/pods")
                for pod in listed["items"]:
                    self._look(pod)
                self._watch_from(listed["metadata"]["resourceVersion"])
            except (ApiRefusedError, ApiUnreachableError):
                # The control plane restarts, or the watch is too old: list again.
                self._stop.wait(_REST_S)

    def _watch_from(self, version: str) -> None:
        watch = self._api.watch("/api/v1/pods", {"resourceVersion": version})
        with self._lock:
            self._watch = watch
        with contextlib.closing(watch):
            if self._stop.is_set():
                return
            for kind, pod in watch:
                if kind in ("ADDED", "MODIFIED"):
                    self._look(pod)

    def _look(self, pod: Json) -> None:
        if pod["spec"].get("nodeName") not in self._nodes:
            return
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        try:
            if "deletionTimestamp" in metadata:
                self._api.delete(path, {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}})
            elif pod["status"]["phase"] == "Pending" and self._has_claims(pod):
                status = {"phase": "Running", "startTime": _now(), "conditions": _conditions("True")}
                self._api.merge_patch(f"{path}/status", {"metadata": {"uid": metadata["uid"]}, "status": status})
        except ApiRefusedError as error:
            # 404, 409: it is another pod by now, or none.
            if error.code not in (404, 409):
                self._failures.append(str(error))

    def _has_claims(self, pod: Json) -> bool:
        try:
            claims = pod_claims(pod)
        except ClaimNotNamed:
            return False
        for one in claims:
            namespace = pod["metadata"]["namespace"]
            claim = self._api.get(f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{one.claim}")
            users = [user["uid"] for user in claim.get("status", {}).get("reservedFor", [])]
            if pod["metadata"]["uid"] not in users:
                return False
        return True

    def _beat(self) -> None:
        while True:
            for node in sorted(self._nodes):
                with contextlib.suppress(ApiRefusedError, ApiUnreachableError):
                    self._renew(node)
            if self._stop.wait(_BEAT_S):
                return

    def _renew(self, node: str) -> None:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": node, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": _now(micro=True)},
        }
        try:
            self._api.merge_patch(f"{_LEASES}/{node}", {"spec": body["spec"]})
        except ApiRefusedError as error:
            if error.code != 404:
                raise
            self._api.create(_LEASES, body)


@contextlib.contextmanager
def hollow_nodes(api: KubeApi, *nodes: HollowNode) -> Iterator[HollowKubelet]:
    """Create nodes, play their kubelet, and remove them."""
    for hollow in nodes:
        create_node(api, hollow)
    with HollowKubelet(api, [hollow.name for hollow in nodes]) as kubelet:
        try:
            yield kubelet
        finally:
            for hollow in nodes:
                remove_node(api, hollow.name)


def remove_node(api: KubeApi, name: str) -> None:
    """Delete a node with its slices; harmless when it is gone."""
    for item in api.get(f"{SLICES}?fieldSelector=spec.nodeName%3D{name}")["items"]:
        with contextlib.suppress(ApiRefusedError):
            api.delete(f"{SLICES}/{item['metadata']['name']}")
    with contextlib.suppress(ApiRefusedError):
        api.delete(f"{NODES}/{name}")


def _now(*, micro: bool = False) -> str:
    now = datetime.datetime.now(datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _beat() -> Json:
    return {"lastHeartbeatTime": _now(), "lastTransitionTime": _now()}


def _conditions(status: str) -> list[Json]:
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    return [
        {
            "type": kind,
            "status": "True" if kind in ("Initialized", "PodScheduled") else status,
            "lastTransitionTime": _now(),
        }
        for kind in kinds
    ]
