"""The election under a clock that the test turns, with answers that come late, are lost, or never were asked for."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.controller.lead.election import Leadership, Timing
from fracgpu.controller.lead.record import Record
from fracgpu.driver.kube.errors import Conflict, Unavailable

TIMING = Timing(lease=15, renew=10.0, retry=2.0)
AWAY = Unavailable("API server", "silent", remedy="wait")


class Store:
    """One Lease, as the API server keeps it."""

    def __init__(self) -> None:
        self.record: Record | None = None
        self._versions = itertools.count(1)

    def write(self, record: Record | None) -> None:
        self.record = None if record is None else replace(record, version=str(next(self._versions)))

    @property
    def holder(self) -> str:
        return "" if self.record is None else self.record.holder


def nothing() -> None:
    """Happens."""


class Lock:
    """A replica's way to the store; `before` and `after` each call anything may happen."""

    def __init__(self, store: Store, before: Callable[[], None] = nothing, after: Callable[[], None] = nothing) -> None:
        self.store, self.before, self.after = store, before, after
        self.version = ""

    def read(self) -> Record | None:
        self.before()
        found = self.store.record
        self.after()
        self.version = "" if found is None else found.version
        return found

    def create(self, record: Record) -> None:
        self._write(record, "")

    def update(self, record: Record) -> None:
        self._write(record, self.version)

    def _write(self, record: Record, expected: str) -> None:
        self.before()
        if ("" if self.store.record is None else self.store.record.version) != expected:
            raise Conflict("lease", "changed", remedy="read")
        self.store.write(record)
        assert self.store.record is not None
        version = self.store.record.version
        self.after()
        self.version = version


class Setting:
    """One replica at a time, with a quiet API server."""

    def __init__(self) -> None:
        self.now = 100.0
        self.store = Store()
        self.ids = itertools.count(1)
        self.changes: list[str | None] = []

    def lock(self) -> Lock:
        return Lock(self.store)

    def replica(self, name: str = "pod-a", lock: Lock | None = None) -> Leadership:
        return Leadership(
            lock or self.lock(),
            identity=name,
            timing=TIMING,
            on_change=self.changes.append,
            clock=lambda: self.now,
            now=lambda: datetime(2026, 1, 1) + timedelta(seconds=self.now),
            new_id=lambda: str(next(self.ids)),
        )


@pytest.fixture
def setting() -> Setting:
    return Setting()


def fail() -> None:
    raise AWAY


def test_the_first_comes_leads_and_is_named_in_the_record(setting: Setting) -> None:
    first, second = setting.replica("pod-a"), setting.replica("pod-b")
    assert first.term() is None
    first.attempt()
    second.attempt()
    assert (first.term(), second.term()) == ("pod-a_1", None)
    assert setting.store.record is not None
    assert (setting.store.record.holder, setting.store.record.duration_seconds) == (first.term(), 15)
    assert setting.changes == ["pod-a_1"]


def test_a_renewed_lease_stays_where_it_is_for_ever(setting: Setting) -> None:
    first, second = setting.replica("pod-a"), setting.replica("pod-b")
    for _ in range(100):
        first.attempt()
        second.attempt()
        setting.now += 2
    assert (first.term(), second.term()) == ("pod-a_1", None)


def test_a_leader_that_can_not_renew_ends_before_another_may_begin(setting: Setting) -> None:
    first, second = setting.replica("pod-a"), setting.replica("pod-b")
    first.attempt()
    second.attempt()
    setting.now += 9.9
    assert first.term() == "pod-a_1"
    setting.now += 0.1
    assert first.term() is None
    setting.now += 4.9
    second.attempt()
    assert second.term() is None
    setting.now += 0.1
    second.attempt()
    assert second.term() == "pod-b_2"
    first.attempt()
    assert setting.changes == ["pod-a_1", "pod-b_2", None]


def test_the_validity_counts_from_before_the_request(setting: Setting) -> None:
    lock = setting.lock()

    def slow() -> None:
        setting.now += 4

    lock.after = slow
    first = setting.replica(lock=lock)
    first.attempt()
    assert first.term() is not None
    setting.now += 2
    assert first.term() is None


def test_each_lead_has_a_term_of_its_own(setting: Setting) -> None:
    first = setting.replica()
    first.attempt()
    setting.now += 11
    terms = ["pod-a_1"]
    for _ in range(20):
        first.attempt()
        setting.now += 2
        if (term := first.term()) is not None and term != terms[-1]:
            terms.append(term)
    assert terms == ["pod-a_1", "pod-a_2"]
    assert setting.changes == ["pod-a_1", None, "pod-a_2"]


def test_who_gives_back_is_followed_at_once(setting: Setting) -> None:
    first, second = setting.replica("pod-a"), setting.replica("pod-b")
    first.attempt()
    second.attempt()
    first.release()
    assert first.term() is None
    assert setting.store.holder == ""
    second.attempt()
    assert second.term() == "pod-b_2"
    first.release()
    assert setting.store.holder == "pod-b_2"


def test_who_is_stopped_releases(setting: Setting) -> None:
    first = setting.replica()
    answers = iter([False, False, True])
    first.run(lambda _: next(answers))
    assert first.term() is None
    assert setting.changes == ["pod-a_1", None]
    assert (setting.store.record is not None, setting.store.holder) == (True, "")


