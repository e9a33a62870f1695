"""Images that make it hard for an injected library: other C libraries, no ldconfig, a driver library of their own.

Each is capped, or gets nothing from the GPU, or the claim says that the limit does not hold. None gets more than its
slice in silence, and none is said to be enforced when it is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest

from fracgpu.native.fake_gpu import read_usage
from fracgpu.sim.lab.describe import pod_events
from fracgpu.sim.lab.lab import RESOURCE_API
from fracgpu.sim.node.api import Json
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import eventually
from tests.cluster.manifests import MIB, claim, document, pod

_LIMIT_MIB = 1024
_CLIMB = ("fracgpu-climb", "driver", "64", "--hold")
# What fracgpu-climb ends with when there is no libcuda for it.
_NO_LIBRARY = 3


def _image(short: str) -> str:
    return f"fracgpu.test/{short}:e2e"


def _start(cluster: Cluster, namespace: str, image: str, command: Sequence[str], env: dict[str, str]) -> None:
    """Create a claim, and a pod with that image; beside its program another container keeps the pod alive."""
    one = pod("one", command, image=_image(image))
    one["spec"]["containers"][0]["env"] = [{"name": name, "value": value} for name, value in env.items()]
    one["spec"]["containers"].append({"name": "stay", "image": _image("musl"), "command": ["/pause"]})
    cluster.apply(document(claim("one", f"{_LIMIT_MIB}Mi"), one), namespace)
    cluster.wait_pod("one", namespace=namespace)


def _context_bytes(cluster: Cluster) -> int:
    """Return what a program's context takes of its slice before it has allocated anything."""
    (context_bytes,) = {gpu.context_bytes for gpu in cluster.options.gpus}
    return context_bytes


def _refused(cluster: Cluster, namespace: str) -> Json:
    log = cluster.wait_log("one", '"refused"', container="main", namespace=namespace)
    refused: Json = json.loads(next(line for line in log.splitlines() if '"refused"' in line))
    return refused


def _enforced(cluster: Cluster, namespace: str, *reasons: str) -> Json:
    """Wait until the claim's condition Enforced has one of these reasons; return it."""

    def found(claims: dict[str, Json]) -> Json | None:
        devices = claims["one"].get("status", {}).get("devices") or []
        conditions = [one for device in devices for one in device["conditions"] if one["type"] == "Enforced"]
        return next((one for one in conditions if one["reason"] in reasons), None)

    path = f"{RESOURCE_API}/namespaces/{namespace}/resourceclaims"
    return cluster.wait_for(path, found, what=f"Enforced with {', '.join(reasons)}")


@pytest.mark.parametrize("image", ["workload", "no-ldconfig", "glibc-old", "glibc-new"])
def test_a_program_in_any_glibc_image_is_capped(cluster: Cluster, namespace: str, image: str) -> None:
    _start(cluster, namespace, image, _CLIMB, {})

    assert _refused(cluster, namespace)["allocated_bytes"] == _LIMIT_MIB * MIB - _context_bytes(cluster)
    assert _enforced(cluster, namespace, "InterceptorAttached")["status"] == "True"


def test_a_compat_library_first_in_the_path_is_reported(cluster: Cluster, namespace: str) -> None:
    """An image whose LD_LIBRARY_PATH names a libcuda of its own gets past the mounted one, and the claim says so."""
    _start(cluster, namespace, "compat", _CLIMB, {})

    taken = _refused(cluster, namespace)["allocated_bytes"]
    condition = _enforced(cluster, namespace, "LibraryNotLoaded", "LibraryReplaced", "InterceptorAttached")
    # Capped and proven, or neither: what it took and what the claim says must fit.
    assert (condition["status"] == "True") == (taken == _LIMIT_MIB * MIB - _context_bytes(cluster)), (
        f"{taken} bytes, {condition}"
    )
    assert condition["reason"] == "LibraryNotLoaded", condition
    assert max(gpu.used_bytes for gpu in read_usage(cluster.layout.gpus)) > taken

    def told() -> bool:
        events = pod_events(cluster.pod("one", namespace), cluster.events(namespace))
        return any(line.startswith("LibraryNotLoaded: ") for line in events)

    eventually(told, what="event of the pod")


@pytest.mark.parametrize(
    ("program", "env"),
    [
        ("fracgpu-climb", {}),
        ("fracgpu-climb-static", {}),
        ("fracgpu-climb", {"LD_LIBRARY_PATH": "/usr/lib/x86_64-linux-gnu:/usr/lib64"}),
    ],
    ids=["dynamic", "static", "dynamic-with-path"],
)
def test_a_musl_program_gets_no_gpu_and_is_not_called_enforced(
    cluster: Cluster, namespace: str, program: str, env: dict[str, str]
) -> None:
    _start(cluster, namespace, "musl", [program, *_CLIMB[1:]], env)

    def ended() -> Json | None:
        statuses = cluster.pod("one", namespace)["status"]["containerStatuses"]
        (main,) = (one for one in statuses if one["name"] == "main")
        state: Json | None = main["state"].get("terminated")
        return state

    state = eventually(ended, what="end of the program")
    assert state is not None
    assert state["exitCode"] == _NO_LIBRARY, cluster.logs("one", "main", namespace)
    # Looked at after it has ended: nothing ever ran on the GPU, so nothing is proven.
    at = time.time()
    eventually(lambda: _last_look(cluster, namespace) > at + 1, what="looks after the end")
    assert _enforced(cluster, namespace, "NoProcess")["status"] == "Unknown"
    assert all(gpu.used_bytes == 0 for gpu in read_usage(cluster.layout.gpus))


def _last_look(cluster: Cluster, namespace: str) -> float:
    """Return when the plugin last looked at the claim, in seconds since the epoch."""
    name = "fracgpu_allocation_observed_timestamp_seconds"
    lines = [one for one in cluster.installation.metrics() if one.startswith(name) and f'"{namespace}"' in one]
    return max((float(line.rpartition(" ")[2]) for line in lines), default=0.0)
