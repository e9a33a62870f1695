"""Placing: the first node, in the order of the policy, that takes the whole demand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.nodes import NodeState
from fracgpu.controller.fit.search import Found, Search, SearchLimitError, Steps
from fracgpu.controller.fit.views import Budget, Demand, Placement
from fracgpu.controller.fit.wants import Want, exceeds, least_total


class Placing:
    """One question: where does a demand fit?

    `gave_up` tells afterwards whether the work was cut off on some node, `too_many` whether a claim would have had more
    devices than the API takes.
    """

    def __init__(self, demand: Demand, ledger: Ledger, *, budget: Budget | None = None) -> None:
        self._demand = demand
        self._ledger = ledger
        self._budget = budget
        self._steps = Steps()
        self.choices = [[Want(request, ledger, demand.constraints) for request in item] for item in demand.choices]
        self.gave_up = False
        self.too_many = False

    def run(self, admits: Callable[[str], bool] | None, without: Collection[str] = ()) -> Placement | None:
        """Return the placement, or None.

        Where requests have alternatives, a node that offers the preferred ones comes before the order of the policy.
        """
        if self._budget is not None and exceeds(least_total(self.choices, self._ledger.examples()), self._budget):
            return None
        best: Found | None = None
        chosen = ""
        for node in self._with_room(without):
            if not self.may_fit(node, best) or (admits is not None and not admits(node.name)):
                continue
            found = self.on(node, best)
            if found is not None:
                best, chosen = found, node.name
                if not any(best.ranks):
                    break
        return Placement(node=chosen, devices=best.devices) if best is not None else None

    def _with_room(self, without: Collection[str]) -> Iterable[NodeState]:
        """Return the nodes in the order of the policy, less those that have no room at a glance."""
        nodes: Iterable[NodeState] = self._ledger.states(self._demand.node_policy, without)
        for wants in self.choices:
            if len(wants) == 1:
                nodes = wants[0].having_room(nodes)
        return nodes

    def may_fit(self, node: NodeState, best: Found | None = None) -> bool:
        """Tell whether each request by itself has room on the node, a better one than `best`; False is certain."""
        if best is not None and len(best.ranks) == 1:
            return _one_may_fit(self.choices[0][: best.ranks[0]], node)
        return all(_one_may_fit(wants, node) for wants in self.choices)

    def on(self, node: NodeState, best: Found | None = None) -> Found | None:
        """Return the preferred assignment on one node, if there is any that is better than `best`."""
        self._steps.next_node()
        found: Found | None = None
        try:
            # Depth first takes the first GPU with which the rest fits somehow, so ask again for better alternatives.
            while better := self._search(node, found or best):
                found = better
                if not any(found.ranks):
                    break
        except SearchLimitError:
            self.gave_up = self.gave_up or found is None
        return found

    def _search(self, node: NodeState, best: Found | None) -> Found | None:
        limit = best.ranks if best is not None else None
        constraints, budget = self._demand.constraints, self._budget
        search = Search(node, self.choices, constraints, self._steps, budget=budget, better_than=limit)
        try:
            return search.run()
        finally:
            self.too_many = self.too_many or search.too_many


def _one_may_fit(wants: Sequence[Want], node: NodeState) -> bool:
    if len(wants) == 1:
        return bool(wants[0].selected(node)) and wants[0].fits_alone(node)
    return any(want.may_fit(node) and want.selected(node) and want.fits_alone(node) for want in wants)