def test_a_write_whose_answer_was_lost_counts_when_it_is_seen(setting: Setting) -> None:
    lock = setting.lock()
    first = setting.replica(lock=lock)

    def lose_writes() -> None:
        if setting.store.holder:
            raise AWAY

    lock.after = lose_writes
    first.attempt()
    assert (first.term(), setting.store.holder) == (None, "pod-a_1")
    lock.after = nothing
    first.attempt()
    assert first.term() == "pod-a_1"


def delete(store: Store) -> None:
    store.write(None)


def empty(store: Store) -> None:
    store.write(Record(holder="", duration_seconds=1))


@pytest.mark.parametrize("vanish", [delete, empty])
def test_a_lease_that_was_taken_away_ends_the_term(setting: Setting, vanish: Callable[[Store], None]) -> None:
    """Somebody else may have led in between: to go on under the same name would hide that."""
    first = setting.replica()
    first.attempt()
    vanish(setting.store)
    first.attempt()
    assert first.term() is None
    first.attempt()
    assert first.term() == "pod-a_2"


def test_another_holder_ends_the_term_at_once(setting: Setting) -> None:
    first = setting.replica()
    first.attempt()
    setting.store.write(Record(holder="somebody", duration_seconds=15))
    first.attempt()
    assert first.term() is None
    assert setting.store.holder == "somebody"


def test_errors_end_nothing_before_the_deadline(setting: Setting) -> None:
    lock = setting.lock()
    first = setting.replica(lock=lock)
    first.attempt()
    lock.before = fail
    for _ in range(4):
        setting.now += 2
        first.attempt()
    assert first.term() == "pod-a_1"
    lock.before = nothing
    first.attempt()
    setting.now += 9
    assert first.term() == "pod-a_1"


def test_a_longer_promise_of_another_is_kept(setting: Setting) -> None:
    """Replicas of two releases may have other settings."""
    setting.store.write(Record(holder="old", duration_seconds=60))
    first = setting.replica()
    first.attempt()
    setting.now += 59
    first.attempt()
    assert first.term() is None
    setting.now += 1
    first.attempt()
    assert first.term() == "pod-a_1"


def test_waiting_ends_with_the_lead_or_without(setting: Setting) -> None:
    first = setting.replica()
    first.attempt()
    assert first.wait(5) == "pod-a_1"
    # Real time from here.
    assert Leadership(setting.lock(), identity="pod-b", timing=TIMING).wait(0.01) is None


class Replicas:
    """Several replicas whose requests overlap: while one waits for an answer, the others go on.

    Clocks run at one rate. `random` decides how long everything takes, what fails, who stalls and who stops.
    """

    def __init__(self, count: int, random: random.Random) -> None:
        self.now = 0.0
        self.store = Store()
        self.random = random
        self.trouble = True
        self.terms: list[str] = []
        self.busy = [False] * count
        self.due = [random.uniform(0, 3) for _ in range(count)]
        ids = itertools.count()
        self.replicas = [
            Leadership(
                Lock(self.store, self.travel, self.travel),
                identity=f"pod-{number}",
                timing=TIMING,
                on_change=lambda term: self.terms.append(term) if term else None,
                clock=lambda: self.now,
                new_id=lambda: str(next(ids)),
            )
            for number in range(count)
        ]

    def travel(self) -> None:
        """A request or an answer is under way."""
        if self.trouble:
            self.sleep(self.random.choice([0, 0, 0.01, 0.3, 4, 12, 30]) * self.random.random())
            if self.random.random() < 0.15:
                raise AWAY

    def sleep(self, seconds: float) -> None:
        """Let time pass; whoever is idle and due has a turn."""
        end = self.now + seconds
        while idle := [number for number, due in enumerate(self.due) if not self.busy[number] and due <= end]:
            number = min(idle, key=self.due.__getitem__)
            self.now = max(self.now, self.due[number])
            self.turn(number)
        self.now = max(self.now, end)

    def turn(self, number: int) -> None:
        self.busy[number] = True
        begun = self.now
        if self.trouble and self.random.random() < 0.03:
            self.replicas[number].release()
        else:
            self.replicas[number].attempt()
        stall = self.random.uniform(0, 40) if self.trouble and self.random.random() < 0.05 else 0.0
        self.due[number] = max(begun + TIMING.retry, self.now) + stall
        self.busy[number] = False
        self.check()

    def check(self) -> None:
        """Terms end by time alone: between two turns there are never more leaders than after the first."""
        leaders = [term for one in self.replicas if (term := one.term()) is not None]
        assert len(leaders) <= 1, (self.now, leaders)


@given(seed=st.integers(0, 2**32), count=st.integers(2, 4))
def test_there_are_never_two_leaders_and_in_the_end_there_is_one(seed: int, count: int) -> None:
    cluster = Replicas(count, random.Random(seed))  # noqa: S311 (a test)
    cluster.sleep(300)
    assert len(cluster.terms) == len(set(cluster.terms))
    cluster.trouble = False
    cluster.sleep(100)
    assert [one.term() for one in cluster.replicas].count(None) == count - 1
