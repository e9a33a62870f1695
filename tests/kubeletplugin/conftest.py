"""A node in a temporary directory, and an API server in memory."""

# ruff: noqa: ARG002 (the stand-ins have the signatures of what they stand for)

import copy
import fcntl
import os
import queue
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fracgpu.driver.gpu import Gpu
from fracgpu.driver.inventory import GpuMemory, GpuProcess
from fracgpu.driver.kube.errors import Conflict, NotFound
from fracgpu.driver.names import API_VERSION, CONFIG_KIND, DRIVER_NAME, ClaimUid, GpuUuid
from fracgpu.kubeletplugin.api.cluster import SliceEvent, SliceList
from fracgpu.kubeletplugin.janitor.janitor import GRACE_SECONDS, Janitor
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore, ClaimEntry
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.preparer import ClaimPreparer
from tests.cdi.conftest import elf_library

GIB = 1024**3
DRIVER_VERSION = "580.65.06"
LIBRARY_DIRECTORY = "usr/lib/x86_64-linux-gnu"


def make_gpu(number: int, **changes: Any) -> Gpu:
    digits = str(number + 1)
    gpu = Gpu(
        uuid=GpuUuid(f"GPU-{digits * 8}-{digits * 4}-{digits * 4}-{digits * 4}-{digits * 12}"),
        product_name="NVIDIA L40S",
        brand="Nvidia",
        architecture="Ada",
        pci_bus_id=f"0000:0{number}:00.0",
        pcie_root="pci0000:00",
        numa_node=0,
        memory_total_bytes=44 * GIB + 5,
        minor_number=number,
        index=number,
        driver_version="580.65.6",
        cuda_driver_version="13.0.0",
        compute_capability="8.9.0",
    )
    return replace(gpu, **changes)


class FakeInventory:
    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = gpus

    def list_gpus(self) -> tuple[Gpu, ...]:
        return self.gpus

    def processes(self, uuid: GpuUuid) -> tuple[GpuProcess, ...]:
        return ()

    def memory(self, uuid: GpuUuid) -> GpuMemory:
        return GpuMemory(total=44 * GIB, used=0, free=44 * GIB)


