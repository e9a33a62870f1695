"""When somebody is looked at, told, or left out again."""

from __future__ import annotations

from typing import Any

from fracgpu.controller.allocator.due import DueList
from fracgpu.controller.allocator.exclusions import Exclusions
from fracgpu.controller.allocator.explaining import Explaining
from fracgpu.controller.allocator.planner import Refuse
from fracgpu.controller.fit.views import Misfit
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.reasons import Reason
from tests.controller.allocator.simulation.replica import Notes

Json = dict[str, Any]


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pod(uid: str, version: int = 1) -> Json:
    return {"metadata": {"name": uid, "namespace": "default", "uid": uid, "resourceVersion": str(version)}}


def test_writes_that_fail_again_and_again_are_tried_less_and_less_often() -> None:
    clock = Time()
    due = DueList(clock)
    pauses = []
    for _ in range(10):
        due.failed(pod("a"), (), 0)
        next_due = due.next_due()
        assert next_due is not None
        pauses.append(next_due - clock.now)
        clock.now = next_due - 0.01
        assert not due.is_due(pod("a", 2), (), 9)
        clock.now = next_due
        assert due.is_due(pod("a"), (), 0)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_who_is_gone_is_forgotten() -> None:
    due = DueList(Time())
    for uid in ("a", "b"):
        due.failed(pod(uid), (), 0)
        due.failed(pod(uid), (), 0)
    due.keep({"b"})
    assert due.is_due(pod("a"), (), 0)
    due.keep(set())
    assert due.next_due() is None


def test_a_refused_pod_is_due_when_it_or_a_claim_or_the_supply_changes() -> None:
    due = DueList(Time())
    due.refused(pod("a"), [pod("c")], 5)
    assert not due.is_due(pod("a"), [pod("c")], 5)
    assert due.is_due(pod("a", 2), [pod("c")], 5)
    assert due.is_due(pod("a"), [pod("c", 2)], 5)
    assert due.is_due(pod("a"), [pod("c")], 6)


def test_a_node_is_left_out_longer_each_time_and_ten_minutes_at_most() -> None:
    clock = Time()
    exclusions = Exclusions(clock)
    lasted = []
    for _ in range(6):
        exclusions.add("pod", "n1")
        end = exclusions.next_end()
        assert end is not None
        lasted.append(end - clock.now)
        assert exclusions.covers("pod", "n1")
        assert not exclusions.covers("pod", "n2")
        assert not exclusions.take_ended()
        clock.now = end
        assert not exclusions.covers("pod", "n1")
        assert exclusions.take_ended()
        assert not exclusions.take_ended()
    assert lasted == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    exclusions.keep({"other"})
    assert not exclusions


def test_who_waits_longest_is_told_first_however_often_it_is_refused() -> None:
    clock = Time()
    notes = Notes()
    explaining = Explaining(notes, clock)
    misfit = Misfit((Reason(code=ReasonCode.CONFIG_INVALID, detail="no"),))
    for number in range(17):
        clock.now = float(number)
        explaining.refused(Refuse(pod=pod(f"p{number}"), claims=(), why=lambda: misfit))
    clock.now = 17.0
    explaining.refused(Refuse(pod=pod("p0"), claims=(), why=lambda: misfit))
    assert len(explaining.tell_some()) == 16
    assert ("p0", "ClaimUnschedulable") in notes.told
    assert ("p16", "ClaimUnschedulable") not in notes.told


def test_slow_surveys_leave_time_for_placing() -> None:
    clock = Time()

    def slow() -> Misfit:
        clock.now += 0.06
        return Misfit((Reason(code=ReasonCode.CONFIG_INVALID, detail="no"),))

    explaining = Explaining(Notes(), clock)
    for number in range(5):
        explaining.refused(Refuse(pod=pod(f"p{number}"), claims=(), why=slow))
    assert [len(explaining.tell_some()) for _ in range(3)] == [2, 2, 1]


def test_one_explanation_that_fails_keeps_nobody_else_from_being_told() -> None:
    notes = Notes()
    explaining = Explaining(notes, Time())

    def broken() -> Misfit:
        raise ValueError("a bug")

    explaining.refused(Refuse(pod=pod("bad"), claims=(), why=broken))
    misfit = Misfit((Reason(code=ReasonCode.CONFIG_INVALID, detail="no"),))
    explaining.refused(Refuse(pod=pod("good"), claims=(), why=lambda: misfit))
    assert len(explaining.tell_some()) == 1
    assert list(notes.told) == [("good", "ClaimUnschedulable")]
