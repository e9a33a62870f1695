"""Events: one object for each reason, at a pace that an API server can bear, and never in the way of who tells."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fracgpu.controller.api.kubernetes_api import KubernetesApi
from fracgpu.controller.tell.events import EventTeller
from fracgpu.driver.kube.errors import Conflict, Forbidden, NotFound, Unavailable
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.sim.api.server import ApiServer

Json = dict[str, Any]
GENEROUS_SECONDS = 30.0


def pod(uid: str = "u1", name: str = "p", namespace: str = "default") -> Json:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "uid": uid}}


class Api:
    """Keeps events like an API server; raises `error` if there is one."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], Json] = {}
        self.calls: list[str] = []
        self.error: Exception | None = None

    def create_event(self, event: Json) -> Json:
        self._call("create")
        key = (event["metadata"]["namespace"], event["metadata"]["name"])
        if key in self.events:
            raise Conflict("event", "is there", remedy="patch it")
        self.events[key] = event
        return event

    def patch_event(self, namespace: str, name: str, patch: Json) -> Json:
        self._call("patch")
        if (namespace, name) not in self.events:
            raise NotFound("event", "gone", remedy="create it")
        self.events[namespace, name] = {**self.events[namespace, name], **patch}
        return self.events[namespace, name]

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.error is not None:
            raise self.error

    @property
    def only(self) -> Json:
        (event,) = self.events.values()
        return event


class Setting:
    def __init__(self) -> None:
        self.api = Api()
        self.now = 1000.0
        self.outcomes: list[str] = []
        self.teller = self.fresh()

    def fresh(self) -> EventTeller:
        return EventTeller(
            self.api,
            told=self.outcomes.append,
            clock=lambda: self.now,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now),
        )

    def tell(self, message: str, **how: Any) -> None:
        self.teller.tell(pod(), "ClaimUnschedulable", message, warning=True, **how)

    def write(self) -> list[str]:
        self.api.calls.clear()
        self.teller.write_due()
        return list(self.api.calls)


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_an_event_says_who_what_and_since_when(setting: Setting) -> None:
    setting.tell("CardInsufficientMemory (2/3 GPUs)")
    assert setting.write() == ["create"]
    event = setting.api.only
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "default",
        "name": "p",
        "uid": "u1",
    }
    assert (event["type"], event["reason"]) == ("Warning", "ClaimUnschedulable")
    assert event["message"] == "CardInsufficientMemory (2/3 GPUs)"
    assert event["source"] == {"component": "fracgpu-controller"}
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-01T00:16:40Z"
    assert event["count"] == 1


def test_the_same_again_is_told_after_five_minutes_only(setting: Setting) -> None:
    setting.tell("a")
    setting.write()
    for _ in range(29):
        setting.now += 10
        setting.tell("a")
        assert setting.write() == []
    setting.now += 10
    setting.tell("a")
    assert setting.write() == ["patch"]
    event = setting.api.only
    assert (event["count"], event["message"]) == (2, "a")
    assert event["firstTimestamp"] < event["lastTimestamp"]


def test_a_change_is_told_at_once_but_not_oftener_than_every_two_seconds(setting: Setting) -> None:
    setting.tell("a")
    setting.write()
    setting.now += 2
    setting.tell("b")
    assert setting.write() == ["patch"]
    assert setting.api.only["message"] == "b"
    for text in ("c", "d", "e"):
        setting.now += 0.5
        setting.tell(text)
        assert setting.write() == []
    setting.now += 0.5
    assert setting.write() == ["patch"]
    assert setting.api.only["message"] == "e"
    assert len(setting.api.events) == 1


def test_reasons_and_objects_have_events_of_their_own(setting: Setting) -> None:
    setting.tell("a")
    setting.teller.tell(pod(), "ClaimAllocated", "a")
    setting.teller.tell(pod("u2"), "ClaimAllocated", "a")
    assert setting.write() == ["create"] * 3
    assert {event["type"] for event in setting.api.events.values()} == {"Warning", "Normal"}


def test_what_was_settled_is_news_again(setting: Setting) -> None:
    setting.tell("a")
    setting.write()
    setting.now += 10
    setting.teller.settle(pod(), "ClaimUnschedulable")
    setting.tell("a")
    assert setting.write() == ["patch"]
    setting.now += 1
    setting.tell("b")
    setting.teller.settle(pod(), "ClaimUnschedulable")
    setting.now += 10
    assert setting.write() == []


