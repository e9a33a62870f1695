"""Events about limits that are bypassed: on which objects, how often, and what is no reason for one."""

import logging

import pytest

from fracgpu.driver.kube.errors import Forbidden
from fracgpu.driver.names import ClaimUid
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.device_status import make_reports
from fracgpu.kubeletplugin.proof.events import enforcement_events
from tests.kubeletplugin.proof.reporter_setting import BAD, GOOD, NOW, OPEN, Setting, failure, observed


@pytest.fixture
def setting() -> Setting:
    one = Setting()
    one.api.add()
    return one


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


def test_events_tell_of_changes_also_where_the_api_server_keeps_no_status(setting: Setting) -> None:
    setting.api.keeps_devices = False
    setting.see(observed(enforced=GOOD))
    setting.see(observed(enforced=BAD), after=61)
    setting.see(observed(enforced=BAD, used_bytes=4 << 30), after=61)
    assert [e["reason"] for e in setting.api.events] == ["LibraryNotLoaded"] * 2
    setting.see(observed(enforced=GOOD), after=61)
    assert [e["reason"] for e in setting.api.events[2:]] == ["EnforcementRestored"] * 2


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


@pytest.mark.parametrize("character", "-.")
def test_the_name_of_an_event_is_one_however_the_claims_name_is_cut(character: str) -> None:
    name = "a" * 230 + character * 6 + "b"
    ref = ClaimRef("ns", name, ClaimUid("u"))
    (event,) = enforcement_events(ref, {}, make_reports([observed(enforced=BAD)]), node_name="n1", now=NOW)
    cut, _, unique = event["metadata"]["name"].rpartition(".")
    assert (cut, len(unique)) == ("a" * 230, 16)
