"""What the status of a quota says."""

from __future__ import annotations

from typing import Any

from fracgpu.controller.quota.amounts import Usage
from fracgpu.controller.quota.book import QuotaBook
from fracgpu.controller.quota.status import condition_of, desired_status
from tests.controller.quota.conftest import Json, make_quota

GIB = 1024**3
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def status_of(quota: Json, used: Usage, now: str = EARLY) -> Json | None:
    book = QuotaBook(lambda _key: None)
    book.put(quota)
    (entry,) = book.quotas()
    return desired_status(entry, used, enforced_at="Allocation", now=now)


def test_it_says_what_is_used_and_what_the_limits_are_taken_for() -> None:
    status = status_of(make_quota(memory="65536Mi", cores=200), Usage(memory_bytes=24 * GIB, cores=90, slots=3))
    assert status is not None
    assert status["hard"] == {"memory": "64Gi", "cores": "200"}
    assert status["used"] == {"memory": "24Gi", "cores": "90", "slots": "3"}
    assert (status["enforcedAt"], status["observedGeneration"]) == ("Allocation", 1)
    conditions = {found["type"]: (found["status"], found["message"]) for found in status["conditions"]}
    assert conditions == {"Valid": ("True", ""), "Exceeded": ("False", "")}


def test_nothing_is_to_be_written_when_it_is_there_already() -> None:
    quota = make_quota(memory="1Gi")
    quota["status"] = status_of(quota, Usage(memory_bytes=GIB))
    assert status_of(quota, Usage(memory_bytes=GIB), LATE) is None
    changed: list[Any] = [
        status_of(quota, Usage(memory_bytes=GIB - 1), LATE),
        status_of(quota | {"metadata": quota["metadata"] | {"generation": 2}}, Usage(memory_bytes=GIB), LATE),
        status_of(quota | {"spec": {"hard": {"memory": "2Gi"}}}, Usage(memory_bytes=GIB), LATE),
    ]
    assert None not in changed


def test_more_than_allowed_is_a_condition_with_numbers() -> None:
    quota = make_quota(memory="64Gi", cores=100, slots=9)
    used = Usage(memory_bytes=72 * GIB, cores=101, slots=9)
    quota["status"] = status_of(quota, Usage(), EARLY)
    quota["status"] = status_of(quota, used, LATE)
    found = condition_of(quota, "Exceeded")
    assert (found["status"], found["reason"], found["lastTransitionTime"]) == ("True", "QuotaExceeded", LATE)
    assert found["message"] == "memory: 72Gi of 64Gi used; cores: 101 of 100 used"
    # That it is valid has been so for longer.
    assert condition_of(quota, "Valid")["lastTransitionTime"] == EARLY


def test_a_quota_that_cannot_be_read_says_why_and_what_follows() -> None:
    status = status_of(make_quota(memory="10E"), Usage(memory_bytes=GIB))
    assert status is not None
    assert "hard" not in status
    assert status["used"]["memory"] == "1Gi"
    valid = condition_of({"status": status}, "Valid")
    assert (valid["status"], valid["reason"]) == ("False", "QuotaInvalid")
    assert "spec.hard.memory '10E' is larger than 2^63-1; nothing new is given" in valid["message"]
    assert condition_of({"status": status}, "Exceeded")["status"] == "Unknown"
