"""The book against an independent sum over the claims' JSON, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.controller.fit.views import Budget, GpuView, Holding
from fracgpu.controller.quota.amounts import QuotaInvalid, Usage, read_hard
from fracgpu.controller.quota.book import QuotaBook, exceeded
from tests.controller.quota.conftest import Json, make_quota

GIB = 1024**3
NAMESPACES = ("a", "b", "c")
OWNERS = tuple(f"claim-{number}" for number in range(6))


def nothing_published(_key: tuple[str, str]) -> GpuView | None:
    return None


def book_of(*quotas: Json) -> QuotaBook:
    book = QuotaBook(nothing_published)
    for quota in quotas:
        book.put(quota)
    return book


def held(memory: int = 0, cores: int = 0, slots: int = 1, *, whole: str = "") -> Holding:
    return Holding(pool="n", device=whole or "g", memory_bytes=memory, cores=cores, slots=slots, whole=bool(whole))


# A story is told twice: to the book as it happens, and at the end as one list of JSON that a plain loop adds up.
results = st.lists(
    st.fixed_dictionaries(
        {
            "memory": st.integers(0, 5 * GIB),
            "cores": st.integers(0, 100),
            "slots": st.integers(0, 2),
            "whole": st.sampled_from(["", "", "", "big", "small", "unknown"]),
        }
    ),
    max_size=3,
)
charges = st.tuples(st.sampled_from(OWNERS), st.sampled_from(NAMESPACES), results)
SIZES = {"big": (80 * GIB, 200, 20), "small": (8 * GIB, 100, 10)}


def sizes(key: tuple[str, str]) -> GpuView | None:
    if key[1] not in SIZES:
        return None
    memory, cores, slots = SIZES[key[1]]
    return GpuView(
        node="n",
        pool=key[0],
        device=key[1],
        physical_memory_bytes=memory,
        memory_bytes=memory,
        cores=cores,
        slots=slots,
    )


def oracle(document: str, namespace: str) -> tuple[int, int, int]:
    """Add up a JSON list of claims, without anything of the book."""
    sums = [0, 0, 0]
    for claim in json.loads(document):
        if claim["namespace"] != namespace:
            continue
        for result in claim["results"]:
            amounts = SIZES.get(result["whole"], (result["memory"], result["cores"], result["slots"]))
            sums = [one + other for one, other in zip(sums, amounts, strict=True)]
    return (sums[0], sums[1], sums[2])


@given(st.lists(st.one_of(charges, st.sampled_from(OWNERS)), max_size=30), st.sets(st.sampled_from(OWNERS)))
def test_sums_are_those_of_the_claims_that_are_there(
    story: list[tuple[str, str, list[dict[str, Any]]] | str], without: set[str]
) -> None:
    book = QuotaBook(sizes)
    claims: dict[str, Json] = {}
    for step in story:
        if isinstance(step, str):
            book.release(step)
            claims.pop(step, None)
        else:
            owner, namespace, found = step
            book.charge(owner, namespace, [held(r["memory"], r["cores"], r["slots"], whole=r["whole"]) for r in found])
            claims[owner] = {"namespace": namespace, "results": found}
    for namespace in NAMESPACES:
        used = book.used(namespace)
        assert (used.memory_bytes, used.cores, used.slots) == oracle(json.dumps(list(claims.values())), namespace)
        rest = [claim for owner, claim in claims.items() if owner not in without]
        used = book.used(namespace, without)
        assert (used.memory_bytes, used.cores, used.slots) == oracle(json.dumps(rest), namespace)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), max_size=25), st.integers(0, 100))
def test_whoever_takes_no_more_than_is_left_never_exceeds_the_quota(asks: list[tuple[int, int]], hard: int) -> None:
    book = book_of(make_quota(memory=f"{hard}Gi"), make_quota("other", cores=150))
    given_out = 0
    for number, (memory, cores) in enumerate(asks):
        left = book.left("team")
        assert left is not None
        assert left.memory_bytes is not None
        assert left.cores is not None
        fits = memory * GIB <= left.memory_bytes and cores <= left.cores
        # What is left is all that is left: what does not fit would exceed it.
        assert fits == (given_out + memory <= hard and book.used("team").cores + cores <= 150)
        if fits:
            book.charge(f"claim-{number}", "team", [held(memory * GIB, cores)])
            given_out += memory
    assert given_out <= hard


def test_a_namespace_without_quota_has_no_limit() -> None:
    book = book_of(make_quota(namespace="other", memory="1Gi"))
    book.charge("c", "team", [held(GIB)])
    assert book.left("team") is None


def test_of_several_quotas_the_smallest_rest_counts() -> None:
    book = book_of(make_quota("one", memory="10Gi", cores=100), make_quota("two", memory="8Gi", slots="4"))
    book.charge("c", "team", [held(3 * GIB, 30), held(GIB, 0)])
    assert book.left("team") == Budget(memory_bytes=4 * GIB, cores=70, slots=2)
    book.remove(make_quota("two"))
    assert book.left("team") == Budget(memory_bytes=6 * GIB, cores=70, slots=None)
    book.remove(make_quota("one"))
    assert book.left("team") is None


def test_what_is_taken_as_free_is_left_again() -> None:
    book = book_of(make_quota(memory="10Gi"))
    book.charge("mine", "team", [held(6 * GIB)])
    book.charge("foreign", "other", [held(6 * GIB)])
    assert book.left("team", {"mine", "foreign", "unknown"}) == Budget(memory_bytes=10 * GIB)
    # A list may name an owner twice.
    assert book.left("team", ["mine", "mine"]) == Budget(memory_bytes=10 * GIB)


def test_what_is_left_is_never_negative() -> None:
    book = book_of(make_quota(memory="1Gi"))
    book.charge("c", "team", [held(3 * GIB)])
    assert book.left("team") == Budget(memory_bytes=0)


def test_a_whole_gpu_counts_when_it_is_published(gpu: Callable[..., GpuView]) -> None:
    published: dict[tuple[str, str], GpuView] = {}
    book = QuotaBook(published.get)
    book.put(make_quota(memory="100Gi", cores=300, slots=30))
    book.charge("c", "team", [held(whole="g"), held(GIB, 20)])
    assert book.used("team") == Usage(memory_bytes=GIB, cores=20, slots=2)
    published["n", "g"] = gpu("n/g", 80, cores=100, slots=10)
    assert book.used("team") == Usage(memory_bytes=81 * GIB, cores=120, slots=11)
    assert book.left("team") == Budget(memory_bytes=19 * GIB, cores=180, slots=19)
    assert book.left("team", {"c"}) == Budget(memory_bytes=100 * GIB, cores=300, slots=30)
    book.release("c")
    assert book.used("team") == Usage()


@pytest.mark.parametrize(
    ("hard", "complaint"),
    [
        ({}, "spec.hard limits nothing"),
        ("64Gi", "spec.hard limits nothing"),
        (None, "spec.hard limits nothing"),
        ({"mem": "1Gi"}, "spec.hard has no such name: mem"),
        ({"memory": "1Gi", "cores": "many"}, "spec.hard.cores 'many' is not a quantity"),
        ({"memory": "-1"}, "spec.hard.memory '-1' is negative"),
        ({"memory": "-1m"}, "is negative"),
        ({"memory": "10E"}, "is larger than 2^63-1"),
        ({"slots": True}, "is not a quantity"),
        ({"slots": None}, "is not a quantity"),
    ],
)
def test_a_quota_that_cannot_be_read_leaves_nothing(hard: Any, complaint: str) -> None:
    quota = make_quota() | {"spec": {"hard": hard}}
    with pytest.raises(QuotaInvalid, match=r"FractionQuota team/q: .*; ") as caught:
        read_hard(quota)
    assert complaint in str(caught.value)
    # Beside a good one, too.
    book = book_of(make_quota("good", memory="64Gi"), quota)
    assert book.left("team") == Budget(memory_bytes=0, cores=0, slots=0)
    assert book.left("other") is None
    # Mended, it is a quota like any other.
    mended = make_quota(memory="2Gi")
    mended["metadata"]["resourceVersion"] = "2"
    book.put(mended)
    assert book.left("team") == Budget(memory_bytes=2 * GIB)


def test_a_quota_without_a_spec_leaves_nothing() -> None:
    assert book_of({"metadata": make_quota()["metadata"]}).left("team") == Budget(memory_bytes=0, cores=0, slots=0)


@pytest.mark.parametrize(
    ("hard", "limit"),
    [
        ({"memory": "1.5Gi"}, Budget(memory_bytes=3 * GIB // 2)),
        ({"memory": 1000, "cores": "0", "slots": 2}, Budget(memory_bytes=1000, cores=0, slots=2)),
        ({"cores": "1999m"}, Budget(cores=1)),
    ],
)
def test_limits_are_quantities(hard: Json, limit: Budget) -> None:
    assert read_hard(make_quota(**hard)) == limit


def test_older_news_of_a_quota_changes_nothing() -> None:
    new, old = make_quota(memory="2Gi"), make_quota(memory="1Gi")
    new["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"] = "10", "9"
    book = book_of(new, old)
    assert book.left("team") == Budget(memory_bytes=2 * GIB)
    # Made anew by the same name, it is another one; that the former is gone is told late.
    other = make_quota(memory="3Gi")
    other["metadata"] |= {"uid": "another", "resourceVersion": "5"}
    book.put(other)
    book.remove(new)
    assert book.left("team") == Budget(memory_bytes=3 * GIB)


def test_changes_are_told_from_each_other() -> None:
    book = book_of(make_quota(memory="2Gi"))
    seen = {book.change("team")}
    steps: list[Callable[[], None]] = [
        lambda: book.charge("c", "team", [held(GIB)]),
        lambda: book.charge("c", "team", [held(2 * GIB)]),
        lambda: book.release("c"),
        lambda: book.put(make_quota(memory="3Gi")),
        lambda: book.remove(make_quota()),
        lambda: book.put(make_quota(memory="2Gi")),
    ]
    for step in steps:
        step()
        assert book.change("team") not in seen
        seen.add(book.change("team"))
    book.charge("c", "other", [held(GIB)])
    book.release("gone")
    assert book.change("team") in seen
    book.charge("w", "team", [held(whole="g")])
    assert book.change("team") is None


def test_exceeded_names_what_is_used_beyond_its_limit() -> None:
    hard = Budget(memory_bytes=GIB, cores=10)
    assert exceeded(hard, Usage(memory_bytes=GIB, cores=10, slots=99)) == ()
    assert exceeded(hard, Usage(memory_bytes=GIB + 1, cores=11)) == ("memory", "cores")
