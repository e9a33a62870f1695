"""The fit engine: a placement, or why there is none.

Pure and deterministic: the same facts give the same answer in whatever order they are told. Allocator, explainer,
`fracgpu fit` and the simulator all ask here, so what one explains is what another decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from fracgpu.controller.fit.explain import explain
from fracgpu.controller.fit.ledger import free_amounts, utilisation
from fracgpu.controller.fit.search import SearchLimitError, search_node
from fracgpu.controller.fit.views import Constraint, DeviceRequest, GpuView, Holding, Misfit, Placement, Policy


def fit(
    requests: Sequence[DeviceRequest],
    gpus: Iterable[GpuView],
    holdings: Iterable[Holding],
    *,
    constraints: Sequence[Constraint] = (),
    node_policy: Policy = "Binpack",
    nodes: Collection[str] | None = None,
) -> Placement | Misfit:
    """Place all requests on one node.

    `nodes` limits the nodes (None: all that have GPUs). Among nodes with room, Binpack takes the fullest, Spread the
    emptiest, by used part of GPU memory; equal ones go by name. The GPU policy is that of each request.
    """
    usable = sorted(
        (gpu for gpu in gpus if nodes is None or gpu.node in nodes), key=lambda gpu: (gpu.node, gpu.pool, gpu.device)
    )
    free = free_amounts(usable, holdings)
    by_node: dict[str, list[GpuView]] = {}
    for gpu in usable:
        by_node.setdefault(gpu.node, []).append(gpu)
    load = {node: utilisation(of_node, free) for node, of_node in by_node.items()}
    order = sorted(by_node, key=lambda node: (-load[node] if node_policy == "Binpack" else load[node], node))
    gave_up = False
    for node in order:
        try:
            devices = search_node(requests, by_node[node], free, constraints)
        except SearchLimitError:
            gave_up = True
            continue
        if devices is not None:
            return Placement(node=node, devices=devices)
    return Misfit(explain(requests, usable, free, constraints, gave_up=gave_up))
