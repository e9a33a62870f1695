"""What a new leader does before its first write: count everything, and take the pen from those before it.

See fenced_writes.py for why. The same act settles a write of our own whose answer never came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fracgpu.controller.allocator.fenced_writes import FencedWriter, mark_of
from fracgpu.controller.objects.facts import is_allocated, name_of, namespace_of, uid_of
from fracgpu.controller.ports import ControllerApi, Executor, Json
from fracgpu.driver.kube.errors import ClusterError, Conflict, NotFound


def take_over(api: ControllerApi, writer: FencedWriter, executor: Executor) -> list[Json]:
    """Return all claims as they are once no write prepared before, by whomever, can allocate any of them.

    Raises ClusterError when that could not be reached; nothing may be written then.
    """
    marked: list[Json] = []
    others: list[Json] = []
    for claim in api.list_claims():
        (marked if mark_of(claim) and not is_allocated(claim) else others).append(claim)
    for settled in settle_all(api, writer, executor, marked):
        if isinstance(settled, ClusterError):
            raise settled
        if settled is not None:
            others.append(settled)
    return others


def settle_all(
    api: ControllerApi, writer: FencedWriter, executor: Executor, claims: Sequence[Json]
) -> list[Json | ClusterError | None]:
    """Settle some claims at once; in their order, each as `settle` returns it, or the error that it raised."""
    answers: list[Json | ClusterError | None] = [None] * len(claims)

    def calls() -> Iterable[Callable[[], None]]:
        for position, claim in enumerate(claims):

            def call(position: int = position, claim: Json = claim) -> None:
                try:
                    answers[position] = settle(api, writer, claim)
                except ClusterError as error:
                    answers[position] = error

            yield call

    executor.run_all(list(calls()))
    return answers


def settle(api: ControllerApi, writer: FencedWriter, claim: Json) -> Json | None:
    """Make sure that no write prepared before can allocate a claim any more; None when the claim is gone.

    Returns it allocated, if such a write was faster, or marked by this term. Raises ClusterError.
    """
    known: Json = claim
    while True:
        try:
            return known if is_allocated(known) else writer.take(known)
        except Conflict:
            pass
        except NotFound:
            return None
        try:
            newer = api.get_claim(namespace_of(known), name_of(known))
        except NotFound:
            return None
        if uid_of(newer) != uid_of(claim):
            return None
        known = newer
