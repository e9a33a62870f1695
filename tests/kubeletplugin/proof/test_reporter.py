"""When claims are written, by which way, and what happens when the API server will not have it."""

# ruff: noqa: ARG002 (the stand-in has the signatures of what it stands for)

import copy
import json
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.kill_points import watched
from fracgpu.driver.names import DRIVER_NAME, ClaimUid
from fracgpu.driver.usage import GpuMemory
from fracgpu.kubeletplugin.errors import Conflict, Forbidden, Immutable, NotFound, Refused, Unavailable
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.claim_writer import ClaimWriter, Outcome
from fracgpu.kubeletplugin.proof.device_status import make_reports
from fracgpu.kubeletplugin.proof.members import ClaimConsumers
from fracgpu.kubeletplugin.proof.observation import (
    AllocationObservation,
    Finding,
    GpuObservation,
    NodeObservation,
    Truth,
)
from fracgpu.kubeletplugin.proof.pace import ClaimPace, TokenBucket
from fracgpu.kubeletplugin.proof.reporter import StatusReporter
from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim

GIB = 1 << 30
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GOOD = Finding(Truth.TRUE, "InterceptorAttached", "1 process has the interceptor")
BAD = Finding(Truth.FALSE, "LibraryNotLoaded", "process 4711 (python) uses the GPU without the interceptor")
OPEN = Finding(Truth.UNKNOWN, "NoProcess", "no process")
PARAMETERS = b'{ "memory": "8Gi" }'


def observed(name: str = "c1", enforced: Finding = OPEN, **changes: Any) -> AllocationObservation:
    record = AllocationRecord(
        allocation_id=f"uid-{name}-gpu-gpu-11111111-0",
        index=0,
        request="gpu",
        pool="n1",
        device="gpu-11111111",
        gpu_uuid="GPU-11111111-2222-3333-4444-555555555555",
        share_id=None,
        memory_bytes=8 * GIB,
        cores=0,
        slots=1,
        limited=True,
        admin=False,
    )
    fields: dict[str, Any] = {
        "claim": ClaimRef("ns", name, ClaimUid(f"uid-{name}")),
        "record": record,
        "library_digest": "d" * 64,
        "prepared": Finding(Truth.TRUE, "Prepared", ""),
        "enforced": enforced,
        "within_limit": Finding(Truth.TRUE, "WithinLimit", ""),
        "compatible": Finding(Truth.TRUE, "Compatible", ""),
        "used_bytes": 0,
        "peak_bytes": 0,
        "refusals": 0,
        "processes": 0,
        "observed_at": NOW,
    }
    return AllocationObservation(**fields | changes)


def node(*allocations: AllocationObservation) -> NodeObservation:
    gpu = GpuObservation(gpu_uuid="GPU-1", healthy=True, memory=GpuMemory(0, 0, 0), foreign_processes=0)
    return NodeObservation(allocations=allocations, gpus=(gpu,))


def stored_claim(name: str = "c1", *devices: dict[str, Any]) -> dict[str, Any]:
    result = {"request": "gpu", "driver": DRIVER_NAME, "pool": "n1", "device": "gpu-11111111"}
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": "1"},
        "status": {
            "allocation": {"devices": {"results": [result]}},
            "reservedFor": [{"resource": "pods", "name": "p1", "uid": "pod-uid"}],
            "devices": list(devices),
        },
    }


