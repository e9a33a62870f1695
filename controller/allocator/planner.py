"""What to do for one pod, or for a claim ahead of pods: decided from the world alone, nothing is written here.

Thousands of pods that wait ask for the same few things. What was found for one of them holds for all of its kind until
the end of the round: in a round, room only gets less.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fracgpu.controller.allocator.exclusions import Exclusions
from fracgpu.controller.allocator.pod_book import may_wait
from fracgpu.controller.allocator.world import World
from fracgpu.controller.fit.engine import explain, place
from fracgpu.controller.fit.views import Budget, Demand, Misfit, Placement
from fracgpu.controller.objects.demand import build_demand
from fracgpu.controller.objects.facts import (
    dig,
    is_allocated,
    is_deleting,
    name_of,
    namespace_of,
    reserved_uids,
    uid_of,
)
from fracgpu.controller.objects.node_fit import PodNeeds
from fracgpu.controller.ports import Json
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.reasons import Reason, ReasonCode

_REFUSED_BY_SCHEDULER: Final = "node(s) where kube-scheduler would not run the pod"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Allocate these claims so."""

    pod: Json | None
    claims: tuple[Json, ...]
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBack:
    """Take these claims' allocations back: with them elsewhere, all claims of the pod have a place together."""

    pod: Json
    claims: tuple[Json, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """There is no place; `why` says so with numbers when it is asked."""

    pod: Json | None
    claims: tuple[Json, ...]
    why: Callable[[], Misfit]


Decision = Place | TakeBack | Refuse | None


class Planner:
    """Decides; `keeps_capacity` is whether the API server keeps capacity fields, as far as is known."""

    def __init__(self, world: World, exclusions: Exclusions) -> None:
        self.keeps_capacity = True
        self._world = world
        self._exclusions = exclusions
        self._in_vain: set[tuple[str, ...]] = set()
        self._explanations: dict[tuple[str, ...], Misfit] = {}

    def begin_round(self) -> None:
        """Forget what was found for other pods: the world has changed."""
        self._in_vain.clear()
        self._explanations.clear()

    def for_pod(self, pod: Json) -> Decision:
        """Decide for a pod that waits; None when it needs nothing of us, or not all of its claims are there yet."""
        claims, missing = self._world.claims_of(pod)
        if missing or any(is_deleting(claim) for claim in claims):
            return None
        open_claims = self._world.open_claims_of(pod)
        if not open_claims or any(self._world.claims.is_assumed(claim) for claim in claims):
            return None
        return self._decide(_Case(self._world, self._exclusions, pod, claims), tuple(open_claims))

    def for_claim(self, claim: Json) -> Decision:
        """Decide for a claim that wants its allocation ahead of pods."""
        if is_allocated(claim) or is_deleting(claim) or self._world.claims.is_assumed(claim):
            return None
        pods = self._world.pods.users_of((namespace_of(claim), name_of(claim)))
        if any(may_wait(pod) for pod in pods) or not self._world.is_ours(claim):
            # Where pods are ready for it, their wishes count as well.
            return None
        return self._decide(_Case(self._world, self._exclusions, None, [claim]), (claim,))

    def _decide(self, case: _Case, open_claims: tuple[Json, ...]) -> Decision:
        try:
            placement = self._place(case, open_claims)
            if placement is not None:
                return Place(pod=case.pod, claims=open_claims, placement=placement)
            if case.pod is not None and self._fits_without(case, open_claims):
                return TakeBack(pod=case.pod, claims=tuple(case.movable))
        except FracgpuError as error:
            found = refusal_of(error)
            return Refuse(pod=case.pod, claims=open_claims, why=lambda: found)
        return Refuse(pod=case.pod, claims=open_claims, why=lambda: self._explained(case, open_claims))

    def _place(self, case: _Case, open_claims: tuple[Json, ...]) -> Placement | None:
        """Return where the claims go. Raises FracgpuError."""
        budget, asked = case.budget(), _asked(open_claims)
        claims_alone = (case.namespace if budget is not None else "", *asked)
        if claims_alone in self._in_vain:
            return None
        with_pod = case.kind(asked)
        if with_pod in self._in_vain:
            return None
        placement = place(self._demand(open_claims), self._world.ledger, admits=case.admits, budget=budget)
        if placement is None and not case.was_asked:
            # No node has room, whatever the pod says about nodes.
            self._in_vain.add(claims_alone)
        elif placement is None and with_pod is not None:
            self._in_vain.add(with_pod)
        return placement

    def _demand(self, claims: Sequence[Json]) -> Demand:
        return build_demand(
            claims, self._world.find_class, keeps_capacity=self.keeps_capacity, allocator=self._world.owner
        )

    def _fits_without(self, case: _Case, open_claims: tuple[Json, ...]) -> bool:
        """Tell whether all would fit if claims that are allocated, but used by nobody, were placed anew too."""
        if not case.movable:
            return False
        demand = self._demand([*open_claims, *case.movable])
        without = {uid_of(claim) for claim in case.movable}
        # Holdings that go back to the namespace are budget again.
        budget = case.budget(without)
        return place(demand, self._world.ledger, admits=case.admits_anew, without=without, budget=budget) is not None

    def _explained(self, case: _Case, open_claims: tuple[Json, ...]) -> Misfit:
        # The words for several claims name them.
        kind = case.kind(_asked(open_claims)) if len(open_claims) == 1 else None
        found = self._explanations.get(kind) if kind is not None else None
        if found is not None:
            return found
        rejections = {node: why for node in self._world.ledger.nodes() if (why := case.rejects(node)) is not None}
        try:
            demand = self._demand(open_claims)
            found = explain(demand, self._world.ledger, rejections=rejections, budget=case.budget())
        except FracgpuError as error:
            # It may name the claim.
            return refusal_of(error)
        if kind is not None:
            self._explanations[kind] = found
        return found


class _Case:
    """One pod (or none), its claims, and what that says about nodes."""

    def __init__(self, world: World, exclusions: Exclusions, pod: Json | None, claims: Sequence[Json]) -> None:
        self.pod = pod
        self.namespace = namespace_of(claims[0])
        self.was_asked = False
        """Whether it was asked about any node."""
        self._world = world
        self._exclusions = exclusions
        self._claims = claims
        self._key = (namespace_of(pod), name_of(pod)) if pod is not None else ("", "")
        self._uid = uid_of(pod) if pod is not None else ""

    def kind(self, asked: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return what the answer for this case depends on beside the world, None if on more than can be compared."""
        # What is allocated already, or was refused by the scheduler, is a history of its own.
        if self._exclusions.concern(self._uid) or any(is_allocated(claim) for claim in self._claims):
            return None
        return (self.namespace, *asked, repr(self._needs))

    @cached_property
    def movable(self) -> list[Json]:
        """The pod's allocated claims that nobody has reserved and no other pod uses."""
        return [claim for claim in self._claims if is_allocated(claim) and self._is_movable(claim)]

    @cached_property
    def _needs(self) -> PodNeeds:
        return PodNeeds.of(self.pod or {}, self._claims)

    @cached_property
    def _needs_anew(self) -> PodNeeds:
        """The pod's needs if its movable claims were elsewhere."""
        movable = {uid_of(claim) for claim in self.movable}
        return PodNeeds.of(self.pod or {}, [claim for claim in self._claims if uid_of(claim) not in movable])

    def _is_movable(self, claim: Json) -> bool:
        users = self._world.pods.users_of((namespace_of(claim), name_of(claim)))
        alone = all(uid_of(user) == self._uid for user in users)
        return alone and not reserved_uids(claim) and self._world.is_ours(claim) and not is_deleting(claim)

    def budget(self, without: set[str] | None = None) -> Budget | None:
        """Return what the namespace may still be given."""
        return self._world.quotas.left(self.namespace, without or set())

    def admits(self, node: str) -> bool:
        self.was_asked = True
        return self.rejects(node) is None

    def admits_anew(self, node: str) -> bool:
        return self._rejects(node, self._needs_anew) is None

    def rejects(self, node: str) -> str | None:
        """Return why the pod cannot run on a node, None when it can."""
        return self._rejects(node, self._needs)

    def _rejects(self, node: str, needs: PodNeeds) -> str | None:
        why = self._world.nodes.rejects(needs, self._key, node)
        return why or (_REFUSED_BY_SCHEDULER if self._exclusions.covers(self._uid, node) else None)


def _asked(claims: Sequence[Json]) -> tuple[str, ...]:
    return tuple(json.dumps(dig(claim, "spec", "devices"), sort_keys=True) for claim in claims)


def refusal_of(error: FracgpuError) -> Misfit:
    """Return a demand that cannot be understood, or answered, as a misfit: its code and the error's whole text."""
    code = getattr(error, "code", ReasonCode.CONFIG_INVALID)
    return Misfit((Reason(code=ReasonCode(str(code)), detail=str(error)),))
