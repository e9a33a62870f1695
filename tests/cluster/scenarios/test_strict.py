"""A strict class: a driver library that an image brings along is not found before ours, whatever the image sets.

Without it the same image gets past the limit and the claim says so: test_images.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from fracgpu.driver.names import API_VERSION, CONFIG_KIND, DRIVER_NAME
from fracgpu.native.fake_gpu import read_usage
from fracgpu.sim.lab.lab import RESOURCE_API
from fracgpu.sim.node.api import Json
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import eventually
from tests.cluster.manifests import MIB, claim, document, pod
from tests.cluster.scenarios.edge_objects import copied_class

_LIMIT_MIB = 1024
_CLASS = f"strict.{DRIVER_NAME}"
_CLIMB = ("fracgpu-climb", "driver", "64", "--hold")
_NO_LIBRARY = 3


@pytest.fixture
def strict_class(cluster: Cluster) -> Iterator[None]:
    parameters = {"apiVersion": API_VERSION, "kind": CONFIG_KIND, "strict": True}
    config = [{"opaque": {"driver": DRIVER_NAME, "parameters": parameters}}]
    with copied_class(cluster, _CLASS, config=config):
        yield


def _start(cluster: Cluster, namespace: str, image: str) -> None:
    """Create a claim of the class, and a pod with that image; beside its program another container keeps it alive."""
    wanted = claim("one", f"{_LIMIT_MIB}Mi")
    wanted["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = _CLASS
    one = pod("one", _CLIMB, image=f"fracgpu.test/{image}:e2e")
    one["spec"]["containers"].append({"name": "stay", "image": "fracgpu.test/musl:e2e", "command": ["/pause"]})
    cluster.apply(document(wanted, one), namespace)
    cluster.wait_pod("one", namespace=namespace)


def _context_bytes(cluster: Cluster) -> int:
    """Return what a program's context takes of its slice before it has allocated anything."""
    (context_bytes,) = {gpu.context_bytes for gpu in cluster.options.gpus}
    return context_bytes


def _wait_enforced(cluster: Cluster, namespace: str) -> Json:
    """Wait until a process has been judged; return the condition."""

    def found(claims: dict[str, Json]) -> Json | None:
        devices = claims["one"].get("status", {}).get("devices") or []
        conditions = [one for device in devices for one in device["conditions"] if one["type"] == "Enforced"]
        return next((one for one in conditions if one["reason"] != "NoProcess"), None)

    path = f"{RESOURCE_API}/namespaces/{namespace}/resourceclaims"
    return cluster.wait_for(path, found, what="judgement of a process")


@pytest.mark.usefixtures("strict_class")
@pytest.mark.parametrize("image", ["compat", "workload", "no-ldconfig", "glibc-old", "glibc-new"])
def test_a_program_of_a_strict_class_is_capped(cluster: Cluster, namespace: str, image: str) -> None:
    _start(cluster, namespace, image)
    log = cluster.wait_log("one", '"refused"', container="main", namespace=namespace)
    refused = json.loads(next(line for line in log.splitlines() if '"refused"' in line))

    assert refused["allocated_bytes"] == _LIMIT_MIB * MIB - _context_bytes(cluster)
    assert all('"event"' in line for line in log.splitlines()), "something else was printed"
    condition = _wait_enforced(cluster, namespace)
    assert (condition["status"], condition["reason"]) == ("True", "InterceptorAttached"), condition


@pytest.mark.usefixtures("strict_class")
def test_programs_without_cuda_notice_nothing_and_cannot_change_the_list(cluster: Cluster, namespace: str) -> None:
    _start(cluster, namespace, "compat")
    script = "cat /etc/ld.so.preload; (echo > /etc/ld.so.preload) 2>/dev/null || echo kept; env -i /bin/true 2>&1"
    said = cluster.output_of("one", ["sh", "-c", script], namespace=namespace)
    assert said.split("\n")[:2] == ["/run/fracgpu/preload/libcuda.so.1 /run/fracgpu/preload/libcuda.so", "kept"]
    assert said.strip().endswith("kept")


@pytest.mark.usefixtures("strict_class")
def test_a_musl_image_of_a_strict_class_is_as_without(cluster: Cluster, namespace: str) -> None:
    """No such list is known there: the program starts, finds no driver, and says so."""
    _start(cluster, namespace, "musl")

    def ended() -> Json | None:
        statuses = cluster.pod("one", namespace)["status"]["containerStatuses"]
        (main,) = (one for one in statuses if one["name"] == "main")
        state: Json | None = main["state"].get("terminated")
        return state

    state = eventually(ended, what="end of the program")
    assert state is not None
    assert state["exitCode"] == _NO_LIBRARY
    assert all(gpu.used_bytes == 0 for gpu in read_usage(cluster.layout.gpus))
