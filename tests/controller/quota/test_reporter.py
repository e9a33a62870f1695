"""The writer of statuses: when it writes, what it does about conflicts, what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fracgpu.controller.fit.views import Holding
from fracgpu.controller.quota.book import QuotaBook, key_of
from fracgpu.controller.quota.reporter import Notice, QuotaReporter
from fracgpu.controller.quota.status import EnforcedAt
from fracgpu.driver.kube.errors import Unavailable
from tests.controller.quota.conftest import Json, Serial, StatusServer, make_quota

GIB = 1024**3


@dataclass
class Stage:
    """A reporter with its server and clock."""

    server: StatusServer
    book: QuotaBook = field(default_factory=lambda: QuotaBook(lambda _key: None))
    time: float = 100.0
    enforced_at: EnforcedAt = "Allocation"

    def __post_init__(self) -> None:
        self.reporter = QuotaReporter(
            self.server,
            self.book,
            enforced_at=self.enforced_at,
            clock=lambda: self.time,
            now=lambda: "2026-01-01T00:00:00Z",
            executor=Serial(),
        )

    def add(self, name: str = "q", **hard: Any) -> None:
        self.book.put(self.server.store(make_quota(name, **hard)))

    def charge(self, owner: str, gib: int, namespace: str = "team") -> None:
        self.book.charge(owner, namespace, [Holding(pool="n", device="g", memory_bytes=gib * GIB)])

    def step(self, after_s: float = 0.0) -> list[Notice]:
        self.time += after_s
        return self.reporter.step()

    def used(self, name: str = "q") -> str:
        return str(self.server.objects["team", name]["status"]["used"]["memory"])

    def news(self, name: str = "q") -> None:
        self.book.put(self.server.objects["team", name])


def test_it_writes_at_once_then_no_oftener_than_once_a_second(server: StatusServer) -> None:
    stage = Stage(server)
    stage.add(memory="64Gi")
    stage.step()
    assert (stage.used(), len(server.writes)) == ("0", 1)
    assert server.writes[0]["kind"] == "FractionQuota"
    for number in range(5):
        stage.charge(f"c{number}", 1)
        stage.step(0.1)
    assert len(server.writes) == 1
    wait = stage.reporter.wait_s()
    assert wait is not None
    assert 0.49 < wait < 0.51
    stage.step(0.51)
    assert (stage.used(), len(server.writes)) == ("5Gi", 2)
    # Nothing happens, nothing is written or waited for.
    stage.step(5)
    assert (len(server.writes), stage.reporter.wait_s()) == (2, None)
    # After a quiet while the first change goes out at once again.
    stage.charge("c", 2)
    stage.step()
    assert (stage.used(), len(server.writes)) == ("7Gi", 3)


def test_where_claims_are_admitted_by_it_a_burst_is_followed_closely(server: StatusServer) -> None:
    stage = Stage(server, enforced_at="Admission")
    stage.add(memory="64Gi")
    stage.step()
    for number in range(1000):  # ten seconds with a claim in each hundredth
        stage.charge(f"c{number}", 1)
        stage.step(0.01)
    # Ten had been saved up and ten came in, and none came sooner than a tenth of a second after another.
    assert 18 <= len(server.writes) <= 21
    assert stage.server.objects["team", "q"]["status"]["enforcedAt"] == "Admission"
    seen = len(server.writes)
    for number in range(100):
        stage.charge(f"d{number}", 1)
        stage.step(0.1)
    assert 9 <= len(server.writes) - seen <= 11
    # After a quiet while it is as quick as at first.
    stage.step(30)
    seen = len(server.writes)
    for number in range(50):
        stage.charge(f"e{number}", 1)
        stage.step(0.01)
    assert 4 <= len(server.writes) - seen <= 6


def test_each_quota_has_its_own_pace(server: StatusServer) -> None:
    stage = Stage(server)
    stage.add("q", memory="64Gi")
    stage.step()
    stage.add("late", memory="32Gi")
    stage.step(0.5)
    assert [key_of(write)[1] for write in server.writes] == ["q", "late"]


def test_a_conflict_is_resolved_by_the_news_of_the_other_write(server: StatusServer) -> None:
    stage = Stage(server)
    stage.add(memory="64Gi")
    server.store(make_quota(memory="32Gi"))  # somebody changes it, and we have not heard yet
    assert stage.step() == []
    assert "status" not in server.objects["team", "q"]
    stage.news()
    stage.step(0.5)
    assert len(server.writes) == 1
    stage.step(0.5)
    assert server.objects["team", "q"]["spec"] == {"hard": {"memory": "32Gi"}}
    assert server.objects["team", "q"]["status"]["hard"] == {"memory": "32Gi"}


def test_trouble_with_one_quota_is_none_for_the_others_and_is_tried_again(server: StatusServer) -> None:
    stage = Stage(server)
    stage.book.put(make_quota("gone", memory="1Gi"))  # deleted, and we have not heard yet
    stage.add(memory="64Gi")
    stage.step()
    assert stage.used() == "0"
    server.failure = Unavailable("API", "is down", remedy="-")
    stage.charge("c", 1)
    assert stage.step(2) == []
    assert stage.used() == "0"
    server.failure = None
    assert stage.reporter.wait_s() == 1.0
    stage.step(1)
    assert stage.used() == "1Gi"


def test_what_is_exceeded_is_told_once_and_settled_once(server: StatusServer) -> None:
    stage = Stage(server)
    stage.add(memory="2Gi")
    stage.charge("c", 3)
    (notice,) = stage.step()
    assert (notice.reason, notice.message, notice.settled) == ("QuotaExceeded", "memory: 3Gi of 2Gi used", False)
    assert notice.about["metadata"]["name"] == "q"
    stage.charge("d", 1)
    assert stage.step(2) == []
    # A new process knows from the status what was told.
    stage = Stage(server, book=stage.book)
    assert stage.step() == []
    stage.book.release("c")
    (notice,) = stage.step(2)
    assert (notice.reason, notice.settled) == ("QuotaExceeded", True)


def test_a_quota_that_cannot_be_read_is_told(server: StatusServer) -> None:
    stage = Stage(server)
    stage.add(memory="10E")
    (notice,) = stage.step()
    assert notice.reason == "QuotaInvalid"
    assert "10E" in notice.message
    stage.add(memory="10Gi")
    (notice,) = stage.step(2)
    assert (notice.reason, notice.settled) == ("QuotaInvalid", True)


def test_a_server_that_drops_a_part_is_not_asked_for_ever(server: StatusServer) -> None:
    """An older definition of the resource does not know every field."""

    class Forgetful(StatusServer):
        def store(self, quota: Json) -> Json:
            status = {key: value for key, value in quota.get("status", {}).items() if key != "enforcedAt"}
            return super().store(quota | {"status": status})

    forgetful = Forgetful()
    stage = Stage(forgetful)
    stage.add(memory="2Gi")
    for _ in range(5):
        stage.step(2)
    assert len(forgetful.writes) == 1
    stage.charge("c", 1)
    stage.step(2)
    assert len(forgetful.writes) == 2


def test_a_quota_made_anew_is_written_at_once(server: StatusServer) -> None:
    stage = Stage(server)
    stage.add(memory="2Gi")
    stage.step()
    stage.book.remove(server.objects.pop(("team", "q")))
    again = make_quota(memory="2Gi")
    again["metadata"]["uid"] = "another"
    stage.book.put(server.store(again))
    stage.step()
    assert len(server.writes) == 2


def test_a_whole_gpu_is_looked_at_every_time(server: StatusServer) -> None:
    """Its slice is no news of quotas."""
    sizes: dict[tuple[str, str], Any] = {}
    stage = Stage(server, book=QuotaBook(sizes.get))
    stage.add(memory="64Gi")
    stage.book.charge("c", "team", [Holding(pool="n", device="g", memory_bytes=0, whole=True)])
    stage.step()
    assert stage.used() == "0"

    @dataclass
    class Gpu:
        memory_bytes: int = 80 * GIB
        cores: int = 100
        slots: int = 10

    sizes["n", "g"] = Gpu()
    (notice,) = stage.step(2)
    assert stage.used() == "80Gi"
    assert notice.reason == "QuotaExceeded"
