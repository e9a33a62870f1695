"""The shares of a claim: per result of its allocation the GPU, the amounts, and what the node says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.controller.fit.views import Holding
from fracgpu.controller.objects.facts import dig, items, text
from fracgpu.controller.objects.holdings import holdings_of, node_of
from fracgpu.controller.ports import Json
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.quantity import format_mib

_WHOLE: Final = "whole GPU"
_ADMIN: Final = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One result. `holding` is None for admin access, which holds nothing."""

    request: str
    node: str
    pool: str
    device: str
    share_id: str
    holding: Holding | None
    enforced: str
    used_bytes: int | None

    @property
    def memory(self) -> str:
        """The memory in MiB, or what stands for it."""
        if self.holding is None:
            return _ADMIN
        return _WHOLE if self.holding.whole else format_mib(self.holding.memory_bytes)

    @property
    def cores(self) -> str:
        """The cores in percent of one GPU."""
        return "" if self.holding is None or self.holding.whole else str(self.holding.cores)

    @property
    def used(self) -> str:
        """The memory in use, empty if nobody has looked yet."""
        return "" if self.used_bytes is None else format_mib(self.used_bytes)

    def as_json(self) -> Mapping[str, Any]:
        """Return the share for programs: memory in bytes, cores in percent of one GPU."""
        counted = self.holding is not None and not self.holding.whole
        return {
            "request": self.request,
            "node": self.node,
            "pool": self.pool,
            "device": self.device,
            "shareID": self.share_id or None,
            "adminAccess": self.holding is None,
            "memoryBytes": self.holding.memory_bytes if self.holding is not None and counted else None,
            "cores": self.holding.cores if self.holding is not None and counted else None,
            "enforced": self.enforced or None,
            "memoryUsedBytes": self.used_bytes,
        }


def shares_of(claim: Json) -> list[Share]:
    """Return the shares of our driver that a claim has, in the order of its allocation."""
    holdings = iter(holdings_of(claim))
    shares = []
    for result in items(claim, "status", "allocation", "devices", "results"):
        pool, device = text(result, "pool"), text(result, "device")
        if result.get("driver") != DRIVER_NAME or not pool or not device:
            continue
        entry = _status_of(claim, pool, device, text(result, "shareID"))
        used = dig(entry, "data", "memoryUsedBytes")
        shares.append(
            Share(
                request=text(result, "request"),
                node=node_of(claim) or "",
                pool=pool,
                device=device,
                share_id=text(result, "shareID"),
                holding=None if result.get("adminAccess") is True else next(holdings, None),
                enforced=_enforced(entry),
                used_bytes=used if isinstance(used, int) else None,
            )
        )
    return shares


def _status_of(claim: Json, pool: str, device: str, share_id: str) -> Json:
    for entry in items(claim, "status", "devices"):
        key = (entry.get("driver"), text(entry, "pool"), text(entry, "device"), text(entry, "shareID"))
        if key == (DRIVER_NAME, pool, device, share_id):
            return entry
    return {}


def _enforced(entry: Json) -> str:
    """Return the condition Enforced, with its reason when it is not True; empty if nobody has looked yet."""
    for condition in items(entry, "conditions"):
        if condition.get("type") == "Enforced":
            status, reason = text(condition, "status"), text(condition, "reason")
            return status if status == "True" or not reason else f"{status} ({reason})"
    return ""
