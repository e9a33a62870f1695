"""Claims allocated per second on a real API server: by our controller, and by kube-scheduler itself, in one run.

    python -m bench.controller.allocation_rate [--claims 500] [--rounds 3] [--json bench/results/controller-rate.json]

As root, in a machine like that of `make e2e`. Both get the same control plane, hollow nodes (tests/cluster/hollow.py),
claims and pods, in turns. Claims and pods are there before whoever allocates is started, so what is measured is how
fast the backlog goes, not how fast a client creates it: from the first allocation to the last, as a watch tells them,
and until the last pod is bound, which in both cases is kube-scheduler's work. Nothing runs on hollow nodes.

Both programs run with their defaults. kube-scheduler's is 50 requests a second, and it makes about three for each pod
with a claim; our controller has 16 writers and no such limit.
"""

import argparse
import contextlib
import datetime
import json
import os
import pickle
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from fracgpu.driver.amounts import Allocator
from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.node.api import KubeApi
from fracgpu.sim.transport import WatchStream
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.controller_stage import claim_body, pod_body
from tests.cluster.hollow import HollowNode, card, create_node
from tests.cluster.lone_controller import lone_controller
from tests.cluster.lone_plane import LonePlane, lone_plane
from tests.cluster.machine.layout import Layout
from tests.cluster.run import ARTIFACTS_FILE, BASE_ENV, run_on_own_machine

NODES: Final = 20
GPUS: Final = 8
WHO: Final[tuple[Allocator, ...]] = ("controller", "scheduler")
CLAIMS: Final = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
PODS: Final = "/api/v1/namespaces/default/pods"
TARGET, GATE = 1.0, 0.5
_DEADLINE_S: Final = 300.0
_CLIENTS: Final = 4
# Nobody beats for these nodes, so they are tainted after a while.
_ALWAYS: Final = [{"key": f"node.kubernetes.io/{key}", "operator": "Exists"} for key in ("not-ready", "unreachable")]


@dataclass(frozen=True)
class Round:
    """Seconds from the first allocation to the last, and from there to the last bound pod."""

    claims: int
    allocating: float
    binding: float

    @property
    def rate(self) -> float:
        """Claims per second: of all but the first, whose time is where the clock starts."""
        return (self.claims - 1) / self.allocating

    @property
    def bound_rate(self) -> float:
        """Pods per second from the first allocation to the last bound pod."""
        return (self.claims - 1) / (self.allocating + self.binding)


