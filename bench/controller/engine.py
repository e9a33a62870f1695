"""What a placement costs in a large cluster: 1250 nodes with 8 GPUs each, 50000 live allocations.

    python -m bench.controller.engine [--json bench/results/controller-engine.json]

The pure engine, without an API server. The cluster is loaded at random (three types of cards, shares of all sizes), so
that nodes have gaps of every shape. Every demand is timed by itself; between two of them the ledger changes, as it does
in a controller that writes what it decided.
"""

import argparse
import datetime
import gc
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fracgpu.controller.fit.engine import explain, place
from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.views import Constraint, Demand, DeviceRequest, GpuView, Holding, Policy
from fracgpu.controller.objects.selectors import selector_of
from fracgpu.driver.config import FractionConfig
from fracgpu.driver.names import ATTR_ALLOCATOR, ATTR_NUMA_NODE, ATTR_PRODUCT_NAME, ATTR_UUID, DRIVER_NAME
from fracgpu.driver.reasons import ReasonCode

NODES = 1250
GPUS = 8
HOLDINGS = 50_000
GIB = 1024**3
SEED = 5
CARDS = (("NVIDIA H200", 141), ("NVIDIA H100 80GB HBM3", 80), ("NVIDIA L40S", 48))
ATTRIBUTES = f"device.attributes['{DRIVER_NAME}']"
CLASS = f"device.driver == '{DRIVER_NAME}' && {ATTRIBUTES}.?{ATTR_ALLOCATOR}.orValue('') == 'scheduler'"
EXPLAIN_EVERY = 10
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of demand; `fits` is what the engine must answer."""

    name: str
    demand: Demand
    fits: bool


class Timer:
    """Times calls: on the clock, and in processor time, which other work on the machine does not lengthen."""

    def __init__(self) -> None:
        self._elapsed: list[float] = []
        self._processor: list[float] = []

    def call(self, function: Callable[[], T]) -> T:
        """Call and time."""
        began, began_processor = time.perf_counter(), time.thread_time()
        result = function()
        self._processor.append((time.thread_time() - began_processor) * 1e6)
        self._elapsed.append((time.perf_counter() - began) * 1e6)
        return result

    def results(self) -> dict[str, Any]:
        """Return the percentiles in microseconds."""
        clock, processor = sorted(self._elapsed), sorted(self._processor)
        last = min(len(clock) - 1, int(len(clock) * 0.99))
        return {
            "runs": len(clock),
            "p50_us": round(statistics.median(clock), 1),
            "p99_us": round(clock[last], 1),
            "max_us": round(clock[-1], 1),
            "p50_processor_us": round(statistics.median(processor), 1),
            "p99_processor_us": round(processor[last], 1),
        }


def make_gpus() -> dict[str, list[GpuView]]:
    """Return the GPUs of each node: one type of card a node."""
    found: dict[str, list[GpuView]] = {}
    for number in range(NODES):
        node = f"node-{number:04}"
        product, memory = CARDS[number % len(CARDS)]
        found[node] = [
            GpuView(
                node=node,
                pool=node,
                device=f"gpu-{number:04}{index:04}",
                physical_memory_bytes=memory * GIB,
                memory_bytes=memory * GIB,
                attributes={
                    ATTR_UUID: f"GPU-{number:04}{index:04}-0000-0000-0000-000000000000",
                    ATTR_PRODUCT_NAME: product,
                    ATTR_NUMA_NODE: index // (GPUS // 2),
                    ATTR_ALLOCATOR: "controller",
                },
            )
            for index in range(GPUS)
        ]
    return found


def make_holdings(gpus: dict[str, list[GpuView]], dice: random.Random) -> dict[str, list[Holding]]:
    """Return HOLDINGS shares by owner that overfill no GPU, five on each GPU in the mean."""
    holdings: dict[str, list[Holding]] = {}
    free = {gpu.key: [gpu.memory_bytes // GIB, gpu.cores, gpu.slots] for own in gpus.values() for gpu in own}
    keys = list(free)
    while len(holdings) < HOLDINGS:
        # At first one share with cores on each GPU, so that whoever wants nearly all cores misses by little.
        first = len(holdings) < len(keys)
        key = keys[len(holdings)] if first else dice.choice(keys)
        memory, cores = dice.randint(1, 16), 20 if first else dice.choice((0, 5, 10, 20))
        left = free[key]
        if memory > left[0] or cores > left[1] or left[2] < 1:
            continue
        free[key] = [left[0] - memory, left[1] - cores, left[2] - 1]
        holding = Holding(pool=key[0], device=key[1], memory_bytes=memory * GIB, cores=cores)
        holdings[f"claim-{len(holdings):05}"] = [holding]
    return holdings


def make_ledger(gpus: dict[str, list[GpuView]], holdings: dict[str, list[Holding]]) -> Ledger:
    """Return a ledger, told everything anew and ready to answer."""
    ledger = Ledger()
    for node, views in gpus.items():
        ledger.set_gpus(node, views)
    for owner, held in holdings.items():
        ledger.hold(owner, held)
    next(ledger.states())
    return ledger


def _demand(*expressions: str, policy: Policy = "Binpack", numa: bool = False, **changes: Any) -> Demand:
    values: dict[str, Any] = {"claim": "c", "name": "gpu", "selector": selector_of((CLASS, *expressions), "bench")}
    request = DeviceRequest(**(values | changes))
    constraint = Constraint(claim="c", attribute=ATTR_NUMA_NODE, unknown=(-1,), code=ReasonCode.NUMA_NOT_FIT)
    return Demand(choices=((request,),), constraints=(constraint,) if numa else (), node_policy=policy)


def cases() -> list[Case]:
    """Return the demands. Those that fit nowhere miss by little, so that no node can be ruled out by its memory."""
    small = {"memory": "8Gi", "cores": 10}
    l40s = f"{ATTRIBUTES}.{ATTR_PRODUCT_NAME} == 'NVIDIA L40S'"
    pair = _demand(count=2, numa=True, requests={"memory": "60Gi", "cores": 30})
    two = Demand(
        choices=tuple(
            (DeviceRequest(claim="c", name=name, requests={"memory": "70Gi"}, selector=selector_of((CLASS,), "bench")),)
            for name in ("a", "b")
        )
    )
    return [
        Case("memory and cores", _demand(requests=small), True),
        Case("memory and cores, spread", _demand(requests=small, policy="Spread"), True),
        Case("percent", _demand(claim_config=FractionConfig(memory_percent=40)), True),
        Case("selector", _demand(l40s, requests={"memory": "30Gi"}), True),
        Case("2 GPUs of a NUMA node", pair, True),
        Case("2 requests", two, True),
        Case("unplaceable", _demand(requests={"memory": "40Gi", "cores": 85}), False),
        Case("unplaceable, selector", _demand(l40s, requests={"memory": "20Gi", "cores": 85}), False),
        Case("unplaceable, 8 GPUs", _demand(count=8, requests={"memory": "40Gi", "cores": 60}), False),
    ]


def measure(ledger: Ledger, case: Case, repeat: int, dice: random.Random) -> dict[str, Any]:
    """Time one kind of demand; what it was given is held for a while, so that the ledger changes as in life."""
    timer = Timer()
    given: list[str] = []
    for number in range(repeat):
        found = timer.call(lambda: place(case.demand, ledger))
        assert (found is not None) is case.fits, f"{case.name}: {found}"
        if found is None:
            _move(ledger, dice)
            continue
        given.append(f"bench-{number}")
        ledger.hold(
            given[-1],
            [
                Holding(
                    pool=device.pool,
                    device=device.device,
                    memory_bytes=device.amounts.memory_bytes,
                    cores=device.amounts.cores,
                    slots=device.amounts.slots,
                )
                for device in found.devices
            ],
        )
        if len(given) > 5:
            ledger.release(given.pop(dice.randrange(len(given))))
    for owner in given:
        ledger.release(owner)
    return {"case": case.name, "fits": case.fits, **timer.results()}


def measure_explain(ledger: Ledger, case: Case, repeat: int) -> dict[str, Any]:
    """Time the explanation of a demand that fits nowhere."""
    timer = Timer()
    message = ""
    for _ in range(repeat):
        message = timer.call(lambda: explain(case.demand, ledger)).message
    return {"case": f"explain: {case.name}", "message": message, **timer.results()}


def _move(ledger: Ledger, dice: random.Random) -> None:
    """Let one claim end and come back on the same GPU: two pieces of news."""
    owner = f"claim-{dice.randrange(HOLDINGS):05}"
    held = ledger.held_by(owner)
    ledger.release(owner)
    ledger.hold(owner, held)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return (time.perf_counter() - began, result)


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpu": model, "processors": os.cpu_count(), "python": platform.python_version()}


def run(repeat: int) -> dict[str, Any]:
    """Measure everything; return the results."""
    dice = random.Random(SEED)  # noqa: S311  a fixed cluster, no secret
    before = _resident_bytes()
    gpus = make_gpus()
    holdings = make_holdings(gpus, dice)
    build, ledger = _seconds(lambda: make_ledger(gpus, holdings))
    rss = _resident_bytes()
    gc.collect()
    gc.freeze()
    rows = []
    for case in cases():
        # The first time a selector is asked about every card; that is once for a class, and shown by itself.
        first, _ = _seconds(lambda demand=case.demand: place(demand, ledger))  # type: ignore[misc]
        rows.append({**measure(ledger, case, repeat, dice), "first_us": round(first * 1e6, 1)})
        if not case.fits:
            rows.append(measure_explain(ledger, case, max(1, repeat // EXPLAIN_EVERY)))
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": _machine(),
        "cluster": {"nodes": NODES, "gpus": NODES * GPUS, "allocations": HOLDINGS},
        "ledger_build_s": round(build, 3),
        "rss_mib": round(rss / 2**20, 1),
        "rss_of_cluster_mib": round((rss - before) / 2**20, 1),
        "rows": rows,
    }


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("bench/results/controller-engine.json"))
    parser.add_argument("--repeat", type=int, default=2000)
    options = parser.parse_args()
    results = run(options.repeat)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(f"ledger of {HOLDINGS} allocations built in {results['ledger_build_s']} s, RSS {results['rss_mib']} MiB")
    for row in results["rows"]:
        shown = "  ".join(f"{name} {row[f'{name}_us']:9.1f}" for name in ("p50", "p99", "max", "p99_processor"))
        print(f"{row['case']:36} {shown} us  {row.get('message', '')}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
