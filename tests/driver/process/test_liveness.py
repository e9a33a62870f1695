"""Whether loops go round, by a clock that the test turns."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.process.liveness import Heartbeat, beating


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heart(clock: Clock) -> Heartbeat:
    return Heartbeat(bound_seconds=30, clock=clock)


def test_a_loop_has_its_bound_from_the_start(heart: Heartbeat, clock: Clock) -> None:
    clock.now += 30
    assert heart.check() is None
    clock.now += 0.1
    assert heart.check() == "no sign of life for 30 s, allowed are 30 s"
    heart.beat()
    assert heart.check() is None


def test_a_loop_may_wait_as_long_as_it_said(heart: Heartbeat, clock: Clock) -> None:
    heart.beat(pause_seconds=60)
    clock.now += 90
    assert heart.check() is None
    clock.now += 1
    assert heart.check() == "no sign of life for 91 s, allowed are 90 s"


def test_a_loop_that_is_woken_early_has_its_bound_from_then(heart: Heartbeat, clock: Clock) -> None:
    def woken(seconds: float) -> bool:
        clock.now += 5
        assert seconds == 3600
        return False

    beating(woken, heart)(3600)
    clock.now += 31
    assert heart.check() == "no sign of life for 31 s, allowed are 30 s"


@given(rounds=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1000)), max_size=20))
def test_a_loop_within_its_bound_is_never_called_dead(rounds: list[tuple[float, float]]) -> None:
    clock = Clock()
    heart = Heartbeat(bound_seconds=30.001, clock=clock)
    seen: list[str | None] = []

    def wait(seconds: float) -> bool:
        clock.now += seconds
        seen.append(heart.check())
        return False

    waiting = beating(wait, heart)
    for work, pause in rounds:
        clock.now += work
        seen.append(heart.check())
        waiting(pause)
    assert set(seen) <= {None}


def test_a_loop_of_any_kind_beats_by_waiting(heart: Heartbeat, clock: Clock) -> None:
    """The loop knows of `wait` only, and ends when it says so."""
    answers = iter([False, False, True])
    beats = []

    def wait(_: float) -> bool:
        beats.append(heart.check())
        clock.now += 29
        return next(answers)

    def run(wait: Callable[[float], bool]) -> None:
        while not wait(1.0):
            pass

    run(beating(wait, heart))
    assert beats == [None] * 3
