"""One run of the simulation from one seed: two replicas, a cluster that lives, an oracle that looks at each write."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

from tests.controller.allocator.simulation.cluster import Cluster
from tests.controller.allocator.simulation.oracle import overdrawn
from tests.controller.allocator.simulation.replica import Network, Notes, Replica
from tests.controller.allocator.simulation.store import Store


class Simulation:
    """`turns` random events; after that `settle` lets everything that can be finished finish."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 (dice, not keys)
        self.now = 0.0
        self.overdrafts: list[str] = []
        self.store = Store(self._look)
        self.store.keeps_capacity = self.dice.random() < 0.7
        self.cluster = Cluster(self.store, self.dice, nodes=self.dice.choice([1, 2, 3]))
        self.network = Network()
        # Each run has a character of its own: calm or faulty, with a Lease that stays or changes hands all the time.
        self._faults = self.dice.choice([0.0, 0.05, 0.2, 0.4])
        self._elections = self.dice.choice([0, 1, 3])
        self.notes = Notes()
        self.replicas = [
            Replica(name, self.store, self.network, self.dice, self.notes, lambda: self.now) for name in ("a", "b")
        ]
        for replica in self.replicas:
            replica.api.faults = self._faults
        self._terms = 0
        self._frozen: Replica | None = None
        self._frozen_for = 0

    def run(self, turns: int) -> None:
        acts: list[Callable[[], None]] = (
            [self._replica_acts] * 12
            + [self._news_arrives] * 10
            + [self.cluster.something_happens] * 5
            + [self._message_arrives] * 2
            + [self._election] * self._elections
            + [self._replica_notices, self._replica_doubts, self._time_passes]
        )
        self._election()
        for _ in range(turns):
            self._frozen_for = max(0, self._frozen_for - 1)
            if self.dice.random() < 0.004:
                self.dice.choice(self.replicas).crash()
            if self.dice.random() < 0.02 and not self._frozen_for:
                self._freeze()
            self.dice.choice(acts)()

    def settle(self, rounds: int = 100) -> None:
        """End all trouble: nodes are back, one replica leads, nothing is lost any more, all news arrives."""
        self.network.under_way.clear()
        self.cluster.all_nodes_come()
        for replica in self.replicas:
            replica.api.faults = 0.0
            while replica.actor.is_busy:
                replica.act()
            replica.term = None
        self._elect(self.replicas[0])
        for round_number in range(rounds):
            before = self.store.revision
            for replica in self.replicas:
                for resource in replica.watch.lagging():
                    while resource in replica.watch.lagging():
                        replica.hear(resource)
                replica.act()
                while replica.actor.is_busy:
                    replica.act()
            self.now += 5.0
            self.cluster.scheduler_looks()
            if before == self.store.revision and round_number > 3:
                return

    def end(self) -> None:
        for replica in self.replicas:
            replica.end()

    def _look(self, store: Store) -> None:
        slices = self.cluster.slices() if hasattr(self, "cluster") else []
        self.overdrafts += overdrawn(store.all("resourceclaims"), slices)

    def _freeze(self) -> None:
        """Let a replica sleep in the middle of its work, as if it swapped or were stopped; the other may take over."""
        self._frozen = self.dice.choice(self.replicas)
        self._frozen_for = self.dice.choice([20, 60])
        if self.dice.random() < 0.7:
            self._elect(next(one for one in self.replicas if one is not self._frozen))

    def _replica_acts(self) -> None:
        awake = [one for one in self.replicas if not (self._frozen_for and one is self._frozen)]
        self.dice.choice(awake).act()

    def _news_arrives(self) -> None:
        replica = self.dice.choice(self.replicas)
        lagging = replica.watch.lagging()
        if lagging:
            replica.hear(self.dice.choice(lagging))

    def _message_arrives(self) -> None:
        """Let a write that timed out reach the server after all."""
        if self.network.under_way:
            message = self.network.under_way.pop(self.dice.randrange(len(self.network.under_way)))
            # Nobody waits for the answer.
            with contextlib.suppress(Exception):
                message()

    def _election(self) -> None:
        self._elect(self.dice.choice(self.replicas))

    def _elect(self, winner: Replica) -> None:
        """Give the Lease to a replica in a new term; the other goes on believing what it believed."""
        self._terms += 1
        winner.term = self.store.lease_holder = f"{winner.name}-{self._terms}"

    def _replica_notices(self) -> None:
        replica = self.dice.choice(self.replicas)
        if replica.term != self.store.lease_holder:
            replica.term = None

    def _replica_doubts(self) -> None:
        """Let the Lease be renewed late: its holder is not sure for a while, and then leads on in the same term."""
        holder = next((one for one in self.replicas if self.store.lease_holder.startswith(f"{one.name}-")), None)
        if holder is not None:
            holder.term = None if holder.term == self.store.lease_holder else self.store.lease_holder

    def _time_passes(self) -> None:
        self.now += self.dice.choice([0.5, 2.0, 20.0])
