"""What a claim that is not allocated counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from fracgpu.controller.fit.views import Holding
from fracgpu.controller.quota.amounts import NOTHING, Usage
from fracgpu.controller.quota.asked import AskedCharges, asked_of
from fracgpu.controller.quota.book import QuotaBook
from tests.controller.quota.conftest import Json

GIB = 1024**3
MIB = 1024**2


def claim(*requests: Json, **status: Any) -> Json:
    named = [{"name": f"r{number}"} | request for number, request in enumerate(requests)]
    metadata = {"name": "c", "namespace": "team", "uid": "claim"}
    return {"metadata": metadata, "spec": {"devices": {"requests": named}}, "status": status}


def part(device_class: str = "gpu.fracgpu.dev", *, amounts: Json | None = None, **more: Any) -> Json:
    return {"deviceClassName": device_class, "capacity": {"requests": amounts or {}}, **more}


def exactly(device_class: str = "gpu.fracgpu.dev", *, amounts: Json | None = None, **more: Any) -> Json:
    return {"exactly": part(device_class, amounts=amounts, **more)}


def asked(*requests: Json) -> Usage:
    book = QuotaBook(lambda _key: None)
    book.charge("c", "n", asked_of(claim(*requests), largest_memory=lambda: 80 * GIB))
    return book.used("n")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (exactly(amounts={"memory": "8Gi", "cores": "30"}), Usage(memory_bytes=8 * GIB, cores=30, slots=1)),
        # As the devices round it.
        (exactly(amounts={"memory": str(GIB + 1)}), Usage(memory_bytes=GIB + MIB, slots=1)),
        (exactly(amounts={"memory": "1Gi"}, count=3), Usage(memory_bytes=3 * GIB, slots=3)),
        # A claim without memory gets a whole GPU's.
        (exactly("whole.gpu.fracgpu.dev"), Usage(memory_bytes=80 * GIB, slots=1)),
        (exactly("team.gpu.fracgpu.dev", amounts={"memory": "1Gi", "slots": "2"}), Usage(memory_bytes=GIB, slots=2)),
        (exactly(amounts={"memory": "1Gi"}, allocationMode="All"), Usage(memory_bytes=32 * GIB, slots=32)),
        (exactly(amounts={"memory": "1Gi"}, adminAccess=True), NOTHING),
        (exactly("gpu.example.com", amounts={"memory": "1Gi"}), NOTHING),
        (exactly("mygpu.fracgpu.dev", amounts={"memory": "1Gi"}), NOTHING),
        (exactly(amounts={"memory": "1Gi", "cores": "much"}), Usage(memory_bytes=GIB, slots=1)),
    ],
)
def test_a_request_counts_the_most_that_it_can_get(request_: Json, expected: Usage) -> None:
    assert asked(request_) == expected


def test_of_alternatives_each_amount_counts_as_the_worst() -> None:
    wanted = {
        "firstAvailable": [
            part(amounts={"memory": "2Gi", "cores": "50"}),
            part(amounts={"memory": "5Gi"}, count=2),
            part("gpu.example.com", amounts={"memory": "99Gi"}),
        ]
    }
    assert asked(wanted) == Usage(memory_bytes=10 * GIB, cores=50, slots=2)


def test_requests_add_up() -> None:
    assert asked(*[exactly(amounts={"memory": "1Gi", "cores": "10"})] * 3) == Usage(
        memory_bytes=3 * GIB, cores=30, slots=3
    )
    assert asked() == NOTHING


@dataclass
class News:
    before: Json | None
    after: Json | None


def test_a_claim_counts_from_its_creation_until_it_is_gone() -> None:
    book = QuotaBook(lambda _key: None)
    listener = AskedCharges(book, largest_memory=lambda: 80 * GIB)
    waiting = claim(exactly(amounts={"memory": "2Gi", "cores": "40"}))
    listener(News(None, waiting))
    assert book.used("team") == Usage(memory_bytes=2 * GIB, cores=40, slots=1)
    # From now on whoever knows holdings charges it.
    book.charge("claim", "team", [Holding(pool="n", device="g", memory_bytes=GIB, cores=40)])
    listener(News(waiting, waiting | {"status": {"allocation": {"devices": {}}}}))
    assert book.used("team") == Usage(memory_bytes=GIB, cores=40, slots=1)
    # Deallocated it waits again; deleted it is not allocated any more.
    book.release("claim")
    listener(News(None, waiting))
    assert book.used("team").memory_bytes == 2 * GIB
    deleting = waiting | {"metadata": waiting["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    listener(News(waiting, deleting))
    assert book.used("team") == NOTHING
    listener(News(deleting, None))
    assert book.used("team") == NOTHING


def test_classes_of_other_names_count_if_they_are_known_to_be_ours() -> None:
    book = QuotaBook(lambda _key: None)
    listener = AskedCharges(book, largest_memory=lambda: 0, is_ours=lambda name: name == "fast")
    listener(News(None, claim(exactly("fast", amounts={"memory": "2Gi"}), exactly(amounts={"memory": "4Gi"}))))
    assert book.used("team").memory_bytes == 2 * GIB
