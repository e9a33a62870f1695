"""What is free on one node, with summaries that rule the node out at a glance.

A pod is tried on every node of a large cluster, so what can be known before a search is worked out once, when something
on the node changes, and not with every try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.fit.views import DeviceKey, GpuView, Taint
from fracgpu.driver.amounts import Amounts

_SHIFT: Final = 128
"""Two used parts of less than 2^63 bytes that differ, differ by more than 2^-128: whole numbers keep ties exact."""
_NOTHING: Final = -(1 << 200)
"""What is free where there is no GPU: less than any amount, and less than what anybody may ask."""
BLOCKING: Final = ("NoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True)
class Free:
    """What is left of one GPU; negative where a scale was lowered under live allocations."""

    memory_bytes: int
    cores: int
    slots: int

    def lacks(self, wanted: Amounts) -> tuple[bool, bool, bool]:
        """Tell for memory, cores and slots whether too little is left. Asking for nothing is never too much."""
        return (
            0 < wanted.memory_bytes > self.memory_bytes,
            0 < wanted.cores > self.cores,
            0 < wanted.slots > self.slots,
        )

    def minus(self, wanted: Amounts) -> Free:
        """Return what is left after granting."""
        return Free(self.memory_bytes - wanted.memory_bytes, self.cores - wanted.cores, self.slots - wanted.slots)


@dataclass(slots=True)
class Held:
    """The sum of what is held of one GPU; `whole` counts the holdings that take all of it."""

    memory_bytes: int = 0
    cores: int = 0
    slots: int = 0
    whole: int = 0

    def free_of(self, gpu: GpuView) -> Free:
        """Return what is left of a GPU. A whole holding leaves nothing."""
        memory, cores, slots = gpu.memory_bytes - self.memory_bytes, gpu.cores - self.cores, gpu.slots - self.slots
        if self.whole:
            return Free(min(0, memory), min(0, cores), min(0, slots))
        return Free(memory, cores, slots)


def load_of(used: int, total: int) -> int:
    """Return the used part of some memory as a whole number: exact for comparing, 0 where there is no memory."""
    return (used << _SHIFT) // total if total else 0


def blocking_taints(gpu: GpuView) -> tuple[Taint, ...]:
    """Return the taints that keep requests off a GPU unless they tolerate them."""
    return tuple(taint for taint in gpu.taints if taint.effect in BLOCKING)


class Card:
    """One GPU with what is free of it: memory in bytes, cores in percent, slots in sharers; `whole` if one has all."""

    __slots__ = ("cores", "key", "load", "memory", "physical", "slots", "taints", "view", "whole")

    def __init__(self, view: GpuView, held: Held | None) -> None:
        free = held.free_of(view) if held is not None else Free(view.memory_bytes, view.cores, view.slots)
        self.view = view
        self.whole = held is not None and held.whole > 0
        self.key: DeviceKey = (view.pool, view.device)
        self.physical = view.physical_memory_bytes
        self.taints = blocking_taints(view) if view.taints else ()
        self.memory, self.cores, self.slots = free.memory_bytes, free.cores, free.slots
        self.load = load_of(view.memory_bytes - free.memory_bytes, view.memory_bytes)

    @property
    def free(self) -> Free:
        """Return what is free."""
        return Free(self.memory, self.cores, self.slots)


class Room:
    """How much is left of the GPUs, among some, that have a free slot.

    `memories` and `cores` are sorted, the largest first, `most_memory` and `most_cores` their first; `frontier` has the
    pairs of both on one GPU that no other pair exceeds in both: if one request fits any GPU, it fits one of these.
    """

    __slots__ = ("cores", "frontier", "memories", "most_cores", "most_memory")

    def __init__(self, cards: Sequence[Card]) -> None:
        pairs = [(card.memory, card.cores) for card in cards if card.slots > 0]
        pairs.sort(reverse=True)
        self.memories = [memory for memory, _ in pairs]
        self.cores = sorted([cores for _, cores in pairs], reverse=True)
        self.most_memory = self.memories[0] if pairs else _NOTHING
        self.most_cores = self.cores[0] if pairs else _NOTHING
        self.frontier: list[tuple[int, int]] = []
        best = _NOTHING
        for memory, cores in pairs:
            if cores > best:
                self.frontier.append((memory, cores))
                best = cores


class NodeState:
    """One node: its GPUs in the order of their keys, the sizes of its cards, room and load.

    `open_room` counts the GPUs without a blocking taint, `any_room` all of them.
    """

    __slots__ = ("any_room", "cards", "load", "name", "open_room", "sizes", "views")

    def __init__(self, name: str) -> None:
        self.name = name
        self.views: tuple[GpuView, ...] = ()
        self.sizes: tuple[int, ...] = ()
        self.cards: list[Card] = []
        self.open_room = self.any_room = Room(())
        self.load = 0

    def set_views(self, views: tuple[GpuView, ...]) -> None:
        """Set the GPUs, sorted by key; refresh must follow."""
        self.views = views
        self.sizes = tuple(sorted({view.physical_memory_bytes for view in views}))

    def refresh(self, held: Callable[[DeviceKey], Held | None]) -> None:
        """Work out anew what is free."""
        cards = self.cards = [Card(view, held((view.pool, view.device))) for view in self.views]
        total = sum([view.memory_bytes for view in self.views])
        self.load = load_of(total - sum([card.memory for card in cards]), total)
        self.any_room = Room(cards)
        untainted = [card for card in cards if not card.taints]
        self.open_room = self.any_room if len(untainted) == len(cards) else Room(untainted)
