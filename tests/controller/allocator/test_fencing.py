"""An old leader sleeps at each single point of its work while a new one takes over, and then wakes up.

The random simulation rarely meets the worst moment; here it is met on purpose: the two leaders know different pods, so
that neither happens to touch the other's claim, and one GPU has room for one of them only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from fracgpu.driver.kube.errors import Unavailable
from fracgpu.driver.names import CLASS_FRACTION
from tests.controller.allocator.simulation import cluster
from tests.controller.allocator.simulation.oracle import given_away, overdrawn
from tests.controller.allocator.simulation.replica import FaultyApi, Network, Notes, Replica
from tests.controller.allocator.simulation.store import Store

Json = dict[str, Any]
_PAUSES: Final = 24


class Duel:
    """Replica `old` knows pod x, replica `new` knows pod y; each pod wants most of the only GPU."""

    def __init__(self) -> None:
        self.overdrafts: list[str] = []
        self.store = Store(self._look)
        self.network = Network()
        self.old, self.new = self._replica("old"), self._replica("new")
        for resource, obj in objects():
            self.store.create(resource, obj)
        self._tell(self.old, unknown="y")
        self._tell(self.new, unknown="x")

    def elect(self, replica: Replica, term: str) -> None:
        replica.term = self.store.lease_holder = term

    def run_to_end(self, replica: Replica, rounds: int = 3) -> None:
        for _ in range(rounds):
            replica.act()
            while replica.actor.is_busy:
                replica.act()

    def allocated(self) -> int:
        return sum(1 for claim in self.store.all("resourceclaims") if (claim.get("status") or {}).get("allocation"))

    def _replica(self, name: str) -> Replica:
        return Replica(name, self.store, self.network, random.Random(1), Notes(), lambda: 0.0)  # noqa: S311

    def _tell(self, replica: Replica, *, unknown: str) -> None:
        for resource in replica.watch.lagging():
            while resource in replica.watch.lagging():
                change = replica.watch.take(resource)
                if change.obj["metadata"]["name"] not in (f"pod-{unknown}", f"claim-{unknown}"):
                    replica.allocator.observe(change)

    def _look(self, store: Store) -> None:
        self.overdrafts += overdrawn(store.all("resourceclaims"), store.all("resourceslices"))


@contextmanager
def duel() -> Iterator[Duel]:
    running = Duel()
    try:
        yield running
    finally:
        running.old.end()
        running.new.end()


@pytest.mark.parametrize("pauses", range(_PAUSES))
def test_a_leader_that_sleeps_anywhere_gives_nothing_away_twice(pauses: int) -> None:
    with duel() as running:
        running.elect(running.old, "term-1")
        running.old.act()
        for _ in range(pauses):
            if running.old.actor.is_busy:
                running.old.act()
        finished = not running.old.actor.is_busy
        running.elect(running.new, "term-2")
        running.run_to_end(running.new)
        running.run_to_end(running.old)
        assert running.overdrafts == []
        assert running.allocated() == 1
        # The last case is beyond the end of the whole round, so every moment of it was tried.
        assert finished or pauses < _PAUSES - 1


def test_a_write_that_arrives_after_the_successor_began_is_refused() -> None:
    with duel() as running:
        lose_status_writes(running.old.api)
        running.elect(running.old, "term-1")
        running.run_to_end(running.old, rounds=1)
        assert len(running.network.under_way) == 1
        running.elect(running.new, "term-2")
        running.run_to_end(running.new)
        assert running.allocated() == 1
        with pytest.raises(Exception, match="has been modified"):
            running.network.under_way.pop()()
        assert running.overdrafts == []


def test_a_write_without_an_answer_keeps_its_place_until_it_is_settled() -> None:
    with duel() as running:
        lose_status_writes(running.old.api)
        running.elect(running.old, "term-1")
        running.run_to_end(running.old, rounds=1)
        ledger = running.old.allocator.world.ledger
        (gpu,) = ledger.gpus_of("n1")
        free = ledger.free(gpu.key)
        assert free is not None
        assert free.memory_bytes == 2 << 30
        (message,) = running.network.under_way
        message()
        running.run_to_end(running.old, rounds=1)
        assert given_away(running.store.all("resourceclaims")) == {("n1", "gpu-00000000"): [6 << 30, 0, 1]}
        assert ledger.free(gpu.key) == free


def lose_status_writes(api: FaultyApi) -> None:
    """Let status writes go out and their answers stay away; one that is settled later is not lost again."""
    store, network = api.store, api.network
    lost = False

    def send(claim: Json) -> Json:
        nonlocal lost
        if lost:
            return store.replace("resourceclaims", claim, status=True)
        lost = True
        network.under_way.append(lambda: store.replace("resourceclaims", claim, status=True))
        raise Unavailable("API server", "no answer", remedy="try again")

    api.replace_claim_status = send  # type: ignore[method-assign]


def objects() -> list[tuple[str, Json]]:
    """Return one node with one GPU of 8 GiB, and two pods with a claim of 6 GiB each."""
    piece = cluster.slice_of("n1", [cluster.device(0, 8)])
    found = [("deviceclasses", cluster.device_class()), ("nodes", cluster.node("n1")), ("resourceslices", piece)]
    for name in ("x", "y"):
        exactly = {
            "deviceClassName": CLASS_FRACTION,
            "allocationMode": "ExactCount",
            "count": 1,
            "capacity": {"requests": {"memory": "6Gi"}},
        }
        claim = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": f"claim-{name}", "namespace": "default"},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
        }
        found += [("resourceclaims", claim), ("pods", cluster.pod(f"pod-{name}", [f"claim-{name}"]))]
    return found
