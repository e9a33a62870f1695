"""When claims are written, by which way, and what happens when the API server will not have it."""

import queue
import threading

import pytest

from fracgpu.driver.kill_points import watched
from fracgpu.driver.kube.errors import Conflict, Forbidden, Immutable, Refused, Unavailable
from fracgpu.kubeletplugin.proof.reporter import StatusReporter
from tests.kubeletplugin.proof.reporter_setting import BAD, GIB, GOOD, OPEN, Setting, failure, node, observed


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


@pytest.mark.parametrize("by_message", [False, True], ids=["json", "protobuf"])
def test_a_status_that_the_api_server_drops_is_told_once_for_all_claims(
    setting: Setting, caplog: pytest.LogCaptureFixture, by_message: bool
) -> None:
    setting.api.add("c2")
    setting.api.keeps_devices = False
    if by_message:
        setting.api.fails = [failure(Immutable)]
    assert len(setting.see(observed(), observed("c2"))) == 2 + by_message
    assert setting.see(observed(), observed("c2"), after=59) == []
    (record,) = caplog.records
    assert "keeps nothing of status.devices" in record.__dict__["error"]
    assert "DRAResourceClaimDeviceStatus" in record.__dict__["remedy"]
    # A verdict that gets worse is tried at once: its event is all that people see.
    assert len(setting.see(observed(enforced=BAD), observed("c2"), after=1)) == 1
    assert setting.outcomes == ["dropped"] * 3
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", [Refused, Unavailable])
def test_other_refusals_are_told_once_for_each_claim(
    setting: Setting, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    setting.api.fails = [failure(kind), failure(kind)]
    setting.see(observed())
    setting.see(observed(), after=400)
    about = [tuple(record.__dict__[name] for name in ("claim", "uid", "gpu")) for record in caplog.records]
    assert about == [("ns/c1", "uid-c1", "GPU-11111111-2222-3333-4444-555555555555")]
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
