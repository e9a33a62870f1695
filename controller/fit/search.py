"""Search on one node: an assignment of GPUs to requests, complete, in the order of preference.

Complete, because a heuristic that gives up early would leave a pod pending next to a free GPU. It goes depth first, as
kube-scheduler does: requests in their order, of each the first alternative that lets the rest fit. GPUs that do not
differ are tried once, states that are equivalent to one that failed are skipped, and a bound on the work protects the
allocator from claims made to be hard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.fit.nodes import NodeState, load_of
from fracgpu.controller.fit.views import Budget, Constraint, DeviceKey, GpuView, PlacedDevice
from fracgpu.controller.fit.wants import Want
from fracgpu.driver.amounts import Amounts

MAX_RESULTS: Final = 32
"""Devices in one claim's allocation: the API accepts no more."""
Value = tuple[type, str | int | bool]
Ranks = tuple[int, ...]
Three = tuple[int, int, int]
Left = tuple[int | None, int | None, int | None] | None
"""What a budget still has: memory, cores, slots, None meaning without limit."""


class SearchLimitError(Exception):
    """The search was cut off; whether the requests fit is not known."""


class Steps:
    """What may be spent: on one node, and on all nodes of one question together."""

    per_node = 20_000
    per_question = 50_000

    def __init__(self) -> None:
        self._spent = 0
        self._node_limit = 0

    def next_node(self) -> None:
        """Begin with another node."""
        self._node_limit = min(self._spent + self.per_node, self.per_question)

    def spend(self) -> None:
        """Take one step. Raises SearchLimitError."""
        self._spent += 1
        if self._spent > self._node_limit:
            raise SearchLimitError


@dataclass(frozen=True, slots=True)
class Found:
    """An assignment; `ranks` has for each request which of its alternatives was taken, 0 the preferred one."""

    ranks: Ranks
    devices: tuple[PlacedDevice, ...]


