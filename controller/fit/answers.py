"""Which GPUs of a node a selector selects, remembered.

A selector is a program in CEL, thousands of times as slow as the rest of a try, and its answer about a GPU changes
only with what the GPU publishes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from fracgpu.controller.fit.nodes import NodeState
from fracgpu.controller.fit.views import AnyGpu, GpuView, Selector
from fracgpu.driver.errors import FracgpuError

_MOST: Final = 64
"""So many selectors are remembered, those asked for last. Each costs some hundred bytes for a node."""
Answer = tuple[tuple[GpuView, ...], int, tuple[tuple[int, FracgpuError], ...]]
"""About which GPUs, a bit for each selected one by its position, and what failed at which position."""


class Answers:
    """The memory of selectors' answers. An answer counts as long as the node has the very same views."""

    def __init__(self) -> None:
        self._known: OrderedDict[Selector, dict[str, Answer]] = OrderedDict()

    def of(self, selector: Selector) -> dict[str, Answer] | None:
        """Return the memory for one selector, by node, for use with `answer`; None for AnyGpu, which needs none."""
        if isinstance(selector, AnyGpu):
            return None
        known = self._known.get(selector)
        if known is None:
            known = self._known[selector] = {}
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(selector)
        return known

    def forget(self, node: str) -> None:
        """Forget what is known about a node."""
        for known in self._known.values():
            known.pop(node, None)


def answer(selector: Selector, state: NodeState, known: dict[str, Answer] | None) -> Answer:
    """Return which GPUs of a node a selector selects. An evaluation that fails selects nothing, and is told."""
    if known is None:
        return (state.views, (1 << len(state.views)) - 1, ())
    found = known.get(state.name)
    if found is not None and found[0] is state.views:
        return found
    selected, failed = 0, []
    for position, view in enumerate(state.views):
        try:
            if selector.matches(view):
                selected |= 1 << position
        except FracgpuError as error:
            failed.append((position, error))
    known[state.name] = found = (state.views, selected, tuple(failed))
    return found
