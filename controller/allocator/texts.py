"""What people read on pods and claims when something was decided."""

from __future__ import annotations

from typing import Final

from fracgpu.controller.fit.views import Holding
from fracgpu.controller.objects.facts import items, text
from fracgpu.controller.objects.holdings import holdings_of, node_of
from fracgpu.controller.ports import Json
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.quantity import format_bytes

ALLOCATED: Final = "ClaimAllocated"
UNSCHEDULABLE: Final = "ClaimUnschedulable"
RELEASED: Final = "ClaimReleased"


def allocated_text(claim: Json) -> str:
    """Return which shares of which GPUs a claim has, for all results of our driver."""
    holdings = iter(holdings_of(claim))
    node = node_of(claim) or "(several)"
    texts: list[str] = []
    for result in items(claim, "status", "allocation", "devices", "results"):
        if result.get("driver") == DRIVER_NAME:
            # Admin access holds nothing: it has no entry among the holdings.
            holding = None if result.get("adminAccess") is True else next(holdings, None)
            texts.append(_result_text(result, holding, node))
    return "; ".join(texts)


def _result_text(result: Json, holding: Holding | None, node: str) -> str:
    share_id = text(result, "shareID")
    share = f" share {share_id[:8]}" if share_id else ""
    return f"{text(result, 'request')}: {_amounts(holding)} on node {node} GPU {text(result, 'device')}{share}"


def _amounts(holding: Holding | None) -> str:
    if holding is None:
        return "admin access"
    if holding.whole:
        return "all of it, as no amounts are stated,"
    return f"{format_bytes(holding.memory_bytes)} memory, {holding.cores} cores"


def released_text(node: str, seconds: float) -> str:
    """Return why an allocation was collected."""
    return (
        f"allocation on node {node} taken back: no pod has used it for {seconds:.0f} s; "
        "it is allocated again when a pod needs it"
    )
