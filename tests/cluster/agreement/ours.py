"""Our answer to a case: the fit engine, told the same JSON that kube-scheduler reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fracgpu.controller.fit.engine import place
from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.views import Demand, DeviceKey, Placement
from fracgpu.controller.objects.demand import build_demand
from fracgpu.controller.objects.facts import uid_of
from fracgpu.controller.objects.holdings import holdings_of
from fracgpu.controller.objects.inventory import gpus_of
from fracgpu.controller.objects.node_fit import NodeFacts, PodNeeds, node_facts, pod_requests
from fracgpu.driver.errors import FracgpuError
from tests.cluster.agreement.question import Question

Json = dict[str, Any]


class Ours:
    """The engine with the facts of one question."""

    def __init__(self, question: Question) -> None:
        """Tell the engine everything."""
        self._nodes = {node["metadata"]["name"]: node_facts(node) for node in question.nodes}
        self._needs = PodNeeds.of(question.pod)
        self._ledger = Ledger()
        views = gpus_of(question.slices, owner="scheduler")
        for name in self._nodes:
            self._ledger.set_gpus(name, [view for view in views if view.node == name])
        for holder in question.holders:
            self._ledger.hold(uid_of(holder), holdings_of(holder))
        self._fillers = question.fillers
        self.refusal = ""
        self._demand: Demand | None = None
        try:
            self._demand = build_demand(
                question.claims, question.classes.get, keeps_capacity=True, allocator="scheduler"
            )
        except FracgpuError as error:
            self.refusal = str(error)

    def place(self, *, only: str = "") -> Placement | None:
        """Return where the pod can run, `only` on that node if it is given; None if nowhere."""
        if self._demand is None:
            return None

        def admits(node: str) -> bool:
            return only in ("", node) and self._rejects(node) is None

        try:
            return place(self._demand, self._ledger, admits=admits)
        except FracgpuError as error:
            self.refusal = str(error)
            return None

    def amounts(self, request: str, claim: str, key: DeviceKey) -> Mapping[str, str]:
        """Return what a request of a claim (its UID) takes of a GPU, as consumedCapacity."""
        assert self._demand is not None
        (asks,) = [
            one for choice in self._demand.choices for one in choice if (one.claim, one.name) == (claim, request)
        ]
        gpu = self._ledger.gpu(key)
        assert gpu is not None, key
        return asks.amounts_on(gpu).to_capacities()

    def _rejects(self, name: str) -> str | None:
        node: NodeFacts = self._nodes[name]
        there = [pod for pod in self._fillers if pod["spec"]["nodeName"] == name]
        used: Counter[str] = Counter()
        for pod in there:
            used.update(pod_requests(pod))
        return self._needs.rejects(node, used, len(there))
