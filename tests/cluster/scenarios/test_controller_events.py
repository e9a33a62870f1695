"""What people are told: events on pod and claim, whose every number is worked out again here from slices and claims."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import fixtures
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.controller_stage import ControllerStage, controller_stage, pod_body, shares
from tests.cluster.hollow import HollowNode, card
from tests.cluster.machine.layout import Layout
from tests.cluster.oracle import CLAIMS, SLICES, amount, capacities, given

Json = dict[str, Any]
MIB = 1 << 20
OURS = "device.attributes['gpu.fracgpu.dev']"
# As sold: three products, and of each amount something else is left.
CARDS = (
    card(1, "NVIDIA H200", 143771, architecture="Hopper"),
    card(2, "NVIDIA L40S", 46068, architecture="Ada"),
    card(3, "NVIDIA T4", 15360, architecture="Turing"),
)
USED = (("NVIDIA H200", "100003Mi", 20), ("NVIDIA L40S", "20001Mi", 70), ("NVIDIA T4", "9Gi", 55))


@pytest.fixture(scope="module", params=[True, False], ids=["gate-on", "gate-off"])
def stage(request: pytest.FixtureRequest, artifacts: Artifacts, layout: Layout) -> Iterator[ControllerStage]:
    name = "events-on" if request.param else "events-off"
    with controller_stage(artifacts, layout, name, number=6, gate=request.param) as (running, _):
        yield running


@pytest.fixture
def namespace(stage: ControllerStage, request: pytest.FixtureRequest) -> Iterator[str]:
    with stage.namespace(fixtures.namespace_name(request.node.name)) as name:
        yield name


@pytest.fixture
def used(stage: ControllerStage, namespace: str) -> Iterator[None]:
    """A node with three different GPUs, of each of which a part is taken."""
    with stage.nodes(HollowNode(name="mixed", gpus=CARDS)):
        for product, memory, cores in USED:
            name = f"user-{product.rpartition(' ')[2].lower()}"
            stage.run(namespace, name, memory, cores=cores, selector=f"{OURS}.productName == '{product}'")
        yield


def left(stage: ControllerStage, name: str) -> list[int]:
    """Return how much is left of one capacity on each GPU, from the raw JSON of the API server."""
    there, gone = capacities(stage.api.get(SLICES)["items"]), given(stage.api.get(CLAIMS)["items"])
    return [int(value - gone.get(share, 0)) for share, value in sorted(there.items()) if share[2] == name]


def sizes(stage: ControllerStage) -> list[int]:
    """Return the physical memory of each GPU in bytes, in the same order."""
    devices = [device for item in stage.api.get(SLICES)["items"] for device in item["spec"]["devices"]]
    ordered = sorted(devices, key=lambda device: str(device["name"]))
    return [int(device["attributes"]["physicalMemoryMiB"]["int"]) * MIB for device in ordered]


def missing(stage: ControllerStage, memory: str, cores: int = 0) -> str:
    """Return the event's text for a claim that asks for so much of any GPU."""
    need, all_sizes = int(amount(memory)), sizes(stage)
    total = f"{len(all_sizes)} GPUs"
    # A share is never larger than the card: there it is not a question of what is left.
    large = [size >= need for size in all_sizes]
    free_memory = [one for one, ok in zip(left(stage, "memory"), large, strict=True) if ok and one < need]
    free_cores = [one for one, ok in zip(left(stage, "cores"), large, strict=True) if ok and one < cores]
    parts = []
    if free_memory:
        amounts = f"need {need // MIB}Mi, max free {max(free_memory) // MIB}Mi"
        parts.append(f"CardInsufficientMemory ({len(free_memory)}/{total}: {amounts})")
    if free_cores:
        amounts = f"need {cores} cores, max free {max(free_cores)}"
        parts.append(f"CardInsufficientCore ({len(free_cores)}/{total}: {amounts})")
    for size in sorted({size for size, ok in zip(all_sizes, large, strict=True) if not ok}, key=_shown):
        what = f"memory {_shown(need)} is more than the GPU's {_shown(size)}"
        parts.append(f"AmountsExceedDevice ({all_sizes.count(size)}/{total}: {what})")
    return "; ".join(parts)


def _shown(size: int) -> str:
    return f"{size >> 30}Gi" if size % (1 << 30) == 0 else f"{size // MIB}Mi"


def told(stage: ControllerStage, namespace: str, name: str, text: str) -> None:
    """Wait until the pod and its claim, which have one name, are both told `text`, by one event each."""
    stage.wait_event(namespace, name, "ClaimUnschedulable", text)

    def both(events: dict[str, Json]) -> bool | None:
        about = [
            event
            for event in events.values()
            if event["reason"] == "ClaimUnschedulable" and event["involvedObject"]["name"] == name
        ]
        kinds = sorted(event["involvedObject"]["kind"] for event in about if text in event["message"])
        return True if kinds == ["Pod", "ResourceClaim"] and len(about) == 2 else None

    stage.wait_for(f"/api/v1/namespaces/{namespace}/events", both, what=f"one event each with {text!r}")


@pytest.mark.usefixtures("used")
def test_memory_is_missing_on_all(stage: ControllerStage, namespace: str) -> None:
    stage.create(namespace, stage.claim_body("big", "60Gi"), pod_body("big", "big"))
    told(stage, namespace, "big", missing(stage, "60Gi"))


