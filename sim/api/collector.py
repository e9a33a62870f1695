"""The garbage collector's loop: follows the changes and runs a round when one of them can matter."""

from __future__ import annotations

import asyncio

from fracgpu.sim.api.objects import metadata
from fracgpu.sim.api.registry import Registry
from fracgpu.sim.api.resources import NAMESPACES
from fracgpu.sim.api.store import Store
from fracgpu.sim.api.watchhub import Change, HistoryExpiredError


async def collect_forever(registry: Registry) -> None:
    """Collect garbage until cancelled. Runs on the event loop that serves requests."""
    store, loop = registry.store, asyncio.get_running_loop()
    wake = asyncio.Event()
    wake.set()

    def changed() -> None:
        loop.call_soon_threadsafe(wake.set)

    unsubscribe = store.hub.subscribe(changed)
    seen = 0
    try:
        while True:
            await wake.wait()
            wake.clear()
            seen, needed = _look(store, seen)
            while needed:
                needed = registry.deletion.collect()
    finally:
        unsubscribe()


def _look(store: Store, seen: int) -> tuple[int, bool]:
    try:
        changes = store.hub.since(seen)
    except HistoryExpiredError:
        return store.revision, True
    needed = any(_matters(store, change) for change in changes)
    return (changes[-1].revision if changes else seen), needed


def _matters(store: Store, change: Change) -> bool:
    if change.type == "DELETED" or change.resource is NAMESPACES:
        return True
    owners = metadata(change.obj).get("ownerReferences") or []
    return bool(owners) and not any(store.find_uid(str(owner.get("uid"))) for owner in owners)