@dataclass
class Api:
    """ClaimStatusApi in memory. `fails` are raised by the next writes, one each, `reading` by every read."""

    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    fails: list[Exception] = field(default_factory=list)
    reading: Exception | None = None
    calls: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    on_write: Callable[[], None] = lambda: None

    def add(self, name: str = "c1", *devices: dict[str, Any]) -> None:
        self.claims[name] = stored_claim(name, *devices)

    def get_claim(self, namespace: str, name: str) -> dict[str, Any]:
        self.calls.append(f"get {name}")
        if self.reading is not None:
            raise self.reading
        if name not in self.claims:
            raise NotFound(f"claim {name}", "status 404", remedy="create it")
        return copy.deepcopy(self.claims[name])

    def patch_claim_status(self, namespace: str, name: str, patch: dict[str, Any]) -> None:
        self._write(f"patch {name}", name, patch["metadata"]["resourceVersion"], patch["status"]["devices"])

    def get_claim_message(self, namespace: str, name: str) -> ResourceClaim:
        raw = self.get_claim(namespace, name)
        message = ResourceClaim()
        message.metadata.name, message.metadata.namespace = name, namespace
        message.metadata.uid, message.metadata.resourceVersion = raw["metadata"]["uid"], "m"
        message.spec.devices.config.add().deviceConfiguration.opaque.parameters.raw = PARAMETERS
        for one in raw["status"]["allocation"]["devices"]["results"]:
            result = message.status.allocation.devices.results.add()
            result.driver, result.pool, result.device = one["driver"], one["pool"], one["device"]
        for one in raw["status"]["devices"]:
            message.status.devices.add(driver=one["driver"], pool=one["pool"], device=one["device"])
        return message

    def replace_claim_status_message(self, claim: ResourceClaim) -> None:
        assert claim.spec.devices.config[0].deviceConfiguration.opaque.parameters.raw == PARAMETERS
        devices = [
            {
                "driver": one.driver,
                "pool": one.pool,
                "device": one.device,
                "conditions": [{"type": c.type, "status": c.status, "reason": c.reason} for c in one.conditions],
                "data": json.loads(one.data.raw or b"{}"),
            }
            for one in claim.status.devices
        ]
        self._write(f"message {claim.metadata.name}", claim.metadata.name, None, devices)

    def create_event(self, namespace: str, body: dict[str, Any]) -> None:
        self._fail("event")
        self.events.append(body)

    def writes(self) -> list[str]:
        return [call for call in self.calls if call.startswith(("patch ", "message "))]

    def enforced(self, name: str = "c1") -> str:
        (entry,) = [one for one in self.claims[name]["status"]["devices"] if one["driver"] == DRIVER_NAME]
        (condition,) = [one for one in entry["conditions"] if one["type"] == "Enforced"]
        return f"{condition['status']}/{condition['reason']}"

    def _write(self, call: str, name: str, version: str | None, devices: list[dict[str, Any]]) -> None:
        self._fail(call)
        current = self.claims[name]["metadata"]
        if version is not None and version != current["resourceVersion"]:
            raise Conflict("claim", "status 409", remedy="read it again")
        current["resourceVersion"] = str(int(current["resourceVersion"]) + 1)
        self.claims[name]["status"]["devices"] = devices

    def _fail(self, call: str) -> None:
        self.calls.append(call)
        self.on_write()
        if self.fails:
            raise self.fails.pop(0)


def failure(kind: type[Any]) -> Exception:
    error: Exception = kind("PATCH claim", "status 4xx: no", remedy="see")
    return error


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Setting:
    def __init__(self) -> None:
        self.api = Api()
        self.clock = Clock()
        self.consumers = ClaimConsumers()
        self.outcomes: list[str] = []
        self.reporter = StatusReporter(
            node_name="n1",
            cluster=self.api,
            consumers=self.consumers,
            on_outcome=lambda _ref, outcome: self.outcomes.append(str(outcome)),
            clock=self.clock,
            now=lambda: NOW,
        )

    def see(self, *allocations: AllocationObservation, after: float = 0.0) -> list[str]:
        """Let time pass, report the observation, and return the writes that followed."""
        self.clock.seconds += after
        before = len(self.api.writes())
        self.reporter.observe(node(*allocations))
        self.reporter.step()
        return self.api.writes()[before:]


@pytest.fixture
def setting() -> Setting:
    one = Setting()
    one.api.add()
    return one


def test_nothing_is_done_before_the_first_look(setting: Setting) -> None:
    setting.reporter.step()
    assert setting.api.calls == []


def test_a_verdict_is_written_at_once_and_numbers_each_minute(setting: Setting) -> None:
    assert setting.see(observed()) == ["patch c1"]
    assert setting.api.enforced() == "Unknown/NoProcess"
    assert setting.see(observed(enforced=GOOD), after=1) == ["patch c1"]
    assert setting.see(observed(enforced=GOOD, used_bytes=4 * GIB), after=30) == []
    assert setting.see(observed(enforced=GOOD, used_bytes=4 * GIB), after=30) == ["patch c1"]
    assert setting.see(observed(enforced=GOOD, used_bytes=4 * GIB + 1), after=61) == []
    assert setting.see(observed(enforced=BAD, used_bytes=4 * GIB), after=1) == ["patch c1"]
    assert setting.outcomes == ["written"] * 4


