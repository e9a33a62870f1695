"""What the ledger knows, and what it refuses and forgets."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.fit.engine import place
from fracgpu.controller.fit.ledger import Free, Ledger
from fracgpu.controller.fit.views import Taint

GIB = 1024**3
KEY = ("n1", "a")


def test_holdings_count_as_soon_as_the_gpu_is_there(gpu: Any, held: Any) -> None:
    ledger = Ledger()
    ledger.hold("x", [held("n1/a", 30, 20)])
    assert (ledger.free(KEY), ledger.gpu(KEY)) == (None, None)
    assert dict(ledger.holders(KEY)) == {"x": (held("n1/a", 30, 20),)}
    ledger.set_gpus("n1", [gpu("n1/a")])
    assert ledger.free(KEY) == Free(50 * GIB, 80, 9)
    ledger.set_gpus("n1", [])
    assert (ledger.free(KEY), list(ledger.nodes()), list(ledger.gpus_of("n1"))) == (None, [], [])
    ledger.set_gpus("n1", [gpu("n1/a")])
    assert ledger.free(KEY) == Free(50 * GIB, 80, 9)


def test_hold_replaces_and_release_frees(gpu: Any, held: Any) -> None:
    ledger = Ledger()
    ledger.set_gpus("n1", [gpu("n1/a"), gpu("n1/b")])
    ledger.hold("x", [held("n1/a", 30), held("n1/a", 10), held("n1/b", 5)])
    ledger.hold("y", [held("n1/a", 1)])
    assert ledger.free(KEY) == Free(39 * GIB, 100, 7)
    ledger.hold("x", [held("n1/a", 2)])
    assert ledger.free(KEY) == Free(77 * GIB, 100, 8)
    assert ledger.free(("n1", "b")) == Free(80 * GIB, 100, 10)
    assert ledger.held_by("x") == (held("n1/a", 2),)
    ledger.release("x")
    ledger.release("nobody")
    assert ledger.free(KEY) == Free(79 * GIB, 100, 9)
    assert list(ledger.owners()) == ["y"]
    ledger.hold("y", [])
    assert (list(ledger.owners()), dict(ledger.holders(KEY))) == ([], {})


def test_a_whole_holding_leaves_nothing(gpu: Any, held: Any) -> None:
    ledger = Ledger()
    ledger.set_gpus("n1", [gpu("n1/a", memory_bytes=160 * GIB, cores=150)])
    ledger.hold("x", [held("n1/a", 0, whole=True)])
    assert ledger.free(KEY) == Free(0, 0, 0)
    ledger.hold("y", [held("n1/a", 170)])
    assert ledger.free(KEY) == Free(-10 * GIB, 0, 0)
    ledger.release("x")
    assert ledger.free(KEY) == Free(-10 * GIB, 150, 9)


def test_a_gpu_belongs_to_one_node(gpu: Any, held: Any) -> None:
    ledger = Ledger()
    with pytest.raises(ValueError, match="is on node n1, not n2"):
        ledger.set_gpus("n2", [gpu("n1/a")])
    moved = gpu("n1/a", 40)
    ledger.set_gpus("n1", [moved, gpu("n1/b")])
    elsewhere = type(moved)(node="n2", pool="n1", device="a", physical_memory_bytes=GIB, memory_bytes=GIB)
    ledger.set_gpus("n2", [elsewhere])
    assert [view.device for view in ledger.gpus_of("n1")] == ["b"]
    assert ledger.gpu(KEY) == elsewhere
    ledger.set_gpus("n1", [])
    assert ledger.gpu(KEY) == elsewhere


def test_news_about_a_gpu_count_at_once(gpu: Any, ask: Any, demand: Any, where: Any, having: Any) -> None:
    """Room, sizes, taints and selectors' answers are remembered, but never longer than they are true."""
    ledger = Ledger()
    wanted = demand(ask(50, selector=having("t", 1)))
    for changes, fits in (
        ({"attributes": {"t": 1}}, True),
        ({"attributes": {"t": 2}}, False),
        ({"attributes": {"t": 1}, "taints": (Taint(key="k"),)}, False),
        ({"attributes": {"t": 1}, "memory_bytes": 40 * GIB}, False),
        ({"attributes": {"t": 1}, "physical_memory_bytes": 40 * GIB}, False),
        ({"attributes": {"t": 1}}, True),
    ):
        ledger.set_gpus("n1", [gpu("n1/a", **changes)])
        assert (place(wanted, ledger) is not None) is fits, changes


def test_answers_of_selectors_are_remembered_and_forgotten(gpu: Any, ask: Any, demand: Any, having: Any) -> None:
    ledger = Ledger()
    selector = having("t", 1)
    for number in range(3):
        ledger.set_gpus(f"n{number}", [gpu(f"n{number}/a", attributes={"t": 2})])
    place(demand(ask(selector=selector)), ledger)
    known = ledger.answers.of(selector)
    assert known is not None
    assert sorted(known) == ["n0", "n1", "n2"]
    ledger.set_gpus("n1", [])
    assert sorted(known) == ["n0", "n2"]
    for number in range(100):
        ledger.answers.of(having("other", number))
    assert ledger.answers.of(selector) == {}, "every selector there ever was is remembered"


def test_a_selector_is_asked_once_for_each_gpu(gpu: Any, ask: Any, demand: Any) -> None:
    class Counting:
        asked = 0

        def matches(self, _gpu: Any) -> bool:
            self.asked += 1
            return True

    selector = Counting()
    ledger = Ledger()
    ledger.set_gpus("n1", [gpu("n1/a"), gpu("n1/b")])
    for _ in range(5):
        place(demand(ask(selector=selector)), ledger)
    assert selector.asked == 2
