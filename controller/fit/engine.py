"""The fit engine: a placement, or why there is none.

Pure and deterministic: the same facts give the same answer in whatever order they are told. Allocator, explainer,
`fracgpu fit` and the embedded cluster all ask here, so what one explains is what another decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from fracgpu.controller.fit.explain import explain
from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.placing import Placing
from fracgpu.controller.fit.views import Budget, Demand, GpuView, Holding, Misfit, Placement

__all__ = ["explain", "fit", "ledger_of", "place"]


def place(
    demand: Demand,
    ledger: Ledger,
    *,
    admits: Callable[[str], bool] | None = None,
    without: Collection[str] = (),
    budget: Budget | None = None,
) -> Placement | None:
    """Return where a demand goes, all of it on one node, or None when no node takes it.

    The first node wins, in the order of the demand's node policy: Binpack begins with the node whose GPU memory is used
    most, Spread with the least used, equal ones go by name. Only where requests have alternatives, a node with the
    preferred ones comes first. `admits` tells whether the pod can run on a node; it is asked of nodes with room only.
    What the owners `without` hold is taken as free. `budget` is what the demand may take in all.

    A node where a selector cannot be evaluated takes nothing: explain says so. The work is bounded: a demand made to be
    hard may be refused although it would fit, and explain says so too.
    """
    return Placing(demand, ledger, budget=budget).run(admits, without)


def fit(
    demand: Demand,
    gpus: Iterable[GpuView],
    holdings: Iterable[Holding],
    *,
    nodes: Collection[str] | None = None,
    rejections: Mapping[str, str] | None = None,
    budget: Budget | None = None,
) -> Placement | Misfit:
    """Place a demand, or explain, from plain lists. `nodes` limits the nodes (None: all that have GPUs)."""
    ledger = ledger_of([gpu for gpu in gpus if nodes is None or gpu.node in nodes], holdings)
    refused = rejections or {}
    found = place(demand, ledger, admits=lambda node: node not in refused, budget=budget)
    return found or explain(demand, ledger, rejections=refused, budget=budget)


def ledger_of(gpus: Iterable[GpuView], holdings: Iterable[Holding] = ()) -> Ledger:
    """Return a ledger of plain lists; each holding has an owner of its own."""
    ledger = Ledger()
    by_node: dict[str, list[GpuView]] = {}
    for gpu in gpus:
        by_node.setdefault(gpu.node, []).append(gpu)
    for node, views in by_node.items():
        ledger.set_gpus(node, views)
    for number, holding in enumerate(holdings):
        ledger.hold(f"#{number}", (holding,))
    return ledger