def test_a_claim_is_written_once_a_second_at_most(setting: Setting) -> None:
    assert setting.see(observed()) == ["patch c1"]
    assert setting.see(observed(enforced=GOOD), after=0.5) == []
    assert setting.see(observed(enforced=GOOD), after=0.5) == ["patch c1"]


def test_what_the_claim_says_already_is_not_written_by_a_plugin_that_starts_again(setting: Setting) -> None:
    setting.see(observed(enforced=GOOD))
    again = Setting()
    again.api = setting.api
    again.reporter = StatusReporter(node_name="n1", cluster=setting.api, consumers=again.consumers, clock=again.clock)
    setting.api.calls.clear()
    assert again.see(observed(enforced=GOOD)) == []
    assert setting.api.calls == ["get c1"]
    assert again.see(observed(enforced=GOOD), after=1) == []
    assert setting.api.calls == ["get c1"]


def test_slow_growth_is_written_when_it_adds_up(setting: Setting) -> None:
    setting.see(observed(enforced=GOOD))
    step = 8 * GIB // 50
    writes = [setting.see(observed(enforced=GOOD, used_bytes=n * step), after=400) for n in range(1, 7)]
    assert [bool(one) for one in writes] == [False, False, True, False, False, True]


def test_reading_a_claim_again_does_not_hide_what_grew_before(setting: Setting) -> None:
    setting.see(observed(enforced=GOOD))
    percent = 8 * GIB // 100
    assert setting.see(observed(enforced=GOOD, used_bytes=4 * percent), after=300) == []
    assert setting.see(observed(enforced=GOOD, used_bytes=6 * percent), after=60) == ["patch c1"]


def test_now_and_then_the_claim_is_read_again(setting: Setting) -> None:
    setting.see(observed(enforced=GOOD))
    setting.api.claims["c1"]["status"]["devices"] = []
    setting.api.claims["c1"]["status"]["reservedFor"].append({"resource": "pods", "name": "p2", "uid": "later"})
    assert setting.see(observed(enforced=GOOD), after=299) == []
    assert setting.see(observed(enforced=GOOD), after=1) == ["patch c1"]
    assert setting.consumers.pods("uid-c1") == {"pod-uid", "later"}


def test_many_claims_at_once_are_spread(setting: Setting) -> None:
    names = [f"c{n}" for n in range(30)]
    for name in names:
        setting.api.add(name)
    all_of_them = [observed(name) for name in names]
    counts = [len(setting.see(*all_of_them, after=1)) for _ in range(6)]
    assert counts == [10, 5, 5, 5, 5, 0]
    assert {setting.api.enforced(name) for name in names} == {"Unknown/NoProcess"}


def test_a_conflict_is_read_again_and_written(setting: Setting) -> None:
    setting.api.fails = [failure(Conflict), failure(Conflict)]
    assert setting.see(observed()) == ["patch c1"] * 3
    assert setting.outcomes == ["written"]


