"""What the controller's memory of a large cluster costs: 1250 nodes with 8 GPUs each, 50000 live allocations.

    python -m bench.controller.world [--json bench/results/controller-world.json]

From the text that an API server would send as lists, to a world that answers; then pods that come, each decided as the
allocator decides it (claims read, nodes asked, placed, counted). No API server: how fast writes are is another
benchmark (bench.controller.allocation_rate).
"""

import argparse
import datetime
import json
import os
import platform
import random
import resource
import statistics
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fracgpu.controller.allocator.exclusions import Exclusions
from fracgpu.controller.allocator.planner import Place, Planner
from fracgpu.controller.allocator.world import World
from fracgpu.controller.fit.views import PlacedDevice
from fracgpu.controller.objects.allocation import build_allocation
from fracgpu.controller.ports import Change
from fracgpu.driver.amounts import Amounts
from fracgpu.driver.names import CLASS_FRACTION, DRIVER_NAME

Json = dict[str, Any]
NODES = 1250
GPUS = 8
CLAIMS = 50_000
PODS = 2_000
SEED = 7
GIB = 1 << 30
CHUNK = 500
CLASS = f"device.driver == '{DRIVER_NAME}' && device.attributes['{DRIVER_NAME}'].?allocator.orValue('') == 'scheduler'"


def device_class() -> Json:
    """Return the shipped class."""
    return meta("DeviceClass", CLASS_FRACTION, {"spec": {"selectors": [{"cel": {"expression": CLASS}}]}}, namespace="")


def meta(kind: str, name: str, members: Json, *, namespace: str = "default") -> Json:
    """Return an object as the API server sends it, managed fields left out."""
    own = {"name": name, "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{kind}/{name}")), "resourceVersion": "1000"}
    if namespace:
        own["namespace"] = namespace
    return {"apiVersion": "v1", "kind": kind, "metadata": own, **members}


def node(number: int) -> Json:
    """Return a node that is ready and has room."""
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "allocatable": {"cpu": "192", "memory": "2Ti", "pods": "250"},
    }
    return meta("Node", f"node-{number:04}", {"spec": {}, "status": status}, namespace="")


