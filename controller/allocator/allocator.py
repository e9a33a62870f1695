"""The allocator: one thread that hears the news, decides, and, while it leads, writes.

Each round drains the news, plans for every pod that waits (counting each decision at once, so that the next one sees
it), and carries the plans out as one fenced batch. What was not written is taken out of the count again; what may have
been written stays in it until that is settled.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.allocator.batch import Batch, Carried
from fracgpu.controller.allocator.claim_book import ClaimNews, wanted_ahead
from fracgpu.controller.allocator.doubts import Doubts
from fracgpu.controller.allocator.due import DueList
from fracgpu.controller.allocator.exclusions import Exclusions
from fracgpu.controller.allocator.explaining import Explaining
from fracgpu.controller.allocator.fenced_writes import FencedWriter
from fracgpu.controller.allocator.orphans import OrphanWatch
from fracgpu.controller.allocator.planner import Decision, Place, Planner, Refuse, TakeBack, refusal_of
from fracgpu.controller.allocator.releases import Releases
from fracgpu.controller.allocator.reports import Reports
from fracgpu.controller.allocator.scheduler_watch import SchedulerWatch
from fracgpu.controller.allocator.takeover import take_over
from fracgpu.controller.allocator.texts import ALLOCATED, RELEASED, allocated_text, released_text
from fracgpu.controller.allocator.world import Owner, World
from fracgpu.controller.objects.facts import full_name, is_allocated, name_of, namespace_of, uid_of
from fracgpu.controller.objects.holdings import node_of
from fracgpu.controller.ports import (
    AllocatorMetrics,
    Change,
    Clock,
    ControllerApi,
    Executor,
    Json,
    Leadership,
    Teller,
)
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.kube.errors import ClusterError

_LOG: Final = logging.getLogger(__name__)
_MOST_IN_A_BATCH: Final = 64
_MOST_COLLECTED_PER_ROUND: Final = 10
# Something passes by itself only for what has a time; all else is told by news, and this is for news that got lost.
_IDLE_SECONDS: Final = 5.0
_FAILURE_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 60.0
_TIDY_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorOptions:
    """`owner` tells who allocates in this cluster: this allocator, or kube-scheduler, which it then only explains.

    An allocation that nobody uses for `orphan_seconds` is taken back.
    """

    owner: Owner = "controller"
    orphan_seconds: float = 300.0


class Allocator:
    """Told of changes from any thread, run by one. `clock` counts seconds and never goes back."""

    def __init__(
        self,
        *,
        api: ControllerApi,
        teller: Teller,
        metrics: AllocatorMetrics,
        executor: Executor,
        clock: Clock = time.monotonic,
        options: AllocatorOptions | None = None,
    ) -> None:
        self._options = options or AllocatorOptions()
        self._api = api
        self._teller = teller
        self._metrics = metrics
        self._executor = executor
        self._clock = clock
        self._inbox: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self.world = World(self._options.owner)
        self._exclusions = Exclusions(clock)
        self._planner = Planner(self.world, self._exclusions)
        self._due = DueList(clock)
        self._explaining = Explaining(teller, clock)
        self._orphans = OrphanWatch(self.world, clock, self._options.orphan_seconds)
        self._scheduler = SchedulerWatch(self.world, self._exclusions, metrics)
        self._doubts = Doubts(world=self.world, api=api, executor=executor, clock=clock)
        self._releases = Releases(
            world=self.world, api=api, executor=executor, scheduler=self._scheduler, metrics=metrics
        )
        self._writer: FencedWriter | None = None
        self._term: str | None = None
        self._probe_at = self._tidy_at = clock()
        self._reports = Reports(world=self.world, api=api, teller=teller, executor=executor, clock=clock)
        self.world.on_claim(self._heard)

    def observe(self, change: Change) -> None:
        """Hear a piece of news. From any thread."""
        self._inbox.put(change)

    def wake(self) -> None:
        """End the pause of `run`. From any thread."""
        self._inbox.put(None)

    def run(self, leadership: Leadership, stop: threading.Event) -> None:
        """Work until `stop` is set; `wake` must be called after setting it."""
        pause = 0.0
        while not stop.is_set():
            self._hear(pause)
            if stop.is_set():
                return
            pause = self.step(leadership.term())

    def step(self, term: str | None) -> float:
        """Do one round in a term of office, None meaning that another leads; return the seconds until the next."""
        self._hear(0.0)
        try:
            if term is None:
                self._resign()
                return _IDLE_SECONDS
            if term != self._term and not self._take_office(term):
                return _FAILURE_SECONDS
            return self._round()
        except ClusterError as error:
            _LOG.warning("round cut short", extra={"error": str(error)})
            return _FAILURE_SECONDS

    # News

    def _hear(self, seconds: float) -> None:
        try:
            change = self._inbox.get(timeout=seconds) if seconds > 0 else self._inbox.get_nowait()
            while True:
                if change is not None:
                    self.world.apply(change)
                change = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _heard(self, news: ClaimNews) -> None:
        """Tell of what kube-scheduler has allocated; of our own writes we tell when they are made."""
        before, after = news.before, news.after
        if self._options.owner != "scheduler" or self._term is None or before is None or after is None:
            return
        if is_allocated(after) and not is_allocated(before) and self.world.is_ours(after):
            self._tell_found(after)

    # Office

    def _resign(self) -> None:
        if self._term is not None:
            _LOG.info("another replica leads")
        self._term = self._writer = None

    def _take_office(self, term: str) -> bool:
        """Become the leader, see takeover.py; return whether that is so. Raises ClusterError: no leader then."""
        self._term = self._writer = None
        if self._options.owner == "controller":
            if self._api.lease_holder() != term:
                # Our own view of it is old. To take over now would only disturb whoever leads.
                return False
            writer = FencedWriter(self._api, self._executor, term)
            for claim in take_over(self._api, writer, self._executor):
                self.world.take_in_claim(claim)
            # Whatever we were not sure of in an earlier term is in that list, or can not happen any more.
            self._doubts.taken_over()
            self._probe()
            self._writer = writer
        self._term = term
        _LOG.info("this replica leads", extra={"term": term})
        return True

    # Rounds

    def _round(self) -> float:
        if self._writer is not None:
            for claim in self._doubts.resolve(self._writer):
                self._tell_found(claim)
            if self._clock() >= self._probe_at:
                self._probe()
            self._collect()
        if self._exclusions.take_ended():
            self.world.supply_version += 1
        full = self._plan_and_write()
        for code, seconds in self._explaining.tell_some():
            self._metrics.refused(code, seconds)
        self._reports.step()
        return 0.0 if full else self._pause()

    def _pause(self) -> float:
        now = self._clock()
        times = (
            self._due.next_due(),
            self._explaining.next_due(),
            self._exclusions.next_end(),
            self._reports.next_due(),
            self._doubts.next_due(),
        )
        next_time = min((one for one in times if one is not None), default=now + _IDLE_SECONDS)
        return min(max(next_time - now, 0.01), _IDLE_SECONDS)

    def _plan_and_write(self) -> bool:
        """Plan for all that wait, and write it; return whether there may be more to do at once."""
        batch = Batch(self.world, self._metrics, keeps_capacity=self._planner.keeps_capacity)
        waiting = list(self._waiting())
        self._metrics.pending(len(waiting))
        self._forget_others(waiting)
        self._planner.begin_round()
        # No ClusterError comes out of these two: what was counted is settled, or remembered as a doubt.
        moves = self._plan(waiting, batch)
        full = len(batch) >= _MOST_IN_A_BATCH
        if self._writer is not None and len(batch):
            self._write(batch, self._writer)
        if self._writer is not None:
            for move in moves:
                self._roll_back(move)
        return full or bool(moves)

    def _plan(self, waiting: Sequence[tuple[Json, list[Json]]], batch: Batch) -> list[TakeBack]:
        moves: list[TakeBack] = []
        for subject, claims in waiting:
            if not self._due.is_due(subject, claims, self.world.supply_version):
                continue
            if len(batch) >= _MOST_IN_A_BATCH:
                break
            self._act(subject, claims, batch, moves)
        return moves

    def _waiting(self) -> Iterator[tuple[Json, list[Json]]]:
        """Yield pods with their claims, then claims that want to be allocated ahead of pods."""
        for pod in self.world.pods.waiting():
            claims, missing = self.world.claims_of(pod)
            if not missing and any(not is_allocated(claim) and self.world.is_ours(claim) for claim in claims):
                yield pod, claims
        if self._options.owner == "controller":
            for claim in self.world.claims.ahead():
                yield claim, [claim]

    def _forget_others(self, waiting: Sequence[tuple[Json, list[Json]]]) -> None:
        uids = {uid_of(subject) for subject, _ in waiting}
        self._due.keep(uids)
        self._explaining.keep(uids)

    def _act(self, subject: Json, claims: list[Json], batch: Batch, moves: list[TakeBack]) -> None:
        began = self._clock()
        try:
            decision = self._decision(subject)
        except Exception:
            # Nothing has been counted or written. One pod that we fail to understand must not stop all others.
            _LOG.exception("no decision", extra={"subject": full_name(subject)})
            self._due.failed(subject, claims, self.world.supply_version)
            return
        if decision is None:
            # Nothing that a new look would cost much for, and what it depends on is not all in the pod.
            self._due.served(uid_of(subject))
            return
        if isinstance(decision, Place):
            self._metrics.placed(self._clock() - began)
            if self._place(decision, batch):
                return
        elif isinstance(decision, TakeBack) and self._writer is not None:
            moves.append(decision)
        elif isinstance(decision, Refuse):
            self._explaining.refused(decision)
        self._due.refused(subject, claims, self.world.supply_version)

    def _decision(self, subject: Json) -> Decision:
        return self._planner.for_claim(subject) if wanted_ahead(subject) else self._planner.for_pod(subject)

    def _place(self, plan: Place, batch: Batch) -> bool:
        """Put a placement into the batch; return whether it is to be written."""
        if self._writer is None:
            # kube-scheduler will find that place as well.
            self._explaining.settled([*([plan.pod] if plan.pod is not None else []), *plan.claims])
            return False
        try:
            batch.add(plan)
        except FracgpuError as error:
            found = refusal_of(error)
            self._explaining.refused(Refuse(pod=plan.pod, claims=plan.claims, why=lambda: found))
            return False
        return True

    def _write(self, batch: Batch, writer: FencedWriter) -> None:
        goes_on, carried = batch.carry_out(writer)
        for one in carried:
            self._carried(one)
        if not goes_on:
            self._metrics.fenced()
            self._resign()

    def _carried(self, one: Carried) -> None:
        subject = one.plan.pod if one.plan.pod is not None else one.plan.claims[0]
        self._doubts.add(one.in_doubt)
        if one.complete:
            self._due.served(uid_of(subject))
            self._tell_allocated(one.plan.pod, one.written)
        else:
            claims = self.world.claims_of(subject)[0] if one.plan.pod is not None else list(one.plan.claims)
            self._due.failed(subject, claims, self.world.supply_version)

    def _tell_allocated(self, pod: Json | None, claims: Sequence[Json]) -> None:
        self._explaining.settled([*([pod] if pod is not None else []), *claims])
        for claim in claims:
            self._teller.tell(claim, ALLOCATED, allocated_text(claim))
        if pod is not None:
            self._teller.tell(pod, ALLOCATED, "; ".join(allocated_text(claim) for claim in claims))

    def _tell_found(self, claim: Json) -> None:
        """Tell of an allocation that we did not see being written: by kube-scheduler, or by us, without an answer."""
        pods = self.world.pods.users_of((namespace_of(claim), name_of(claim)))
        for pod in pods:
            self._teller.tell(pod, ALLOCATED, allocated_text(claim))
        self._explaining.settled(pods)
        self._tell_allocated(None, [claim])

    # Second thoughts

    def _probe(self) -> None:
        """Look whether the API server keeps capacity: one that was restarted with another gate says nothing of it."""
        self._probe_at = self._clock() + _PROBE_SECONDS
        keeps = self._api.keeps_capacity()
        if keeps != self._planner.keeps_capacity:
            self._planner.keeps_capacity = keeps
            self.world.supply_version += 1

    def _roll_back(self, move: TakeBack) -> None:
        done = self._releases.release(move.claims)
        for _ in done:
            self._metrics.rolled_back()
        if len(done) < len(move.claims):
            self._due.failed(move.pod, self.world.claims_of(move.pod)[0], self.world.supply_version)

    def _collect(self) -> None:
        if self._clock() >= self._tidy_at:
            self._tidy_at = self._clock() + _TIDY_SECONDS
            self._exclusions.keep({uid_of(pod) for pod in self.world.pods} if self._exclusions else set())
        for claim in self._releases.release(self._orphans.due()[:_MOST_COLLECTED_PER_ROUND]):
            self._metrics.collected()
            node = node_of(claim) or "(several)"
            self._teller.tell(claim, RELEASED, released_text(node, self._options.orphan_seconds))
