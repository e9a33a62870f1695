"""Claims as users combine them: several in one container, one in several, whole GPUs, admin access.

Each scenario runs the shipped plugin and real pods on a model GPU, and asks the pods what they see and get.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from fracgpu.driver.names import CLASS_FRACTION, CLASS_WHOLE, DRIVER_NAME
from fracgpu.native.fake_gpu import read_usage
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.lab.lab import RESOURCE_API, Lab
from fracgpu.sim.lab.options import MIB, Card, LabOptions
from fracgpu.sim.node.api import Json
from fracgpu.sim.node.container import ContainerProcess
from fracgpu.sim.node.isolation import probe_isolation

CARD_MIB = 12000
STEP_MIB = 4
# What a program takes of its slice before it has allocated anything: the model's context.
CONTEXT_MIB = 64


@pytest.fixture
def make_lab(native_build: NativeLibraries) -> Iterator[Callable[[int], Lab]]:
    """Start a lab with so many cards; without namespaces where this machine has none."""
    running: list[Lab] = []

    def start(cards: int = 1) -> Lab:
        lab = Lab(LabOptions(cards=(Card(memory_mib=CARD_MIB),) * cards))
        running.append(lab.__enter__())
        return lab

    yield start
    for lab in running:
        refused = list(lab.access.refused)
        lab.__exit__(None, None, None)
        assert refused == [], "the plugin lacked a right"


def share(memory: str) -> Json:
    return {
        "opaque": {
            "driver": DRIVER_NAME,
            "parameters": {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig", "memory": memory},
        }
    }


def claim(name: str, requests: Mapping[str, str | None], **exactly: Any) -> Json:
    """Return a claim with a request for each amount of memory; None asks for no amount."""
    part = {"deviceClassName": CLASS_FRACTION, **exactly}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {
            "devices": {
                "requests": [{"name": request, "exactly": part} for request in requests],
                "config": [{"requests": [request], **share(memory)} for request, memory in requests.items() if memory],
            }
        },
    }


def pod(name: str, containers: Mapping[str, list[str]]) -> Json:
    """Return a pod whose containers use claims, each written as `claim` or `claim/request`."""
    claims = sorted({use.partition("/")[0] for uses in containers.values() for use in uses})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "resourceClaims": [{"name": one, "resourceClaimName": one} for one in claims],
            "containers": [
                {
                    "name": container,
                    "image": "fracgpu/lab",
                    "command": ["sleep", "infinity"],
                    "resources": {"claims": [used(use) for use in uses]},
                }
                for container, uses in containers.items()
            ],
        },
    }


def used(use: str) -> Json:
    name, slash, request = use.partition("/")
    return {"name": name, "request": request} if slash else {"name": name}


def run(lab: Lab, *objects: Json, namespace: str = "default") -> None:
    """Apply the objects and wait until the pods among them run."""
    lab.apply(yaml.safe_dump_all(objects), namespace=namespace)
    for obj in objects:
        if obj["kind"] == "Pod":
            lab.wait_pod(obj["metadata"]["name"], namespace=namespace)


def views(lab: Lab, name: str, container: str | None = None, namespace: str = "default") -> dict[str, int]:
    """Return the MiB of each GPU, by UUID, that a container sees; every interface must say the same."""
    result = lab.execute(name, ["fracgpu-view"], container=container, namespace=namespace)
    assert result.exit_code == 0, result.stderr
    seen = json.loads(result.stdout)
    cuda = {one["uuid"]: one["total_bytes"] for one in seen["cuda"]["devices"]}
    nvml = {one["uuid"]: one["v2"]["total_bytes"] for one in seen["nvml"]["devices"]}
    assert cuda == nvml
    return {uuid: total // MIB for uuid, total in cuda.items()}


def climb(lab: Lab, name: str, container: str | None = None, namespace: str = "default") -> int:
    """Allocate in steps until it is refused; return the MiB that were taken in all."""
    command = ["fracgpu-climb", "driver", str(STEP_MIB)]
    result = lab.execute(name, command, container=container, namespace=namespace)
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["event"], last["code"]) == ("refused", 2), result.stdout + result.stderr
    return int(last["allocated_bytes"]) // MIB + CONTEXT_MIB


def hold(lab: Lab, name: str, mib: int, container: str | None = None) -> tuple[bool, ContainerProcess]:
    """Start a program that takes so much in all and keeps it; tell whether it got it."""
    process = lab.spawn(name, ["fracgpu-hold", "driver", str(mib - CONTEXT_MIB)], container=container)
    return json.loads(next(iter(process.lines())))["ready"], process


def end(process: ContainerProcess) -> None:
    process.terminate()
    process.communicate()


def results(lab: Lab, name: str, namespace: str = "default") -> list[Json]:
    found = lab.api.get(f"{RESOURCE_API}/namespaces/{namespace}/resourceclaims/{name}")
    return list(found["status"]["allocation"]["devices"]["results"])


def pending_reason(lab: Lab, name: str) -> str:
    """Wait until a pod is told why it has no GPU."""

    def told(events: dict[str, Json]) -> str | None:
        about = (event for event in events.values() if event["involvedObject"].get("name") == name)
        return next((event["message"] for event in about if event["reason"] == "ClaimUnschedulable"), None)

    return lab.wait_for("/api/v1/namespaces/default/events", told, what=f"reason why pod {name} waits")


def test_two_shares_of_one_gpu_in_one_claim_are_one_larger_share(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    run(lab, claim("both", {"one": "1000Mi", "two": "2000Mi"}), pod("p", {"main": ["both"]}))
    one, two = results(lab, "both")
    assert one["device"] == two["device"]
    assert one["shareID"] != two["shareID"]
    assert views(lab, "p") == {lab.gpus[0].uuid: 3000}
    assert climb(lab, "p") == 3000


def test_two_claims_in_one_container_are_one_larger_share(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    run(
        lab,
        claim("small", {"gpu": "1000Mi"}),
        claim("large", {"gpu": "2000Mi"}),
        pod("p", {"main": ["small", "large"]}),
    )
    assert views(lab, "p") == {lab.gpus[0].uuid: 3000}
    assert climb(lab, "p") == 3000


def test_two_requests_on_two_gpus_are_two_limits(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2)
    apart = claim("apart", {"one": "1000Mi", "two": "2000Mi"})
    apart["spec"]["devices"]["constraints"] = [{"distinctAttribute": f"{DRIVER_NAME}/uuid"}]
    run(lab, apart, pod("p", {"main": ["apart"]}))
    seen = views(lab, "p")
    assert set(seen) == {gpu.uuid for gpu in lab.gpus}
    assert sorted(seen.values()) == [1000, 2000]


def test_one_claim_in_two_containers_is_one_account(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    run(lab, claim("c", {"gpu": "1000Mi"}), pod("p", {"first": ["c"], "second": ["c"]}))
    ready, holder = hold(lab, "p", 700, "first")
    assert ready
    assert views(lab, "p", "second") == {lab.gpus[0].uuid: 1000}
    assert climb(lab, "p", "second") == 300
    refused, other = hold(lab, "p", 400, "second")
    assert not refused
    end(other)
    end(holder)
    assert climb(lab, "p", "second") == 1000


def test_one_claim_in_two_pods_is_one_account_and_outlives_the_first(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    run(lab, claim("c", {"gpu": "1000Mi"}), pod("first", {"main": ["c"]}))
    ready, _ = hold(lab, "first", 700)
    assert ready
    run(lab, pod("second", {"main": ["c"]}))
    assert climb(lab, "second") == 300
    lab.delete_pod("first")
    assert climb(lab, "second") == 1000
    assert views(lab, "second") == {lab.gpus[0].uuid: 1000}


def test_a_whole_gpu_is_all_of_it_and_nobody_elses(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    run(lab, claim("whole", {"gpu": None}, deviceClassName=CLASS_WHOLE), pod("p", {"main": ["whole"]}))
    (device,) = results(lab, "whole")
    assert device["consumedCapacity"]["memory"] == f"{CARD_MIB}Mi"
    assert views(lab, "p") == {lab.gpus[0].uuid: CARD_MIB}
    assert CARD_MIB - CONTEXT_MIB <= climb(lab, "p") <= CARD_MIB
    lab.apply(yaml.safe_dump_all([claim("little", {"gpu": "100Mi"}), pod("late", {"main": ["little"]})]))
    assert "CardInsufficientMemory (1/1 GPUs: need 100Mi, max free 0Mi)" in pending_reason(lab, "late")
    lab.delete_pod("p")
    lab.api.delete(f"{RESOURCE_API}/namespaces/default/resourceclaims/whole")
    lab.wait_pod("late")
    assert climb(lab, "late") == 100


def test_a_whole_gpu_has_the_same_mounts_as_a_share(make_lab: Callable[..., Lab]) -> None:
    if not probe_isolation().mounts:
        pytest.skip(probe_isolation().description)
    lab = make_lab(2)
    whole = claim("whole", {"gpu": None}, deviceClassName=CLASS_WHOLE)
    run(lab, whole, claim("part", {"gpu": "100Mi"}), pod("w", {"main": ["whole"]}), pod("p", {"main": ["part"]}))
    mounted = {
        name: {
            line.split(" ")[4]
            for line in lab.output_of(name, ["cat", "/proc/self/mountinfo"]).splitlines()
            if "libcuda" in line or "libnvidia-ml" in line
        }
        for name in ("w", "p")
    }
    assert mounted["w"] == mounted["p"] != set()


def test_admin_access_sees_a_full_gpu_and_takes_nothing_from_it(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "admins", "labels": {"resource.kubernetes.io/admin-access": "true"}},
    }
    run(lab, space, claim("all", {"gpu": f"{CARD_MIB}Mi"}), pod("tenant", {"main": ["all"]}))
    ready, _ = hold(lab, "tenant", CARD_MIB - 2 * CONTEXT_MIB)
    assert ready
    run(lab, claim("watch", {"gpu": None}, adminAccess=True), pod("admin", {"main": ["watch"]}), namespace="admins")
    (device,) = results(lab, "watch", "admins")
    assert device["adminAccess"]
    # The card as it is: no limit, and what the tenant uses.
    seen = json.loads(lab.execute("admin", ["fracgpu-view"], namespace="admins").stdout)["nvml"]["devices"][0]["v2"]
    assert seen["total_bytes"] == CARD_MIB * MIB
    assert seen["used_bytes"] >= (CARD_MIB - 2 * CONTEXT_MIB) * MIB
    assert read_usage(lab.layout.machine)[0].used_bytes <= CARD_MIB * MIB
    # It is not counted: the GPU has all of its memory for the next tenant while the admin still looks.
    lab.delete_pod("tenant")
    lab.api.delete(f"{RESOURCE_API}/namespaces/default/resourceclaims/all")
    run(lab, claim("again", {"gpu": f"{CARD_MIB}Mi"}), pod("next", {"main": ["again"]}))
    assert views(lab, "next") == {lab.gpus[0].uuid: CARD_MIB}


@pytest.mark.parametrize("cards", [1, 2])
def test_a_container_has_only_the_request_that_it_names(make_lab: Callable[..., Lab], cards: int) -> None:
    lab = make_lab(cards)
    split = claim("c", {"one": "1000Mi", "two": "2000Mi"})
    if cards == 2:
        split["spec"]["devices"]["constraints"] = [{"distinctAttribute": f"{DRIVER_NAME}/uuid"}]
    run(lab, split, pod("p", {"a": ["c/one"], "b": ["c/two"], "both": ["c"]}))
    a, b = views(lab, "p", "a"), views(lab, "p", "b")
    assert (list(a.values()), list(b.values())) == ([1000], [2000])
    assert (a.keys() == b.keys()) is (cards == 1)
    assert climb(lab, "p", "a") == 1000
    assert climb(lab, "p", "b") == 2000
    everything = views(lab, "p", "both")
    assert sum(everything.values()) == 3000
    assert everything.keys() == a.keys() | b.keys()