def slice_of(number: int) -> Json:
    """Return the slice of a node with 8 cards of 80 GiB."""
    devices = [
        {
            "name": f"gpu-{number:04x}{index:04x}",
            "allowMultipleAllocations": True,
            "attributes": {
                "allocator": {"string": "controller"},
                "uuid": {"string": f"GPU-{number:04x}{index:04x}-0000-0000-0000-000000000000"},
                "productName": {"string": "NVIDIA H100 80GB HBM3"},
                "physicalMemoryMiB": {"int": 80 * 1024},
                "numaNode": {"int": index // 4},
                "oversubscribed": {"bool": False},
            },
            "capacity": {"memory": {"value": "80Gi"}, "cores": {"value": "100"}, "slots": {"value": "10"}},
        }
        for index in range(GPUS)
    ]
    pool = {"name": f"node-{number:04}", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": DRIVER_NAME, "nodeName": f"node-{number:04}", "pool": pool, "devices": devices}
    return meta("ResourceSlice", f"slice-{number:04}", {"spec": spec}, namespace="")


def claim(name: str, gib: int, cores: int) -> Json:
    """Return a claim for so much memory and cores."""
    exactly = {
        "deviceClassName": CLASS_FRACTION,
        "allocationMode": "ExactCount",
        "count": 1,
        "capacity": {"requests": {"memory": f"{gib}Gi", "cores": str(cores)}},
    }
    return meta("ResourceClaim", name, {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}})


def live_claims(dice: random.Random) -> Iterator[Json]:
    """Yield allocated and reserved claims, five on each GPU on average and ten at most."""
    room = {(number, index): [80, 100, 10] for number in range(NODES) for index in range(GPUS)}
    open_gpus = list(room)
    made = 0
    while made < CLAIMS:
        key = dice.choice(open_gpus)
        gib, cores = dice.choice([2, 4, 6, 8, 10, 12]), dice.choice([0, 5, 10, 15])
        left = room[key]
        if left[0] < gib or left[1] < cores or left[2] < 1:
            continue
        room[key] = [left[0] - gib, left[1] - cores, left[2] - 1]
        body = claim(f"live-{made:05}", gib, cores)
        number, index = key
        device = PlacedDevice(
            claim=body["metadata"]["uid"],
            request="gpu",
            class_name=CLASS_FRACTION,
            pool=f"node-{number:04}",
            device=f"gpu-{number:04x}{index:04x}",
            amounts=Amounts(memory_bytes=gib * GIB, cores=cores, slots=1),
        )
        allocation = build_allocation(
            body,
            f"node-{number:04}",
            [device],
            find_class=lambda _: device_class(),
            keeps_capacity=True,
            now="2026-01-01T00:00:00Z",
            share_ids=lambda: str(uuid.UUID(int=dice.getrandbits(128))),
        )
        reserved = [{"resource": "pods", "name": f"pod-{made}", "uid": str(uuid.UUID(int=made))}]
        body["status"] = {"allocation": allocation, "reservedFor": reserved}
        made += 1
        yield body


def pod(name: str, claim_name: str) -> Json:
    """Return a pod that waits for a claim."""
    spec = {
        "containers": [{"name": "main", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": claim_name}],
    }
    return meta("Pod", name, {"spec": spec, "status": {"phase": "Pending"}})


def chunks_of(items: list[Json]) -> list[bytes]:
    """Return a list as the server sends it: in chunks of 500."""
    return [json.dumps({"items": items[at : at + CHUNK]}).encode() for at in range(0, len(items), CHUNK)]


def rss_mib() -> float:
    """Return this process's resident memory now, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rebuild(lists: dict[str, list[bytes]]) -> tuple[World, float]:
    """Return a world made from lists, and the seconds that took."""
    began = time.perf_counter()
    world = World()
    for name, chunks in lists.items():
        for chunk in chunks:
            for item in json.loads(chunk)["items"]:
                world.apply(Change(name, "ADDED", item))
    # Indexes may be made when they are first asked for.
    assert world.ledger.gpus_of("node-0000")
    return world, time.perf_counter() - began


def decide(world: World, dice: random.Random) -> tuple[list[float], int]:
    """Let pods come one by one; return the seconds that each decision took, and how many were placed."""
    planner = Planner(world, Exclusions(time.monotonic))
    took: list[float] = []
    placed = 0
    for number in range(PODS):
        body = claim(f"new-{number}", dice.choice([2, 4, 8, 16, 24]), dice.choice([0, 10, 20, 30]))
        world.apply(Change("resourceclaims", "ADDED", body))
        waiting = pod(f"pod-{number}", f"new-{number}")
        world.apply(Change("pods", "ADDED", waiting))
        began = time.perf_counter()
        decision = planner.for_pod(waiting)
        if isinstance(decision, Place):
            world.assume(decision.pod, decision.claims, decision.placement)
            placed += 1
        took.append(time.perf_counter() - began)
    return took, placed


def measure() -> Json:
    """Build, decide, and return the numbers."""
    dice = random.Random(SEED)  # noqa: S311 (the same cluster each time)
    lists = {
        "deviceclasses": chunks_of([device_class()]),
        "nodes": chunks_of([node(number) for number in range(NODES)]),
        "resourceslices": chunks_of([slice_of(number) for number in range(NODES)]),
        "resourceclaims": chunks_of(list(live_claims(dice))),
    }
    text_mib = sum(len(chunk) for chunks in lists.values() for chunk in chunks) / (1 << 20)
    before = rss_mib()
    world, seconds = rebuild(lists)
    grown = rss_mib() - before
    took, placed = decide(world, dice)
    ordered = sorted(took)
    return {
        "nodes": NODES,
        "gpus": NODES * GPUS,
        "live_allocations": CLAIMS,
        "list_text_mib": round(text_mib, 1),
        "rebuild_seconds": round(seconds, 2),
        "rss_growth_mib": round(grown),
        "decisions": len(took),
        "placed": placed,
        "decision_p50_ms": round(statistics.median(ordered) * 1000, 3),
        "decision_p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 3),
        "python": platform.python_version(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def cpu() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Measure, print, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    where: Path | None = parser.parse_args().json
    result = json.dumps(measure(), indent=2)
    print(result)
    if where is not None:
        where.write_text(result + "\n")


if __name__ == "__main__":
    main()