class FakeCluster:
    """ClusterApi in memory. `drops` are field names that it drops anywhere in a slice, `fails` errors to raise next."""

    def __init__(self) -> None:
        self.claims: dict[tuple[str, str], dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, Any]] = {"n1": {"metadata": {"name": "n1", "uid": "node-uid-1"}}}
        self.slices: dict[str, dict[str, Any]] = {}
        self.drops: set[str] = set()
        self.fails: list[Exception] = []
        self.calls: list[str] = []
        self.version = 0
        self.watchers: list[queue.Queue[SliceEvent | None]] = []
        self.watching = threading.Event()

    def get_claim(self, namespace: str, name: str, *, timeout_seconds: float | None = None) -> dict[str, Any]:
        self._fail()
        if (namespace, name) not in self.claims:
            raise NotFound(f"claim {namespace}/{name}", "not found", remedy="create it")
        return copy.deepcopy(self.claims[namespace, name])

    def get_node(self, name: str) -> dict[str, Any]:
        self._fail()
        if name not in self.nodes:
            raise NotFound(f"node {name}", "not found", remedy="create it")
        return copy.deepcopy(self.nodes[name])

    def list_slices(self, node_name: str) -> SliceList:
        return SliceList(tuple(copy.deepcopy(list(self.slices.values()))), str(self.version))

    def watch_slices(self, node_name: str, resource_version: str) -> Iterator[SliceEvent]:
        events: queue.Queue[SliceEvent | None] = queue.Queue()
        self.watchers.append(events)
        self.watching.set()
        while (event := events.get()) is not None:
            yield event

    def create_slice(self, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        self.calls.append("dry-run create" if dry_run else "create")
        name = body["metadata"]["name"]
        if name in self.slices:
            raise Conflict(f"slice {name}", "already exists", remedy="read it")
        return self._store(body, dry_run=dry_run, kind="ADDED")

    def replace_slice(self, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        self.calls.append("dry-run replace" if dry_run else "replace")
        current = self.slices.get(body["metadata"]["name"])
        if current is None:
            raise NotFound("slice", "not found", remedy="create it")
        if current["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict("slice", "was changed", remedy="read it")
        return self._store(body, dry_run=dry_run, kind="MODIFIED")

    def delete_slice(self, name: str) -> None:
        self.calls.append("delete")
        if name not in self.slices:
            raise NotFound("slice", "not found", remedy="nothing")
        self._emit(SliceEvent("DELETED", self.slices.pop(name)))

    def end_watches(self) -> None:
        for events in self.watchers:
            events.put(None)

    def _store(self, body: dict[str, Any], *, dry_run: bool, kind: str) -> dict[str, Any]:
        self._fail()
        stored = drop(copy.deepcopy(body), self.drops)
        self.version += 1
        stored["metadata"]["resourceVersion"] = str(self.version)
        if not dry_run:
            self.slices[stored["metadata"]["name"]] = stored
            self._emit(SliceEvent(kind, copy.deepcopy(stored)))
        return copy.deepcopy(stored)

    def _emit(self, event: SliceEvent) -> None:
        for events in self.watchers:
            events.put(event)

    def _fail(self) -> None:
        if self.fails:
            raise self.fails.pop(0)


def drop(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: drop(item, names) for key, item in value.items() if key not in names}
    if isinstance(value, list):
        return [drop(item, names) for item in value]
    return value


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Holder:
    """A process that uses a state file, as far as the host can tell: the lock of a slot, through an open file."""

    def __init__(self, path: Path, offset: int = 4096) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        lock = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, lock)

    def end(self) -> None:
        os.close(self._descriptor)


class World:
    """One node: its options, GPUs, driver root, and the claims in its cluster."""

    def __init__(self, root: Path) -> None:
        self.root = root
        driver = root / "driver"
        libraries = driver / LIBRARY_DIRECTORY
        libraries.mkdir(parents=True)
        for stem in ("libcuda", "libnvidia-ml"):
            (libraries / f"{stem}.so.{DRIVER_VERSION}").write_bytes(elf_library(f"{stem}.so.1"))
            (libraries / f"{stem}.so.1").symlink_to(f"{stem}.so.{DRIVER_VERSION}")
        (driver / "dev").mkdir()
        for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
            (driver / "dev" / node).touch()
        natives = root / "natives"
        natives.mkdir()
        self.libraries = (natives / "libcuda.so.1", natives / "libnvidia-ml.so.1")
        for library in self.libraries:
            library.write_bytes(b"shim " + library.name.encode())
        self.options = PluginOptions(
            node_name="n1",
            driver_root=driver,
            dev_root=driver,
            plugin_dir=root / "plugin",
            registry_dir=root / "registry",
            cdi_dir=root / "cdi",
            state_dir=root / "state",
            run_dir=root / "run",
        )
        self.inventory = FakeInventory(make_gpu(0), make_gpu(1))
        self.cluster = FakeCluster()
        self.clock = Clock()

    def gpu(self, number: int, **changes: Any) -> Gpu:
        return make_gpu(number, **changes)

    def configure(self, **changes: Any) -> None:
        self.options = replace(self.options, **changes)

    def preparer(self, files: Files | None = None) -> ClaimPreparer:
        return ClaimPreparer(
            options=self.options,
            cluster=self.cluster,
            inventory=self.inventory,
            libraries=self.libraries,
            machine="x86_64",
            files=files,
        )

    def janitor(self, preparer: ClaimPreparer | None = None, **changes: Any) -> Janitor:
        """A janitor to which every process of this machine has no mounts, unless `proc` says otherwise."""
        proc = self.root / "proc"
        proc.mkdir(exist_ok=True)
        digest = (preparer or self.preparer()).library_digest
        settings: dict[str, Any] = {"proc": proc, "clock": self.clock} | changes
        return Janitor(options=self.options, cluster=self.cluster, library_digest=digest, **settings)

    def wait_and_sweep(self, janitor: Janitor) -> int:
        """Two sweeps, the grace time apart."""
        first = janitor.sweep()
        self.clock.seconds += GRACE_SECONDS
        return first + janitor.sweep()

    def entries(self) -> dict[str, ClaimEntry]:
        """What the checkpoint on the disk says."""
        return dict(CheckpointStore(self.options.state_dir / "checkpoint.json", Files()).load().entries)

    def claim(self, name: str = "c1", *shares: dict[str, Any], **changes: Any) -> ClaimRef:
        """Put an allocated claim into the cluster and return its reference; by default one share of 8Gi."""
        ref = ClaimRef("ns", name, ClaimUid(changes.pop("uid", str(uuid.uuid5(uuid.NAMESPACE_DNS, name)))))
        body = claim_json(ref, shares or ({},), **changes)
        self.cluster.claims[ref.namespace, ref.name] = body
        return ref

    def change(self, ref: ClaimRef) -> dict[str, Any]:
        """Return the claim as stored, to be altered in place."""
        return self.cluster.claims[ref.namespace, ref.name]

    def residue(self) -> list[str]:
        """Everything on the disk that belongs to some claim."""
        places = (self.options.cdi_dir, self.options.run_dir / "allocations")
        return sorted(str(path.relative_to(self.root)) for place in places for path in place.rglob("*"))

    def spec(self, ref: ClaimRef) -> bytes:
        return (self.options.cdi_dir / f"{DRIVER_NAME}-claim_{ref.uid}.json").read_bytes()

    def allocation(self, ref: ClaimRef, suffix: str = "gpu-gpu-11111111-0") -> Path:
        return self.options.run_dir / "allocations" / f"{ref.uid}-{suffix}"


def claim_json(
    ref: ClaimRef,
    shares: tuple[dict[str, Any], ...],
    *,
    grant: bool = True,
    class_config: dict[str, Any] | None = None,
    claim_config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A ResourceClaim as our controller allocates it where the API keeps no capacity.

    Of a share: request, pool, device, memory (bytes), cores, slots, share_id, consumed, admin.
    """
    results, granted = [], []
    for ordinal, share in enumerate(shares):
        result = {
            "request": share.get("request", "gpu"),
            "driver": share.get("driver", DRIVER_NAME),
            "pool": share.get("pool", "n1"),
            "device": share.get("device", "gpu-11111111"),
        }
        if "share_id" in share:
            result["shareID"] = share["share_id"]
        if "consumed" in share:
            result["consumedCapacity"] = share["consumed"]
        if share.get("admin"):
            result["adminAccess"] = True
        results.append(result)
        amounts = {
            "memoryBytes": share.get("memory", 8 * GIB),
            "cores": share.get("cores", 30),
            "slots": share.get("slots", 1),
        }
        granted.append({k: result[k] for k in ("request", "pool", "device")} | {"ordinal": ordinal} | amounts)
    config = []
    if class_config is not None:
        config.append(opaque("FromClass", {"apiVersion": API_VERSION, "kind": CONFIG_KIND, **class_config}))
    if claim_config is not None:
        config.append(opaque("FromClaim", {"apiVersion": API_VERSION, "kind": CONFIG_KIND, **claim_config}))
    if grant:
        config.append(opaque("FromClass", {"apiVersion": API_VERSION, "kind": "FractionGrant", "results": granted}))
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"namespace": ref.namespace, "name": ref.name, "uid": ref.uid},
        "spec": {"devices": {"requests": []}},
        "status": {"allocation": {"devices": {"results": results, "config": config}}},
    }


def opaque(source: str, parameters: object, requests: list[str] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"source": source, "opaque": {"driver": DRIVER_NAME, "parameters": parameters}}
    if requests is not None:
        entry["requests"] = requests
    return entry


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[[], World]:
    """Returns a function that makes a new node each time (hypothesis runs one test many times)."""
    made = 0

    def make() -> World:
        nonlocal made
        made += 1
        root = tmp_path / str(made)
        root.mkdir()
        return World(root)

    return make


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    """Returns a function that lets a process use a state file until its `end()`, or the end of the test."""
    holders: list[Holder] = []

    def take(path: Path, offset: int = 4096) -> Holder:
        holders.append(Holder(path, offset))
        return holders[-1]

    yield take
    for holder in holders:
        with suppress(OSError):
            holder.end()


@pytest.fixture
def make_claim_json() -> Any:
    return claim_json


@pytest.fixture
def make_opaque() -> Any:
    return opaque
