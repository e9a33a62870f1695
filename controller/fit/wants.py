"""One alternative of a request, made ready to be asked of many nodes: what it takes of each size of card, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from fracgpu.controller.fit.answers import answer
from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.nodes import Card, NodeState
from fracgpu.controller.fit.views import Budget, Constraint, DeviceRequest, GpuView, Taint
from fracgpu.driver.amounts import Amounts
from fracgpu.driver.errors import AmountsError

_ANYTHING: Final = -(1 << 100)
"""Less than can be free: who asks for nothing may have a GPU that is over-committed already."""
Floor = tuple[int, int]


class Want:
    """A request during one question to the engine. Amounts depend on a GPU's size only, so they are kept by size."""

    __slots__ = ("_amounts", "_floors", "admin", "count", "covered", "every", "known", "request", "tolerant")

    def __init__(self, request: DeviceRequest, ledger: Ledger, constraints: Iterable[Constraint]) -> None:
        self.request = request
        self.count = request.count
        self.every = request.every
        self.admin = request.admin
        self.tolerant = bool(request.tolerations)
        self.covered = tuple(index for index, constraint in enumerate(constraints) if constraint.covers(request))
        self.known = ledger.answers.of(request.selector)
        self._amounts: dict[int, Amounts | AmountsError] = {}
        self._floors: dict[tuple[int, ...], Floor | None] = {}

    def stated(self, gpu: GpuView) -> Amounts | AmountsError:
        """Return what is taken of a GPU, or why it cannot be."""
        found = self._amounts.get(gpu.physical_memory_bytes)
        if found is None:
            try:
                found = self.request.amounts_on(gpu)
            except AmountsError as error:
                found = error
            self._amounts[gpu.physical_memory_bytes] = found
        return found

    def having_room(self, nodes: Iterable[NodeState]) -> Iterator[NodeState]:
        """Return the nodes that may have room, at a glance; those left out have none for certain."""
        floors, admin, tolerant = self._floors, self.admin, self.tolerant
        last = 0 if self.every else self.count - 1
        for node in nodes:
            if node.sizes in floors:
                floor = floors[node.sizes]
            else:
                floor = floors[node.sizes] = self._floor(node)
            if floor is None:
                continue
            if admin:
                yield node
                continue
            memory, cores = floor
            room = node.any_room if tolerant else node.open_room
            if memory > room.most_memory or cores > room.most_cores:
                continue
            if last and (len(room.memories) <= last or memory > room.memories[last] or cores > room.cores[last]):
                continue
            for most_memory, most_cores in room.frontier:
                if cores <= most_cores:
                    if memory <= most_memory:
                        yield node
                    break

    def may_fit(self, node: NodeState) -> bool:
        """Tell whether a node may have room, at a glance; False is certain."""
        return next(self.having_room((node,)), None) is not None

    def _floor(self, node: NodeState) -> Floor | None:
        found = [amounts for view in node.views if isinstance(amounts := self.stated(view), Amounts)]
        if not found:
            return None
        memory = min(amounts.memory_bytes for amounts in found)
        cores = min(amounts.cores for amounts in found)
        return (memory if memory > 0 else _ANYTHING, cores if cores > 0 else _ANYTHING)

    def selected(self, node: NodeState) -> int:
        """Return a bit for each GPU of the node that the selector selects, by its position."""
        return answer(self.request.selector, node, self.known)[1]

    def usable(self, node: NodeState) -> dict[int, Amounts] | None:
        """Return the positions of the GPUs that the request could use if they were free, with what it would take.

        None when the node is out whatever is free: too few GPUs, the selector cannot be evaluated on all of them, or
        every selected one is wanted and not every one can be had.
        """
        _, selected, failed = answer(self.request.selector, node, self.known)
        if failed or not selected:
            return None
        found: dict[int, Amounts] = {}
        for position, card in enumerate(node.cards):
            if not selected >> position & 1:
                continue
            amounts = self.stated(card.view)
            if isinstance(amounts, Amounts) and (not card.taints or self.tolerates(card)):
                found[position] = amounts
            elif self.every:
                return None
        return found if len(found) >= self.count or self.every else None

    def tolerates(self, card: Card) -> bool:
        """Tell whether every taint that keeps requests off the GPU is tolerated."""
        return all(self.tolerates_one(taint) for taint in card.taints)

    def tolerates_one(self, taint: Taint) -> bool:
        """Tell whether a taint is tolerated."""
        return any(toleration.tolerates(taint) for toleration in self.request.tolerations)

    def fits_alone(self, node: NodeState) -> bool:
        """Tell whether the request, were it the only one and without constraints, has its GPUs on the node."""
        usable = self.usable(node)
        if usable is None:
            return False
        cards = node.cards
        room = sum([has_room(cards[position], amounts) for position, amounts in usable.items()])
        return room == len(usable) if self.every else room >= self.count

    def least(self, gpus: Iterable[GpuView]) -> tuple[int, int, int] | None:
        """Return the least memory, cores and slots that the request costs on such GPUs; None if all are refused."""
        found = [amounts for gpu in gpus if isinstance(amounts := self.stated(gpu), Amounts)]
        if not found:
            return None
        count = 1 if self.every else self.count
        memory = min(amounts.memory_bytes for amounts in found)
        cores = min(amounts.cores for amounts in found)
        return (count * memory, count * cores, count * min(amounts.slots for amounts in found))


def has_room(card: Card, amounts: Amounts) -> bool:
    """Tell whether a GPU has some amounts free. Asking for nothing is never too much."""
    return not (
        0 < amounts.memory_bytes > card.memory or 0 < amounts.cores > card.cores or 0 < amounts.slots > card.slots
    )


def least_total(choices: Iterable[Iterable[Want]], gpus: Iterable[GpuView]) -> tuple[int, int, int]:
    """Return a lower bound of the memory, cores and slots of all requests together, on such GPUs."""
    memory = cores = slots = 0
    examples = tuple(gpus)
    for wants in choices:
        found = [least for want in wants if (least := want.least(examples)) is not None]
        if found:
            memory += min(least[0] for least in found)
            cores += min(least[1] for least in found)
            slots += min(least[2] for least in found)
    return (memory, cores, slots)


def exceeds(total: tuple[int, int, int], budget: Budget) -> bool:
    """Tell whether more is asked than a budget has left. Asking for nothing is never too much."""
    limits = (budget.memory_bytes, budget.cores, budget.slots)
    return any(limit is not None and 0 < asked > limit for asked, limit in zip(total, limits, strict=True))
