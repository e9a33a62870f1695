"""Calls at once, all of them to their end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from fracgpu.controller.ports import Executor
from fracgpu.controller.threads import ThreadExecutor

GENEROUS_SECONDS = 30.0


@pytest.fixture
def executor() -> Iterator[ThreadExecutor]:
    one = ThreadExecutor(4)
    yield one
    one.close()


def test_it_is_what_the_allocator_wants(executor: ThreadExecutor) -> None:
    port: Executor = executor
    assert port is executor


def test_calls_run_at_once(executor: ThreadExecutor) -> None:
    together = threading.Barrier(4)

    def meet() -> None:
        together.wait(GENEROUS_SECONDS)

    executor.run_all([meet] * 4)
    assert not together.broken


@pytest.mark.parametrize("count", [0, 1, 100])
def test_all_have_ended_when_it_returns(executor: ThreadExecutor, count: int) -> None:
    done: list[int] = []
    executor.run_all([lambda number=number: done.append(number) for number in range(count)])  # type: ignore[misc]
    assert sorted(done) == list(range(count))


def test_a_call_that_raises_all_the_same_keeps_no_other_from_its_end(executor: ThreadExecutor) -> None:
    done: list[int] = []
    gate = threading.Event()

    def fail() -> None:
        gate.set()
        raise ValueError("a defect")

    def late() -> None:
        assert gate.wait(GENEROUS_SECONDS)
        done.append(1)

    with pytest.raises(ValueError, match="a defect"):
        executor.run_all([fail, late, late])
    assert done == [1, 1]