class Search:
    """One search on one node. `better_than` are the ranks that the result must be preferred to."""

    def __init__(
        self,
        node: NodeState,
        choices: Sequence[Sequence[Want]],
        constraints: Sequence[Constraint],
        steps: Steps,
        *,
        budget: Budget | None = None,
        better_than: Ranks | None = None,
    ) -> None:
        self._node = node
        self._cards = node.cards
        self._choices = choices
        self._constraints = constraints
        self._steps = steps
        self._limit = better_than
        self._free = [(card.memory, card.cores, card.slots) for card in node.cards]
        self._left: Left = (budget.memory_bytes, budget.cores, budget.slots) if budget is not None else None
        self._usable = [[want.usable(node) for want in wants] for wants in choices]
        self._values = [[value_under(item, card.view) for card in node.cards] for item in constraints]
        self._bound: list[list[Value]] = [[] for _ in constraints]
        self._chosen: list[tuple[Want, int, Amounts]] = []
        self._ranks: list[int] = []
        self._results: Counter[str] = Counter()
        self._failed: set[object] = set()
        self._kind_of: list[int] | None = None
        self.too_many = False
        """Whether something was left out because a claim would have had more than MAX_RESULTS devices."""

    def run(self) -> Found | None:
        """Return the preferred assignment, or None when there is none. Raises SearchLimitError."""
        if not self._may_be_enough() or not self._choice(0):
            return None
        return Found(
            tuple(self._ranks), tuple(_placed(want, self._cards[at].key, got) for want, at, got in self._chosen)
        )

    def _may_be_enough(self) -> bool:
        """Tell whether the node has, in all, what the requests want in all; else no order of trying will find it."""
        if len(self._choices) == 1:
            return True
        wanted, results = [0, 0, 0], Counter[str]()
        for wants, usables in zip(self._choices, self._usable, strict=True):
            pairs = [(want, usable) for want, usable in zip(wants, usables, strict=True) if usable]
            if not pairs:
                return False
            totals = [_least(want, usable) for want, usable in pairs]
            wanted = [sum_ + min(total[kind] for total in totals) for kind, sum_ in enumerate(wanted)]
            results[wants[0].request.claim] += min(_size(want, usable) for want, usable in pairs)
        if max(results.values(), default=0) > MAX_RESULTS:
            self.too_many = True
            return False
        return all(sum(max(0, free[kind]) for free in self._free) >= wanted[kind] for kind in range(3))

    # One level for each request, and within it one for each of its GPUs

    def _choice(self, index: int) -> bool:
        if index == len(self._choices):
            return True
        self._steps.spend()
        state = self._state(index, ()) if index else None
        if state in self._failed:
            return False
        for rank in range(self._last_rank(index) + 1):
            want, usable = self._choices[index][rank], self._usable[index][rank]
            if usable is None:
                continue
            self._ranks.append(rank)
            if self._alternative(index, want, usable):
                return True
            self._ranks.pop()
        if state is not None:
            self._failed.add(state)
        return False

    def _last_rank(self, index: int) -> int:
        last = len(self._choices[index]) - 1
        if self._limit is None or not self._is_tight(index):
            return last
        return min(last, self._limit[index] - (index == len(self._choices) - 1))

    def _is_tight(self, index: int) -> bool:
        return self._limit is not None and tuple(self._ranks) == self._limit[:index]

    def _alternative(self, index: int, want: Want, usable: dict[int, Amounts]) -> bool:
        claim, count = want.request.claim, _size(want, usable)
        if self._results[claim] + count > MAX_RESULTS:
            self.too_many = True
            return False
        order = self._ordered(want, usable)
        if len(order) < count:
            return False
        self._results[claim] += count
        if self._pick(index, want, usable, order, count):
            return True
        self._results[claim] -= count
        return False

    def _pick(self, index: int, want: Want, usable: dict[int, Amounts], order: list[int], count: int) -> bool:
        """Choose `count` GPUs from `order`. Their sequence says nothing, so each set is tried in one sequence only."""
        if count == 0:
            return self._choice(index + 1)
        state = None
        if count < _size(want, usable):
            self._steps.spend()
            state = self._state(index, order)
            if state in self._failed:
                return False
        tried: set[object] = set()
        kinds = self._kinds()
        for position in range(len(order) - count + 1):
            at = order[position]
            like = (kinds[at], self._free[at])
            if like in tried or not self._allowed(want, at):
                continue
            tried.add(like)
            taken = self._take(want, at, usable[at])
            if taken is None:
                continue
            if self._pick(index, want, usable, order[position + 1 :], count - 1):
                return True
            self._give_back(want, at, *taken)
        if state is not None:
            self._failed.add(state)
        return False

    def _take(self, want: Want, at: int, amounts: Amounts) -> tuple[Three, Left] | None:
        left = self._left
        if left is not None:
            memory_left, cores_left, slots_left = left
            if not (
                _within(memory_left, amounts.memory_bytes)
                and _within(cores_left, amounts.cores)
                and _within(slots_left, amounts.slots)
            ):
                return None
            self._left = (
                _spent(memory_left, amounts.memory_bytes),
                _spent(cores_left, amounts.cores),
                _spent(slots_left, amounts.slots),
            )
        before = self._free[at]
        memory, cores, slots = before
        self._free[at] = (memory - amounts.memory_bytes, cores - amounts.cores, slots - amounts.slots)
        self._chosen.append((want, at, amounts))
        for item in want.covered:
            value = self._values[item][at]
            if value is not None:
                self._bound[item].append(value)
        return (before, left)

    def _give_back(self, want: Want, at: int, before: Three, left: Left) -> None:
        self._free[at] = before
        self._left = left
        self._chosen.pop()
        for item in want.covered:
            self._bound[item].pop()

    # What may be chosen, and in what order

    def _ordered(self, want: Want, usable: dict[int, Amounts]) -> list[int]:
        """Return the GPUs with room, the preferred first."""
        fitting = [at for at, amounts in usable.items() if self._has_room(at, amounts)]
        if want.covered:
            fitting = [at for at in fitting if self._allowed(want, at)]
            for item in want.covered:
                if self._constraints[item].kind == "match" and not want.every:
                    groups = Counter(self._values[item][at] for at in fitting)
                    fitting = [at for at in fitting if groups[self._values[item][at]] >= want.count]
        if len(fitting) > 1:
            sign = -1 if want.request.gpu_policy == "Binpack" else 1
            fitting.sort(key=lambda at: (sign * self._load(at), -sign * self._free[at][1], at))
        return fitting

    def _has_room(self, at: int, amounts: Amounts) -> bool:
        memory, cores, slots = self._free[at]
        return not (0 < amounts.memory_bytes > memory or 0 < amounts.cores > cores or 0 < amounts.slots > slots)

    def _load(self, at: int) -> int:
        card = self._cards[at]
        memory = self._free[at][0]
        total = card.view.memory_bytes
        return card.load if memory == card.memory else load_of(total - memory, total)

    def _allowed(self, want: Want, at: int) -> bool:
        for item in want.covered:
            value = self._values[item][at]
            if value is None:
                return False
            bound = self._bound[item]
            if bound and (value in bound) is (self._constraints[item].kind == "distinct"):
                return False
        return True

    # What makes two states equivalent

    def _kinds(self) -> list[int]:
        """Return a number for each GPU; equal ones serve every request alike as long as as much of them is free."""
        if self._kind_of is None:
            numbers: dict[object, int] = {}
            self._kind_of = [numbers.setdefault(self._nature(at), len(numbers)) for at in range(len(self._cards))]
        return self._kind_of

    def _nature(self, at: int) -> object:
        usable = tuple(found is not None and at in found for wants in self._usable for found in wants)
        return (self._cards[at].physical, usable, tuple(values[at] for values in self._values))

    def _state(self, index: int, order: Sequence[int]) -> object:
        kinds, free = self._kinds(), self._free
        selectable = set(order)
        cards = sorted([(kinds[at], free[at], at in selectable) for at in range(len(free))])
        bound = tuple(frozenset(values) for values in self._bound)
        ranks = tuple(self._ranks[index:]), self._is_tight(index)
        results = tuple(sorted(self._results.items()))
        return (index, ranks, tuple(cards), bound, self._left, len(self._chosen), results)


def value_under(constraint: Constraint, gpu: GpuView) -> Value | None:
    """Return what a constraint compares of a GPU; None when the GPU cannot satisfy it."""
    value = gpu.attributes.get(constraint.attribute)
    # True equals 1 in Python, but not in the API.
    if value is None or any(type(value) is type(item) and value == item for item in constraint.unknown):
        return None
    return (type(value), value)


def _size(want: Want, usable: dict[int, Amounts]) -> int:
    return len(usable) if want.every else want.count


def _least(want: Want, usable: dict[int, Amounts]) -> Three:
    count = _size(want, usable)
    memory = min(amounts.memory_bytes for amounts in usable.values())
    cores = min(amounts.cores for amounts in usable.values())
    return (count * memory, count * cores, count * min(amounts.slots for amounts in usable.values()))


def _within(limit: int | None, asked: int) -> bool:
    return limit is None or not 0 < asked > limit


def _spent(limit: int | None, asked: int) -> int | None:
    return None if limit is None else limit - asked


def _placed(want: Want, key: DeviceKey, amounts: Amounts) -> PlacedDevice:
    request = want.request
    return PlacedDevice(
        claim=request.claim,
        request=request.name,
        class_name=request.class_name,
        pool=key[0],
        device=key[1],
        amounts=amounts,
        admin=request.admin,
    )