def test_what_is_settled_while_it_is_written_is_news_again(setting: Setting) -> None:
    create = setting.api.create_event

    def settling(event: Json) -> Json:
        setting.teller.settle(pod(), "ClaimUnschedulable")
        return create(event)

    setting.api.create_event = settling  # type: ignore[method-assign]
    setting.tell("a")
    setting.write()
    setting.now += 10
    setting.tell("a")
    assert setting.write() == ["patch"]


def test_after_a_restart_the_event_that_is_there_goes_on(setting: Setting) -> None:
    setting.tell("a")
    setting.write()
    setting.now += 3
    setting.tell("b")
    setting.write()
    setting.teller = setting.fresh()
    setting.tell("c")
    assert setting.write() == ["create", "patch"]
    assert (setting.api.only["message"], setting.api.only["count"]) == ("c", 2)
    setting.now += 3
    setting.tell("d")
    assert setting.write() == ["patch"]
    assert setting.api.only["count"] == 3


def test_an_event_that_has_expired_is_made_again(setting: Setting) -> None:
    setting.tell("a")
    setting.write()
    setting.api.events.clear()
    setting.now += 3600
    setting.tell("b")
    assert setting.write() == ["patch", "create"]
    assert (setting.api.only["message"], setting.api.only["count"]) == ("b", 1)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotFound("ns", "gone", remedy="none"), "gone"),
        (Forbidden("ns", "is being terminated", remedy="none"), "refused"),
    ],
)
def test_what_can_not_be_told_is_let_go(setting: Setting, error: Exception, outcome: str) -> None:
    setting.api.error = error
    setting.tell("a")
    setting.write()
    setting.now += 100
    assert setting.write() == []
    assert setting.outcomes == [outcome]


def test_an_api_server_that_is_away_is_tried_again_with_the_newest_text(setting: Setting) -> None:
    setting.api.error = Unavailable("API server", "silent", remedy="wait")
    setting.tell("a")
    assert setting.write() == ["create"]
    assert setting.write() == []
    setting.tell("b")
    setting.api.error = None
    setting.now += 5
    assert setting.write() == ["create"]
    assert setting.api.only["message"] == "b"
    assert setting.outcomes == ["unavailable", "written"]


def test_there_is_a_bound_and_the_newest_stay(setting: Setting) -> None:
    for number in range(20_000):
        setting.teller.tell(pod(f"u{number}", f"p{number}"), "R", "a")
    assert setting.teller.waiting() == 16_384
    setting.teller.write_due(1e9)
    assert setting.outcomes.count("dropped") == 20_000 - 16_384
    names = {event["involvedObject"]["name"] for event in setting.api.events.values()}
    assert "p19999" in names
    assert "p0" not in names


@pytest.mark.parametrize("text", ["x" * 5000, "\N{GREEK SMALL LETTER MU}" * 5000, "a\ud800b"])
def test_long_and_broken_texts_are_cut_to_what_an_event_takes(setting: Setting, text: str) -> None:
    setting.tell(text)
    setting.write()
    assert 0 < len(setting.api.only["message"].encode()) <= 1024


def test_telling_does_not_wait_for_the_api_server(setting: Setting) -> None:
    entered, go = threading.Event(), threading.Event()
    create = setting.api.create_event

    def hanging(event: Json) -> Json:
        entered.set()
        go.wait(GENEROUS_SECONDS)
        return create(event)

    setting.api.create_event = hanging  # type: ignore[method-assign]
    stop = threading.Event()
    running = threading.Thread(target=setting.teller.run, args=(stop.wait,), daemon=True)
    running.start()
    setting.tell("a")
    assert entered.wait(GENEROUS_SECONDS)
    setting.teller.tell(pod("u2", "q"), "R", "b")
    setting.teller.settle(pod("u3"), "R")
    go.set()
    stop.set()
    setting.teller.wake()
    running.join(GENEROUS_SECONDS)
    # What was told before the stop is still written.
    assert len(setting.api.events) == 2


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


def test_the_server_takes_them(server: ApiServer, tmp_path: Path) -> None:
    transport = KubernetesTransport(server.write_kubeconfig(tmp_path / "kubeconfig"), user_agent="test")
    api = KubernetesApi(transport, namespace="default", lease_name="l")
    try:
        for text in ("a", "b"):
            teller = EventTeller(api)
            teller.tell(pod(name="p" * 253), "ClaimUnschedulable", text, warning=True)
            teller.write_due()
        (event,) = transport.json("GET", "/api/v1/namespaces/default/events")["items"]
        assert (event["message"], event["involvedObject"]["uid"], event["type"]) == ("b", "u1", "Warning")
    finally:
        transport.close()
