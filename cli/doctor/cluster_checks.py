"""Does anybody else hand out the same GPUs? What the cluster's API shows of it, for all nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fracgpu.cli.doctor.finding import Finding, failed, ok, warn

_CHECK = "other owners in the cluster"


def check_cluster_owners(kubeconfig: Path) -> Iterator[Finding]:
    """Everybody who hands out GPUs of nodes on which we publish them; one finding each, or that there is nobody."""
    # The client takes half a second to load, and most reports need none.
    from fracgpu.cli.snapshot import ClusterUnread, read_lists
    from fracgpu.controller.allocator.world import NODES, SLICES
    from fracgpu.controller.owners import second_owners

    try:
        snapshot = read_lists(kubeconfig, NODES, SLICES)
    except ClusterUnread as error:
        yield failed(_CHECK, error)
        return
    found = second_owners(snapshot.of(NODES), snapshot.of(SLICES))
    for owner in found:
        yield warn(_CHECK, f"node {owner.node}: {owner.what}", owner.remedy)
    if not found:
        yield ok(_CHECK, "none to be seen")