class Times:
    """When something was first true of each object of a collection, by a watch."""

    def __init__(self, api: KubeApi, path: str, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Begin to watch."""
        self._api, self._path, self._holds = api, path, holds
        self._seen: dict[str, float] = {}
        self._over = threading.Event()
        self._watch = self._open()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def all(self, count: int, what: str) -> list[float]:
        """Wait until it was true of `count` objects; return the times, in order. Ends the benchmark if it never is."""
        end = time.monotonic() + _DEADLINE_S
        while len(self._seen) < count:
            if time.monotonic() > end:
                listed = sum(map(self._holds, self._api.get(self._path)["items"]))
                raise SystemExit(f"only {listed} of {count} are {what} after {_DEADLINE_S:g} s")
            time.sleep(0.05)
        self._over.set()
        self._watch.close()
        self._thread.join()
        return sorted(self._seen.values())

    def _open(self) -> WatchStream:
        listed = self._api.get(self._path)
        for item in listed["items"]:
            self._look(item)
        return self._api.watch(self._path, {"resourceVersion": listed["metadata"]["resourceVersion"]})

    def _follow(self) -> None:
        while not self._over.is_set():
            for kind, item in self._watch:
                if kind != "BOOKMARK":
                    self._look(item)
            if not self._over.is_set():
                # The server ends watches of clients that are slow for a moment.
                self._watch = self._open()

    def _look(self, item: dict[str, Any]) -> None:
        if self._holds(item):
            self._seen.setdefault(item["metadata"]["name"], time.monotonic())


def measure_round(artifacts: Artifacts, layout: Layout, who: Allocator, number: int, claims: int) -> Round:
    """Let `who` allocate a backlog on a control plane of its own."""
    name = f"rate-{who}-{number}"
    with lone_plane(artifacts, layout, name, number=10, gates={"DRAConsumableCapacity": True}) as plane:
        api = plane.plane.api
        for at in range(NODES):
            create_node(api, _node(at, who))
        if who == "scheduler":
            plane.plane.scheduler.stop()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            names = [f"pod-{at}" for at in range(claims)]
            list(pool.map(lambda one: api.create(CLAIMS, claim_body(one, "4000Mi", cores=5)), names))
            list(pool.map(lambda one: api.create(PODS, pod_body(one, one, tolerations=_ALWAYS)), names))
        allocated = Times(api, CLAIMS, lambda claim: "allocation" in claim.get("status", {}))
        bound = Times(api, PODS, lambda pod: bool(pod["spec"].get("nodeName")))
        with _started(plane, who, name):
            given = allocated.all(claims, "allocated")
            last = bound.all(claims, "bound")[-1]
    return Round(claims, given[-1] - given[0], max(0.0, last - given[-1]))


@contextlib.contextmanager
def _started(plane: LonePlane, who: Allocator, name: str) -> Iterator[None]:
    if who == "scheduler":
        plane.plane.scheduler.start()
        yield
    else:
        with lone_controller(plane, name):
            yield


def _node(at: int, who: Allocator) -> HollowNode:
    gpus = [card(at * GPUS + index + 1, index=index) for index in range(GPUS)]
    return HollowNode(name=f"node-{at:02}", gpus=gpus, allocator=who, pods="250")


def measure(rounds: int, claims: int) -> dict[str, Any]:
    """Measure both in turns; return the numbers."""
    base = Path(os.environ[BASE_ENV])
    artifacts = pickle.loads((base / ARTIFACTS_FILE).read_bytes())  # noqa: S301 (our own file)
    found: dict[str, list[Round]] = {who: [] for who in WHO}
    for number in range(rounds):
        for who in WHO if number % 2 else reversed(WHO):
            found[who].append(measure_round(artifacts, Layout(base), who, number, claims))
    rates = {who: [round(one.rate, 1) for one in found[who]] for who in WHO}
    ratio = median(one.rate for one in found["controller"]) / median(one.rate for one in found["scheduler"])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, virtual; control plane, controller and client on it",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "nodes": NODES,
        "gpus_per_node": GPUS,
        "claims": claims,
        "claims_per_second": rates,
        "median_claims_per_second": {who: round(median(rates[who]), 1) for who in WHO},
        "pods_bound_per_second": {who: [round(one.bound_rate, 1) for one in found[who]] for who in WHO},
        "ratio": round(ratio, 2),
        "target_ratio": TARGET,
        "gate_ratio": GATE,
    }


def main() -> int:
    """Measure, print, and write the numbers down if asked to; return the exit status: 1 below the gate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--claims", type=int, default=500, help="claims of each round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each kind")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.result:
        arguments.result.write_text(json.dumps(measure(arguments.rounds, arguments.claims)))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "result.json"
        sizes = [f"--rounds={arguments.rounds}", f"--claims={arguments.claims}", f"--result={result}"]
        try:
            status = run_on_own_machine([sys.executable, "-m", "bench.controller.allocation_rate", *sizes])
        except FracgpuError as error:
            sys.stderr.write(f"make bench-e2e: {error}\n")
            return 1
        if status:
            return status
        numbers = json.loads(result.read_text())
    for name, value in numbers.items():
        print(f"{name}: {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")
    return 0 if numbers["ratio"] >= GATE else 1


if __name__ == "__main__":
    sys.exit(main())
