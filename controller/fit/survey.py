"""One request against every GPU by itself: how many could take it, and what keeps it off the others, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from fracgpu.controller.fit.answers import answer
from fracgpu.controller.fit.nodes import Card, NodeState
from fracgpu.controller.fit.views import GpuView
from fracgpu.controller.fit.wants import Want
from fracgpu.driver.amounts import Amounts
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.reasons import Reason, ReasonCode

_SLOTS: Final = "no free slot"
_HELD_WHOLE: Final = "held whole by another allocation"


@runtime_checkable
class Refusing(Protocol):
    """A selector that can say why it does not select a GPU."""

    def why_not(self, gpu: GpuView) -> tuple[ReasonCode, str]:
        """Return a code and the words for it."""


@dataclass(slots=True)
class _Short:
    """GPUs with too little of one amount; `need` and `free` are of the one that misses least."""

    count: int = 0
    need: int = 0
    free: int = 0

    def add(self, need: int, free: int) -> None:
        # The smaller need of two that miss by as much, so that the order of the GPUs says nothing.
        if not self.count or (need - free, need) < (self.need - self.free, self.need):
            self.need, self.free = need, free
        self.count += 1


class Survey:
    """What was found about one want on some nodes."""

    def __init__(self, want: Want, nodes: Sequence[NodeState]) -> None:
        self.want = want
        selector = want.request.selector
        self._why_not = selector.why_not if isinstance(selector, Refusing) else _not_selected
        self._total = sum(len(node.cards) for node in nodes)
        self._nodes = len(nodes)
        self._memory, self._cores = _Short(), _Short()
        self._slots = 0
        self._refused: Counter[tuple[ReasonCode, str]] = Counter()
        self.most = 0
        self._best_of_all = (0, 0)
        """For a request of every GPU: how many could be had of how many selected, on the best node."""
        for node in nodes:
            self._look(node)

    @property
    def enough(self) -> bool:
        """Tell whether the request, were it the only one, would find its GPUs on some node."""
        if self.want.every:
            fitting, selected = self._best_of_all
            return 0 < selected == fitting
        return self.most >= self.want.count

    def _look(self, node: NodeState) -> None:
        _, selected, failed = answer(self.want.request.selector, node, self.want.known)
        errors = dict(failed)
        fitting = 0
        for position, card in enumerate(node.cards):
            if selected >> position & 1:
                fitting += self._takes(card)
            elif position in errors:
                self._refused[_told(errors[position])] += 1
            else:
                self._refused[self._why_not(card.view)] += 1
        if errors:
            return
        self.most = max(self.most, fitting)
        if selected:
            missing = selected.bit_count() - fitting
            fewest = self._best_of_all[1] - self._best_of_all[0]
            if not self._best_of_all[1] or (missing, -fitting) < (fewest, -self._best_of_all[0]):
                self._best_of_all = (fitting, selected.bit_count())

    def _takes(self, card: Card) -> bool:
        want = self.want
        if card.taints and not want.tolerates(card):
            names = sorted(f"{taint.key}:{taint.effect}" for taint in card.taints if not want.tolerates_one(taint))
            self._refused[ReasonCode.CARD_NOT_HEALTH, f"untolerated taint {', '.join(names)}"] += 1
            return False
        amounts = want.stated(card.view)
        if not isinstance(amounts, Amounts):
            self._refused[_told(amounts)] += 1
            return False
        if card.whole and not want.admin:
            self._refused[ReasonCode.EXCLUSIVE_DEVICE_ALLOCATE_CONFLICT, _HELD_WHOLE] += 1
            return False
        fits = True
        if 0 < amounts.memory_bytes > card.memory:
            self._memory.add(amounts.memory_bytes, card.memory)
            fits = False
        if 0 < amounts.cores > card.cores:
            self._cores.add(amounts.cores, card.cores)
            fits = False
        if 0 < amounts.slots > card.slots:
            self._slots += 1
            fits = False
        return fits

    def reasons(self) -> list[Reason]:
        """Return what keeps the request off the GPUs, shortage first."""
        total = self._total
        reasons = self._too_few()
        if self._memory.count:
            short = self._memory
            reasons.append(
                Reason.insufficient_memory(
                    affected=short.count, total=total, need_bytes=short.need, max_free_bytes=max(0, short.free)
                )
            )
        if self._cores.count:
            short = self._cores
            reasons.append(
                Reason.insufficient_cores(
                    affected=short.count, total=total, need=short.need, max_free=max(0, short.free)
                )
            )
        if self._slots:
            code = ReasonCode.CARD_TIME_SLICING_EXHAUSTED
            reasons.append(Reason(code=code, affected=self._slots, total=total, detail=_SLOTS))
        for (code, detail), affected in sorted(self._refused.items()):
            reasons.append(Reason(code=code, affected=affected, total=total, detail=detail))
        return reasons

    def _too_few(self) -> list[Reason]:
        if self.want.every:
            fitting, selected = self._best_of_all
            detail = f"need every selected GPU of a node, at best {fitting} of {selected} fit"
            if not selected:
                detail = "need every selected GPU of a node, none is selected"
        elif self.want.count > 1:
            detail = f"need {self.want.count} GPUs on one node, at most {self.most} fit"
        else:
            return []
        code = ReasonCode.NODE_INSUFFICIENT_DEVICE
        return [Reason(code=code, affected=self._nodes, total=self._nodes, unit="nodes", detail=detail)]


def _told(error: FracgpuError) -> tuple[ReasonCode, str]:
    code = getattr(error, "code", ReasonCode.CONFIG_INVALID)
    return (code, error.what)


def _not_selected(_gpu: GpuView) -> tuple[ReasonCode, str]:
    return (ReasonCode.SELECTOR_MISMATCH, "not selected")
