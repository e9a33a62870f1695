"""What a user reads of a claim: kubectl's own words, held against what docs/user/proof.md prints and promises.

The lab has no kubectl and describes claims by itself (`fracgpu.sim.lab.kubectl_describe`): the same objects are given
to both here, and must read the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from fracgpu.sim.lab.climbing import DRIVER_API_CLIMB
from fracgpu.sim.lab.kubectl_describe import describe
from fracgpu.sim.lab.options import MIB
from fracgpu.sim.lab.proof_checks import condition, our_entry
from fracgpu.sim.lab.stage import Stage
from fracgpu.sim.node.api import Json
from tests.cluster.cluster import Cluster
from tests.cluster.node import ClusterNode

_DOCUMENT: Final = Path("docs/user/proof.md")
_COMMAND: Final = "$ kubectl describe resourceclaim share-a\n"
_POD: Final = "share-a"
_LIMIT_MIB: Final = 8000
# All of it: a context of 64 MiB, and 31 steps of 256 MiB.
_CLIMBED_BYTES: Final = 8000 * MIB
_BYPASS: Final = ("env", "LD_LIBRARY_PATH=/run/fracgpu/driver")
_TRIES: Final = 10
_CLOCK_STEP: Final = timedelta(milliseconds=20)
# One on each side of where kubectl's words for an age change, seconds that stay the same for a while first.
_AGES: Final = (
    *(timedelta(seconds=90), timedelta(minutes=5, seconds=20), timedelta(minutes=40), timedelta(hours=4, minutes=30)),
    *(timedelta(hours=30), timedelta(days=3, hours=5), timedelta(days=100), timedelta(days=1000), timedelta(days=4000)),
)

# Differs from run to run: what it is, and what stands for it here.
_VARIABLE: Final = (
    (r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "GPU-<uuid>"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"\b[0-9a-f]{64}\b", "<digest>"),
    (r"interceptor [0-9a-f]{12}\b", "interceptor <digest>"),
    (r"gpu-[0-9a-f]{8}\b", "gpu-<uuid>"),
)


@pytest.fixture
def stage(cluster: Cluster, namespace: str) -> Stage:
    """A running pod with a claim of 8000 MiB that holds nothing yet."""
    stage = Stage.prepare(cluster, node=ClusterNode(cluster), namespace=namespace)
    cluster.apply(stage.manifest(_POD, _LIMIT_MIB), namespace)
    cluster.wait_pod(_POD, namespace=namespace)
    return stage


@contextmanager
def running(cluster: Cluster, stage: Stage, *argv: str) -> Iterator[None]:
    """Run a program in the pod that says with its first words of success that it holds what it got, then end it."""
    process = cluster.spawn(_POD, list(argv), namespace=stage.namespace)
    try:
        assert any(word in line for line in process.lines() for word in (b'"refused"', b'"ready": true'))
        yield
    finally:
        process.terminate()
        process.communicate()


def wait_enforced(cluster: Cluster, stage: Stage, status: str, reason: str, *, used_bytes: int | None = None) -> Json:
    """Wait until the claim says so; with the number, if one is given, which is written once a minute at most."""

    def told(claims: dict[str, Json]) -> Json | None:
        entry = our_entry(claims[_POD]) or {}
        found = condition(entry, "Enforced")
        if (found.get("status"), found.get("reason")) != (status, reason):
            return None
        return claims[_POD] if used_bytes in (None, entry["data"]["memoryUsedBytes"]) else None

    path = f"/apis/resource.k8s.io/v1/namespaces/{stage.namespace}/resourceclaims"
    return cluster.wait_for(path, told, what=f"Enforced={status} {reason}")


@dataclass(frozen=True)
class Reading:
    """What kubectl printed, of which objects, between which two moments."""

    text: str
    claim: Json
    events: list[Json]
    began: datetime
    ended: datetime

    def ours(self) -> list[str]:
        """Return what the lab would print of the same objects, for all moments in which kubectl may have done so."""
        steps = (self.ended - self.began) // _CLOCK_STEP + 1
        moments = [self.began + number * _CLOCK_STEP for number in range(steps)]
        return [describe(self.claim, self.events, now=moment) for moment in moments]


def read(cluster: Cluster, stage: Stage) -> Reading:
    """Let kubectl describe the claim while nobody changes it."""
    for _ in range(_TRIES):
        claim, events = stage.claim(_POD), cluster.events(stage.namespace)
        began = datetime.now(UTC)
        text = cluster.describe_claim(_POD, stage.namespace)
        ended = datetime.now(UTC)
        if (claim, events) == (stage.claim(_POD), cluster.events(stage.namespace)):
            return Reading(text, claim, events, began, ended)
    raise AssertionError(f"the claim never stood still: {claim}")


def normalised(text: str) -> str:
    for pattern, word in _VARIABLE:
        text = re.sub(pattern, word, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def documented() -> list[str]:
    """Return the parts of the description in the documentation, between its dots."""
    _, found, rest = _DOCUMENT.read_text().partition(_COMMAND)
    assert found, f"{_DOCUMENT} does not show {_COMMAND}"
    parts = [normalised(part) for part in re.split(r"^\.\.\.\n", rest.partition("```")[0], flags=re.MULTILINE)]
    return [part for part in parts if part]


def test_the_documentation_shows_what_kubectl_prints(cluster: Cluster, stage: Stage) -> None:
    with running(cluster, stage, *DRIVER_API_CLIMB):
        wait_enforced(cluster, stage, "True", "InterceptorAttached", used_bytes=_CLIMBED_BYTES)
        reading = read(cluster, stage)
    printed = normalised(reading.text)
    parts = documented()
    assert sum(part.count("\n") for part in parts) > 30
    for part in parts:
        assert part in printed, f"{_DOCUMENT} shows\n{part}\n\nkubectl printed\n{reading.text}"


def test_the_lab_describes_as_kubectl_does(cluster: Cluster, stage: Stage) -> None:
    wait_enforced(cluster, stage, "Unknown", "NoProcess")
    with running(cluster, stage, *_BYPASS, "fracgpu-hold", "driver", "100"):
        wait_enforced(cluster, stage, "False", "LibraryNotLoaded")
        wait_told(cluster, stage, "LibraryNotLoaded")
        for number, age in enumerate(_AGES):
            make_event(cluster, stage, f"old-{number}", datetime.now(UTC) - age, count=1 + number % 2)
        reading = read(cluster, stage)
    events = reading.text.partition("Events:")[2]
    assert "LibraryNotLoaded" in events
    assert re.search(r"Happened +5m2\d+s \(x2 over ", events), events
    assert reading.text in reading.ours(), f"kubectl:\n{reading.text}\nthe lab:\n{reading.ours()[0]}"


def test_claim_and_pod_get_the_events_that_are_promised(cluster: Cluster, stage: Stage) -> None:
    with running(cluster, stage, "fracgpu-hold", "driver", "100"):
        wait_enforced(cluster, stage, "True", "InterceptorAttached")
        with running(cluster, stage, *_BYPASS, "fracgpu-hold", "driver", "100"):
            claim = wait_enforced(cluster, stage, "False", "LibraryNotLoaded")
            wait_told(cluster, stage, "LibraryNotLoaded")
        wait_enforced(cluster, stage, "True", "InterceptorAttached")
        wait_told(cluster, stage, "EnforcementRestored")
    # Users read them where they look first.
    described = {
        kind: cluster.kubectl.output("describe", kind, _POD, "--namespace", stage.namespace).partition("Events:")[2]
        for kind in ("pod", "resourceclaim")
    }
    for text in described.values():
        assert re.search(r"Warning +LibraryNotLoaded .*\(fracgpu-hold\)", text), text
        assert re.search(r"Normal +EnforcementRestored ", text), text
    assert condition(our_entry(claim) or {}, "Enforced")["message"].partition(",")[0] in described["resourceclaim"]


def make_event(cluster: Cluster, stage: Stage, name: str, moment: datetime, *, count: int) -> None:
    """Let something have happened to the claim at that moment, and a day earlier for the first time."""
    claim = stage.claim(_POD)
    reference = {"apiVersion": claim["apiVersion"], "kind": claim["kind"]}
    reference |= {key: claim["metadata"][key] for key in ("name", "namespace", "uid")}
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": stage.namespace},
        "involvedObject": reference,
        "type": "Normal",
        "reason": "Happened",
        "message": f"number {name}\n",
        "source": {"component": "test"},
        "firstTimestamp": rfc3339(moment - timedelta(days=1) if count > 1 else moment),
        "lastTimestamp": rfc3339(moment),
        "count": count,
    }
    cluster.api.create(f"/api/v1/namespaces/{stage.namespace}/events", body)


def rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def wait_told(cluster: Cluster, stage: Stage, reason: str) -> None:
    """Wait until pod and claim have an event with the reason."""

    def told(events: dict[str, Json]) -> bool | None:
        kinds = {event["involvedObject"]["kind"] for event in events.values() if event.get("reason") == reason}
        return True if {"Pod", "ResourceClaim"} <= kinds else None

    cluster.wait_for(f"/api/v1/namespaces/{stage.namespace}/events", told, what=f"events {reason}")
