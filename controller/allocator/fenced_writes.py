"""Writing allocations so that two of us never give away the same GPU, whatever stalls, crashes or arrives late.

The API server compares resourceVersions of one object, and a GPU's account is the sum over many claims: two replicas
that both believe to lead could each write another claim onto one GPU. A lease alone does not prevent it, because a
process may sleep between looking at the lease and writing. What does:

1. **take**: before its allocation, a claim is marked with the writer's term of office (an annotation, in the same
   write as the finalizer that Kubernetes wants anyway). Only who knows the version that this write made can write the
   allocation.
2. **ask**: after the takes, and before any allocation, one linearizable read of the Lease must still show this term.
   One question serves a whole batch.
3. **write** the allocations, each guarded by the version that its take made.
4. A new leader, **before its first write**: lists all claims (linearizable, after it got the Lease), counts what is
   allocated, and marks anew every unallocated claim that anybody has marked (`takeover.py`). Its own marks too: it may
   have led before, in this very term, and have forgotten nothing but its writer.

If an old leader's question was still answered with its own term, its take was before the new leader's Lease, so the
new leader's list shows the mark, and marking anew takes away the version that the old leader's write needs. If that
write was faster, marking anew fails, and the new leader reads the allocation instead. No clock is part of the
argument.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from fracgpu.controller.objects.facts import annotations_of, has_finalizer, is_deleting, texts
from fracgpu.controller.ports import ControllerApi, Executor, Json
from fracgpu.driver.kube.errors import ClusterError, Conflict, Unavailable
from fracgpu.driver.names import FINALIZER

_LOG: Final = logging.getLogger(__name__)
TAKEN_BY_ANNOTATION: Final = "gpu.fracgpu.dev/taken-by"
# One for all writers of the process, and safe for threads: no mark is ever made twice. A write that changes nothing
# would leave the version as it is, and with it what an older write needs.
_NUMBERS: Final = itertools.count(1)


class Outcome(Enum):
    """What became of the write of one allocation."""

    WRITTEN = auto()
    NOT_WRITTEN = auto()
    IN_DOUBT = auto()


@dataclass(slots=True)
class AllocationWrite:
    """A claim, the allocation that it is to get, and what became of it; `claim` is what the last write returned."""

    claim: Json
    allocation: Json
    outcome: Outcome = Outcome.NOT_WRITTEN
    taken: bool = False
    error: ClusterError | None = None


@dataclass(slots=True)
class FencedWriter:
    """Writes in the name of one term of office; a new term needs a new writer."""

    api: ControllerApi
    executor: Executor
    term: str
    still_leading: Callable[[], bool] = lambda: True

    def write(self, groups: Sequence[Sequence[AllocationWrite]]) -> bool:
        """Carry out some placements, each a group of claims that only makes sense together.

        The outcome stands in each write afterwards. Returns False if this term is over: nothing more was written then.
        A group of which a claim could not be taken is left alone.
        """
        self.executor.run_all([self._taking(one) for group in groups for one in group])
        whole = [one for group in groups if all(one.taken for one in group) for one in group]
        if not whole:
            return True
        try:
            holder = self.api.lease_holder()
        except ClusterError as error:
            for one in whole:
                one.error = error
            return True
        if holder != self.term or not self.still_leading():
            _LOG.warning("term of office is over", extra={"term": self.term, "holder": holder})
            return False
        self.executor.run_all([self._writing(one) for one in whole])
        return True

    def take(self, claim: Json) -> Json:
        """Mark a claim with this term, with the finalizer; return it as stored. Raises ClusterError."""
        changed = copy.deepcopy(claim)
        meta = changed["metadata"]
        meta["annotations"] = {**annotations_of(claim), TAKEN_BY_ANNOTATION: f"{self.term}.{next(_NUMBERS)}"}
        # The API server refuses a new finalizer on what is being deleted; the mark is what counts there.
        if not has_finalizer(claim) and not is_deleting(claim):
            meta["finalizers"] = [*texts(claim, "metadata", "finalizers"), FINALIZER]
        return self.api.replace_claim(changed)

    def _taking(self, one: AllocationWrite) -> Callable[[], None]:
        def call() -> None:
            try:
                one.claim = self.take(one.claim)
                one.taken = True
            except ClusterError as error:
                one.error = error

        return call

    def _writing(self, one: AllocationWrite) -> Callable[[], None]:
        def call() -> None:
            changed = copy.deepcopy(one.claim)
            changed.setdefault("status", {})["allocation"] = one.allocation
            try:
                one.claim = self.api.replace_claim_status(changed)
                one.outcome = Outcome.WRITTEN
            except (Unavailable, Conflict) as error:
                # It may be done, or may still be done when we look away. A conflict, too, may be with ourselves: there
                # are proxies that send a write twice, and answer what became of the second.
                one.outcome, one.error = Outcome.IN_DOUBT, error
            except ClusterError as error:
                one.error = error

        return call


def mark_of(claim: Json) -> str:
    """Return the last mark of a claim, empty when nobody has taken it."""
    return annotations_of(claim).get(TAKEN_BY_ANNOTATION, "")
