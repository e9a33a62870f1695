"""The measurement itself, on the machine that bench.cluster.run has made: one cluster, pods one after another.

python -m bench.cluster.measure RESULT PAIRS
"""

import datetime
import json
import os
import pickle
import platform
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.cluster import pods
from bench.kubeletplugin.run import quantile
from tests.cluster.cluster import Cluster
from tests.cluster.machine.layout import DRIVER_ROOT, Layout
from tests.cluster.run import ARTIFACTS_FILE, BASE_ENV, RUN_ENV

NAMESPACE = "bench"
WARM_UP = 2
KINDS = ("with claim", "without claim")
DURATION = "fracgpu_claim_operation_duration_seconds_sum"


@dataclass(frozen=True)
class Start:
    """Seconds of one pod's start, from the client's request on."""

    total: float
    scheduled: float
    prepare: float
    node: float
    program: float


def measure_start(cluster: Cluster, pod: dict[str, Any]) -> Start:
    """Create a pod, wait for its end, and remove it."""
    name = pod["metadata"]["name"]
    before = prepare_seconds(cluster)
    created = time.time()
    cluster.api.create(f"/api/v1/namespaces/{NAMESPACE}/pods", pod)
    cluster.wait_pod(name, "Succeeded", NAMESPACE)
    said = pods.spoken(cluster.logs(name, namespace=NAMESPACE))
    scheduled = scheduled_at(cluster, name)
    start = Start(
        total=said.first_call_over - created,
        scheduled=scheduled - created,
        prepare=prepare_seconds(cluster) - before,
        node=said.program_began - scheduled,
        program=said.first_call_over - said.program_began,
    )
    cluster.delete_pod(name, NAMESPACE)
    cluster.wait_for(
        f"/apis/resource.k8s.io/v1/namespaces/{NAMESPACE}/resourceclaims",
        lambda claims: None if claims else True,
        what="end of the pod's claim",
    )
    return start


def scheduled_at(cluster: Cluster, name: str) -> float:
    """Return when kube-scheduler had bound the pod: its event has microseconds, the pod's condition has seconds."""

    def found(events: dict[str, Any]) -> float | None:
        for event in events.values():
            if event["regarding"]["name"] == name and event["reason"] == "Scheduled":
                return datetime.datetime.fromisoformat(event["eventTime"]).timestamp()
        return None

    path = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"
    return cluster.wait_for(path, found, what=f"Scheduled event of {name}")


def prepare_seconds(cluster: Cluster) -> float:
    """Return the time that the plugin has spent in successful Prepares, by its own metric."""
    (plugin,) = cluster.installation.plugin_pods()
    with urllib.request.urlopen(f"http://{plugin['status']['podIP']}:8080/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lines = re.findall(rf"^{DURATION}{{(.*?)}} (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in lines if 'op="prepare"' in labels)


def measure(cluster: Cluster, pairs: int) -> dict[str, list[Start]]:
    """Start pods of both kinds in turns, the first of a pair changing, after a few that do not count."""
    (libraries,) = {path.parent for path in DRIVER_ROOT.rglob("libcuda.so.1")}
    make: dict[str, Callable[[str], dict[str, Any]]] = {
        KINDS[0]: pods.with_claim,
        KINDS[1]: lambda name: pods.without_claim(name, str(libraries)),
    }
    starts: dict[str, list[Start]] = {kind: [] for kind in KINDS}
    with cluster.namespace(NAMESPACE):
        cluster.apply(json.dumps(pods.template()), NAMESPACE)
        for number in range(-WARM_UP, pairs):
            for kind in KINDS if number % 2 else reversed(KINDS):
                start = measure_start(cluster, make[kind](f"{kind.replace(' ', '-')}-{number + WARM_UP}"))
                if number >= 0:
                    starts[kind].append(start)
    return starts


def summary(starts: dict[str, list[Start]]) -> dict[str, Any]:
    """Return seconds by kind and part, and the ratios of the whole."""
    parts = tuple(Start.__dataclass_fields__)
    seconds = {
        kind: {
            part: {
                "p50_s": round(median(getattr(start, part) for start in of_kind), 3),
                "p90_s": round(quantile([getattr(start, part) for start in of_kind], 0.9), 3),
            }
            for part in parts
        }
        for kind, of_kind in starts.items()
    }
    totals = {kind: [start.total for start in of_kind] for kind, of_kind in starts.items()}
    claimed, plain = (totals[kind] for kind in KINDS)
    return {
        "seconds": seconds,
        "ratio_p50": round(median(claimed) / median(plain), 2),
        "ratio_p90": round(quantile(claimed, 0.9) / quantile(plain, 0.9), 2),
        "ratio_of_pairs_p50": round(median(one / other for one, other in zip(claimed, plain, strict=True)), 2),
    }


def circumstances(cluster: Cluster) -> dict[str, Any]:
    """Return when, on what and with what was measured."""
    (node,) = cluster.api.get("/api/v1/nodes")["items"]
    info = node["status"]["nodeInfo"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "kubernetes": info["kubeletVersion"],
        "runtime": info["containerRuntimeVersion"],
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, virtual; everything of the cluster on it",
        "load_before": round(os.getloadavg()[0], 2),
    }


def main(arguments: Sequence[str]) -> None:
    """Start the cluster, measure, and write the numbers down."""
    result, pairs = Path(arguments[0]), int(arguments[1])
    base = Path(os.environ[BASE_ENV])
    artifacts = pickle.loads((base / ARTIFACTS_FILE).read_bytes())  # noqa: S301 (our own file)
    with Cluster(artifacts, Layout(base), os.environ[RUN_ENV]) as cluster:
        cluster.installation.install()
        numbers = circumstances(cluster) | {"pairs": pairs}
        numbers |= summary(measure(cluster, pairs))
    result.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
