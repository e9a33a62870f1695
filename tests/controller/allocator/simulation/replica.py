"""One replica of the controller in the simulation: the real allocator on a faulty connection to the store."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fracgpu.controller.allocator.allocator import Allocator, AllocatorOptions
from fracgpu.controller.ports import Change, Clock
from fracgpu.driver.kube.errors import Unavailable
from tests.controller.allocator.simulation.store import Store, Watch, copied
from tests.controller.allocator.simulation.turnstile import Actor

Json = dict[str, Any]
Answer = TypeVar("Answer")


class Network:
    """Writes that were sent and not yet received; each arrives some time, or never."""

    def __init__(self) -> None:
        self.under_way: list[Callable[[], object]] = []


class FaultyApi:
    """ControllerApi on the store. At each call the replica stands still; it may fail, before or after its effect.

    A write that times out may also arrive later, when everybody has forgotten it.
    """

    def __init__(self, store: Store, actor: Actor, network: Network, dice: random.Random) -> None:
        self.store = store
        self._actor = actor
        self.network = network
        self._dice = dice
        self.faults = 0.0

    def list_claims(self) -> Sequence[Json]:
        return self._read(lambda: self.store.all("resourceclaims"))

    def get_claim(self, namespace: str, name: str) -> Json:
        return self._read(lambda: self.store.get("resourceclaims", namespace, name))

    def lease_holder(self) -> str:
        return self._read(lambda: self.store.lease_holder)

    def keeps_capacity(self) -> bool:
        return self._read(lambda: self.store.keeps_capacity)

    def replace_claim(self, claim: Json) -> Json:
        return self._write(lambda: self.store.replace("resourceclaims", claim, status=False))

    def replace_claim_status(self, claim: Json) -> Json:
        return self._write(lambda: self.store.replace("resourceclaims", claim, status=True))

    def replace_quota_status(self, quota: Json) -> Json:
        return self._write(lambda: self.store.replace("fractionquotas", quota, status=True))

    def _read(self, call: Callable[[], Answer]) -> Answer:
        self._actor.pause()
        if self._dice.random() < self.faults:
            raise _silence()
        answer = call()
        # The answer travels too: what it says may be over when it arrives.
        self._actor.pause()
        return copied(answer)

    def _write(self, call: Callable[[], Json]) -> Json:
        self._actor.pause()
        if self._dice.random() < self.faults:
            if self._dice.random() < 0.5:
                self.network.under_way.append(call)
            raise _silence()
        answer = call()
        self._actor.pause()
        if self._dice.random() < self.faults:
            raise _silence()
        return copied(answer)


def _silence() -> Unavailable:
    return Unavailable("API server", "no answer", remedy="try again")


class OneByOne:
    """Executor that runs calls one after the other, in an order that the dice decide."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def run_all(self, calls: Sequence[Callable[[], None]]) -> None:
        for call in self._dice.sample(list(calls), len(calls)):
            call()


class Notes:
    """Teller and metrics that remember."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], str] = {}
        self.counts: dict[str, int] = {}

    def tell(self, about: Json, reason: str, message: str, *, warning: bool = False) -> None:  # noqa: ARG002
        assert message
        self.told[about["metadata"]["uid"], reason] = message

    def settle(self, about: Json, reason: str) -> None:
        self.told.pop((about["metadata"]["uid"], reason), None)

    def placed(self, seconds: float) -> None:  # noqa: ARG002
        self._count("placed")

    def refused(self, code: str, seconds: float) -> None:  # noqa: ARG002
        self._count(f"refused {code}")

    def wrote(self, kind: str, outcome: str) -> None:
        self._count(f"{kind} {outcome}")

    def taken_back(self) -> None:
        self._count("taken back")

    def rolled_back(self) -> None:
        self._count("rolled back")

    def collected(self) -> None:
        self._count("collected")

    def fenced(self) -> None:
        self._count("fenced")

    def pending(self, count: int) -> None:
        pass

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


class Replica:
    """Starts, is told news, does rounds, crashes and starts again. `term` is what it believes."""

    def __init__(
        self, name: str, store: Store, network: Network, dice: random.Random, notes: Notes, clock: Clock
    ) -> None:
        self.name = name
        self.term: str | None = None
        self.actor = Actor(name)
        self.api = FaultyApi(store, self.actor, network, dice)
        self._store = store
        self._dice = dice
        self._notes = notes
        self._clock = clock
        self._boot()

    def _boot(self) -> None:
        self.allocator = Allocator(
            api=self.api,
            teller=self._notes,
            metrics=self._notes,
            executor=OneByOne(self._dice),
            clock=self._clock,
            options=AllocatorOptions(orphan_seconds=30.0),
        )
        self.watch = Watch(self._store)
        for change in self.watch.first:
            self.allocator.observe(_delivered(change))

    def hear(self, resource: str) -> None:
        """Be told the next piece of news of a resource."""
        self.allocator.observe(_delivered(self.watch.take(resource)))

    def act(self) -> None:
        """Go on with the round under way, or begin one."""
        if self.actor.is_busy:
            self.actor.resume()
        else:
            allocator, term = self.allocator, self.term
            self.actor.start(lambda: _round(allocator, term))

    def crash(self) -> None:
        """Die in the middle of whatever it does, and start again with nothing but what the API server tells."""
        if self.actor.is_busy:
            self.actor.resume(crash=True)
        self.term = None
        self._boot()

    def end(self) -> None:
        self.actor.end()


def _round(allocator: Allocator, term: str | None) -> None:
    allocator.step(term)


def _delivered(change: Change) -> Change:
    return Change(change.resource, change.kind, copied(change.obj))