def test_conflicts_without_end_are_given_up_for_now(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    setting.api.fails = [failure(Conflict) for _ in range(4)]
    assert setting.see(observed()) == ["patch c1"] * 4
    assert setting.outcomes == ["conflict"]
    assert setting.see(observed(), after=1) == []
    assert setting.see(observed(), after=1) == ["patch c1"]
    assert [record.message for record in caplog.records] == ["claim not reported on"]


@pytest.mark.parametrize("change", ["deleted", "recreated", "deallocated"])
def test_a_claim_that_is_gone_is_dropped_silently(
    setting: Setting, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    if change == "deleted":
        setting.api.claims.clear()
    elif change == "recreated":
        setting.api.claims["c1"]["metadata"]["uid"] = "another"
    else:
        setting.api.claims["c1"]["status"] = {}
    assert setting.see(observed()) == []
    assert setting.see(observed(enforced=BAD), after=60) == []
    assert setting.api.calls == ["get c1"]
    assert setting.outcomes == ["gone"]
    assert caplog.records == []


def test_missing_rights_are_told_once_with_the_rights_that_are_missing(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    setting.api.add("c2")
    setting.api.fails = [failure(Forbidden) for _ in range(4)]
    assert setting.see(observed(), observed("c2")) == ["patch c1", "patch c2"]
    assert setting.see(observed(enforced=BAD), observed("c2"), after=299) == []
    assert setting.see(observed(), observed("c2"), after=1) == ["patch c1", "patch c2"]
    (record,) = caplog.records
    assert "associated-node:patch" in record.__dict__["remedy"]
    assert "resourceclaims/driver gpu.fracgpu.dev" in record.__dict__["remedy"]
    assert setting.see(observed(), observed("c2"), after=300) == ["patch c1", "patch c2"]
    assert setting.outcomes == ["forbidden"] * 4 + ["written"] * 2
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", [Refused, Unavailable])
def test_other_refusals_are_told_once_for_each_claim(
    setting: Setting, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    setting.api.fails = [failure(kind), failure(kind)]
    setting.see(observed())
    setting.see(observed(), after=400)
    assert [record.__dict__["claim"] for record in caplog.records] == ["ns/c1"]
    assert setting.see(observed(), after=400) == ["patch c1"]
    setting.api.fails = [failure(kind)]
    setting.see(observed(enforced=GOOD), after=1)
    assert len(caplog.records) == 2


def test_an_api_server_that_is_away_is_asked_less_and_less(setting: Setting) -> None:
    setting.api.reading = failure(Unavailable)
    asked = []
    for _ in range(400):
        setting.api.calls.clear()
        setting.see(observed(), after=1)
        asked.append(len(setting.api.calls))
    assert sum(asked) == 5 + 400 // 60
    setting.api.reading = None
    assert setting.see(observed(enforced=BAD), after=60) == ["patch c1"]
    assert setting.api.enforced() == "False/LibraryNotLoaded"


def test_a_claim_that_json_can_not_write_goes_over_protobuf_from_then_on(setting: Setting) -> None:
    setting.api.fails = [failure(Immutable)]
    assert setting.see(observed()) == ["patch c1", "message c1"]
    assert setting.api.enforced() == "Unknown/NoProcess"
    assert setting.see(observed(enforced=GOOD), after=1) == ["message c1"]
    # Forgotten with the claim.
    assert setting.see(after=1) == []
    assert setting.see(observed(enforced=BAD), after=1) == ["patch c1"]


def test_protobuf_failing_too_is_told_and_nothing_more(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    setting.api.fails = [failure(Immutable), failure(Refused)]
    assert setting.see(observed()) == ["patch c1", "message c1"]
    assert setting.outcomes == ["refused"]
    assert [record.message for record in caplog.records] == ["claim not reported on"]


def test_data_of_another_driver_is_never_spelt_anew(setting: Setting) -> None:
    other = {"driver": "net.example.com", "pool": "n1", "device": "eth0"}
    setting.api.add("c1", other)
    assert setting.see(observed()) == ["patch c1"]
    setting.api.add("c1", {**other, "data": {"b": 1, "a": 2}})
    assert setting.see(observed(enforced=GOOD), after=1) == ["message c1"]
    assert len(setting.api.claims["c1"]["status"]["devices"]) == 2


def test_every_write_has_a_kill_point(setting: Setting) -> None:
    points: list[str] = []
    setting.api.fails = [failure(Immutable)]
    seen: list[int] = []
    setting.api.on_write = lambda: seen.append(len(points))
    with watched(points.append):
        setting.see(observed())
    assert points == ["patch claim status", "replace claim status"]
    assert seen == [1, 2]


def test_a_bypass_is_an_event_on_claim_and_pods_and_so_is_its_end(setting: Setting) -> None:
    setting.see(observed())
    setting.see(observed(enforced=GOOD), after=1)
    assert setting.api.events == []
    setting.see(observed(enforced=BAD), after=1)
    kinds = [
        (e["involvedObject"]["kind"], e["involvedObject"]["uid"], e["type"], e["reason"]) for e in setting.api.events
    ]
    assert kinds == [
        ("ResourceClaim", "uid-c1", "Warning", "LibraryNotLoaded"),
        ("Pod", "pod-uid", "Warning", "LibraryNotLoaded"),
    ]
    assert "gpu-11111111 of claim c1: process 4711 (python)" in setting.api.events[0]["message"]
    setting.api.events.clear()
    # Its process ended: nothing is wrong any more, but nothing is known to be right.
    setting.see(observed(enforced=OPEN), after=1)
    assert setting.api.events == []
    setting.see(observed(enforced=BAD), after=61)
    setting.see(observed(enforced=GOOD), after=1)
    assert [(e["type"], e["reason"]) for e in setting.api.events] == [("Warning", "LibraryNotLoaded")] * 2 + [
        ("Normal", "EnforcementRestored")
    ] * 2


def test_a_verdict_that_flaps_is_told_once_a_minute(setting: Setting) -> None:
    for _ in range(10):
        setting.see(observed(enforced=BAD), after=2)
        setting.see(observed(enforced=GOOD), after=2)
    assert len(setting.api.events) == 4


def test_an_event_that_is_refused_is_no_news(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    setting.see(observed())

    def refuse() -> None:
        if setting.api.calls[-1] == "event":
            setting.api.fails = [failure(Forbidden)]

    setting.api.on_write = refuse
    with caplog.at_level(logging.INFO):
        setting.see(observed(enforced=BAD), after=1)
    assert setting.outcomes == ["written", "written"]
    assert caplog.records == []


def test_the_loop_goes_on_whatever_happens(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    setting.api.reading = ValueError("a bug")
    setting.reporter.observe(node(observed()))
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        setting.clock.seconds += 400
        if len(waits) == 3:
            setting.api.reading = None
        return len(waits) == 4

    setting.reporter.run(wait)
    assert setting.api.writes() == ["patch c1"]
    assert [record.message for record in caplog.records] == ["claims not reported on"] * 2


def test_only_the_newest_observation_counts(setting: Setting) -> None:
    steps: queue.Queue[bool] = queue.Queue()
    done = threading.Event()

    def wait(_seconds: float) -> bool:
        return steps.get(timeout=30)

    def report() -> None:
        setting.reporter.run(wait)
        done.set()

    thread = threading.Thread(target=report)
    thread.start()
    for enforced in (OPEN, GOOD, BAD):
        setting.reporter.observe(node(observed(enforced=enforced)))
    steps.put(False)
    steps.put(True)
    assert done.wait(30)
    thread.join()
    assert setting.api.writes() == ["patch c1"]
    assert setting.api.enforced() == "False/LibraryNotLoaded"


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_the_bucket_never_gives_more_than_its_rate(times: list[tuple[float, bool]]) -> None:
    bucket = TokenBucket(rate=2.0, burst=3.0)
    now, given_at = 0.0, []
    for pause, asks in times:
        now += pause
        if asks and bucket.take(now):
            given_at.append(now)
    for first in range(len(given_at)):
        for last in range(first, len(given_at)):
            assert last - first + 1 <= 3 + 2.0 * (given_at[last] - given_at[first]) + 1e-6


@given(st.lists(st.tuples(st.sampled_from(list(Outcome)), st.floats(0, 500)), max_size=20))
def test_after_whatever_outcome_there_is_a_pause_and_an_end_of_it(history: list[tuple[Outcome, float]]) -> None:
    pace, now = ClaimPace(), 0.0
    reports = make_reports([observed()])
    changed = make_reports([observed(enforced=BAD)])
    for outcome, pause in history:
        pace.record(outcome, reports, now)
        assert not pace.is_due(changed, now + 0.9)
        assert pace.is_due(changed, now + 300)
        now += pause


def test_the_writer_names_a_claim_that_changed_between_two_reads(setting: Setting) -> None:
    setting.api.fails = [failure(Immutable)]
    inner = setting.api.get_claim_message

    def other(namespace: str, name: str) -> ResourceClaim:
        message = inner(namespace, name)
        message.metadata.uid = "another"
        return message

    setting.api.get_claim_message = other  # type: ignore[method-assign]
    writer = ClaimWriter(setting.api)
    one = observed()
    assert writer.write(one.claim, make_reports([replace(one)])).outcome is Outcome.GONE