@pytest.mark.usefixtures("used")
def test_memory_is_missing_on_some_and_cores_on_others(stage: ControllerStage, namespace: str) -> None:
    stage.create(namespace, stage.claim_body("both", "30000Mi", cores=85), pod_body("both", "both"))
    told(stage, namespace, "both", missing(stage, "30000Mi", 85))


@pytest.mark.usefixtures("used")
def test_a_product_is_asked_for_that_is_full(stage: ControllerStage, namespace: str) -> None:
    asks = stage.claim_body("picky", "10Gi", selector=f"{OURS}.productName == 'NVIDIA T4'")
    stage.create(namespace, asks, pod_body("picky", "picky"))
    told(stage, namespace, "picky", "CardInsufficientMemory (1/3 GPUs: need 10240Mi, max free 6144Mi)")
    told(stage, namespace, "picky", "CardTypeMismatch (2/3 GPUs")


@pytest.mark.usefixtures("used")
def test_percent_needs_another_amount_of_each_card(stage: ControllerStage, namespace: str) -> None:
    stage.create(namespace, stage.claim_body("most", memoryPercent=90), pod_body("most", "most"))
    free = left(stage, "memory")
    needs = [gpu.memory_total_bytes // MIB * 90 // 100 * MIB for gpu in CARDS]
    # The GPU that misses least.
    least, need, most = min((need - have, need, have) for need, have in zip(needs, free, strict=True))
    assert least > 0
    text = f"CardInsufficientMemory (3/3 GPUs: need {need // MIB}Mi, max free {most // MIB}Mi)"
    told(stage, namespace, "most", text)


@pytest.mark.usefixtures("used")
def test_the_text_follows_what_happens(stage: ControllerStage, namespace: str) -> None:
    stage.create(namespace, stage.claim_body("waits", "40000Mi", cores=90), pod_body("waits", "waits"))
    told(stage, namespace, "waits", missing(stage, "40000Mi", 90))
    stage.delete_pod("user-l40s", namespace)
    # The L40S is free now: memory is enough there, and cores are.
    stage.wait_pod("waits", namespace=namespace)
    (share,) = shares(stage.claim("waits", namespace))
    assert share.device == CARDS[1].device_name
    allocated = stage.wait_event(namespace, "waits", "ClaimAllocated")
    for word in ("mixed", share.device, "40000Mi", "90"):
        assert word in allocated["message"]
    # What waits now is told the numbers of now.
    stage.create(namespace, stage.claim_body("next", "45000Mi"), pod_body("next", "next"))
    told(stage, namespace, "next", missing(stage, "45000Mi"))
    stage.create(namespace, stage.claim_body("small", "1000Mi"), pod_body("small", "small"))
    stage.wait_pod("small", namespace=namespace)
    told(stage, namespace, "next", missing(stage, "45000Mi"))


@pytest.mark.usefixtures("used")
def test_kubectl_describe_says_it(stage: ControllerStage, namespace: str) -> None:
    stage.create(namespace, stage.claim_body("seen", "60Gi"), pod_body("seen", "seen"))
    text = missing(stage, "60Gi")
    told(stage, namespace, "seen", text)
    for kind in ("pod", "resourceclaim"):
        described = stage.kubectl.output("describe", kind, "seen", "--namespace", namespace)
        (line,) = [line for line in described.splitlines() if "ClaimUnschedulable" in line]
        assert re.match(r"\s+Warning\s+ClaimUnschedulable\s", line), line
        assert "fracgpu-controller" in line
        assert text in line
    stage.delete_pod("user-h200", namespace)
    stage.wait_pod("seen", namespace=namespace)
    stage.wait_event(namespace, "seen", "ClaimAllocated")
    (share,) = shares(stage.claim("seen", namespace))
    for kind in ("pod", "resourceclaim"):
        described = stage.kubectl.output("describe", kind, "seen", "--namespace", namespace)
        (line,) = [line for line in described.splitlines() if "ClaimAllocated" in line]
        assert re.match(r"\s+Normal\s+ClaimAllocated\s", line), line
        assert share.node in line
        assert share.device in line
        assert "60Gi" in line


def test_slots_run_out(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(HollowNode(name="shared", gpus=[card(1), card(2)], slots=1)):
        for name in ("one", "two"):
            stage.run(namespace, name, "1Gi")
        stage.create(namespace, stage.claim_body("three", "1Gi"), pod_body("three", "three"))
        told(stage, namespace, "three", "CardTimeSlicingExhausted (2/2 GPUs")


def test_without_any_gpu(stage: ControllerStage, namespace: str) -> None:
    stage.create(namespace, stage.claim_body("lost", "1Gi"), pod_body("lost", "lost"))
    told(stage, namespace, "lost", "NodeInsufficientDevice")


def test_a_claim_that_means_nothing_is_told_so(stage: ControllerStage, namespace: str) -> None:
    with stage.nodes(HollowNode(name="shared", gpus=[card(1)])):
        asks = stage.claim_body("odd", "1Gi", selector=f"{OURS}.nonsense == 'x'")
        stage.create(namespace, asks, pod_body("odd", "odd"))
        event = stage.wait_event(namespace, "odd", "ClaimUnschedulable")
        assert "nonsense" in event["message"]
