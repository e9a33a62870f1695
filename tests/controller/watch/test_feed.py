"""News of one resource from the emulated API server: complete, in order, through everything that ends a watch."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.controller.api import listing
from fracgpu.controller.ports import Change
from fracgpu.controller.watch import feed as feed_module
from fracgpu.controller.watch.feed import Feed
from fracgpu.controller.watch.informers import Informers
from fracgpu.controller.watch.resources import WATCHED, Watched
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.sim.api.deletion import DeleteOptions
from fracgpu.sim.api.resources import NODES
from fracgpu.sim.api.server import ApiServer

GENEROUS_SECONDS = 30.0
PATH = "/api/v1/nodes"
NODES_WATCHED = Watched("nodes", PATH)


class World:
    """What somebody knows who only listens."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.names: dict[str, str] = {}
        self._news = threading.Condition()

    def __call__(self, change: Change) -> None:
        metadata = change.obj["metadata"]
        with self._news:
            self.changes.append(change)
            if change.kind == "DELETED":
                self.names.pop(metadata["name"], None)
            else:
                self.names[metadata["name"]] = (metadata.get("labels") or {}).get("n", "")
            self._news.notify_all()

    def until(self, wanted: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(wanted, GENEROUS_SECONDS), self.names


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def transport(server: ApiServer, tmp_path: Path) -> Iterator[KubernetesTransport]:
    one = KubernetesTransport(server.write_kubeconfig(tmp_path / "kubeconfig"), user_agent="test")
    yield one
    one.close()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def feed(transport: KubernetesTransport, world: World) -> Iterator[Feed]:
    one = Feed(transport, NODES_WATCHED, world)
    yield one
    one.stop(GENEROUS_SECONDS)


def put(server: ApiServer, name: str, value: str = "") -> None:
    body = {"metadata": {"name": name, "labels": {"n": value}}}
    if server.registry.store.get(NODES, "", name) is None:
        server.registry.create(NODES, "", body)
    else:
        server.registry.update(NODES, "", name, body)


def end_watch(feed: Feed) -> None:
    """Break the connection, once there is one."""
    deadline = time.monotonic() + GENEROUS_SECONDS
    while feed._stream is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert feed._stream is not None
    feed._stream.end()


def test_what_was_there_and_what_happens_is_told(server: ApiServer, feed: Feed, world: World) -> None:
    put(server, "a")
    put(server, "b")
    assert not feed.synced.is_set()
    feed.start()
    assert feed.synced.wait(GENEROUS_SECONDS)
    assert world.names == {"a": "", "b": ""}
    put(server, "a", "1")
    put(server, "c")
    server.registry.delete(NODES, "", "b", DeleteOptions())
    world.until(lambda: world.names == {"a": "1", "c": ""})
    assert [change.kind for change in world.changes] == ["ADDED", "ADDED", "MODIFIED", "ADDED", "DELETED"]
    assert {change.resource for change in world.changes} == {"nodes"}
    assert {(change.obj["apiVersion"], change.obj["kind"]) for change in world.changes} == {("v1", "Node")}


def test_pages_are_joined(server: ApiServer, feed: Feed, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_PAGE", 3)
    for number in range(10):
        put(server, f"n{number}")
    feed.start()
    assert feed.synced.wait(GENEROUS_SECONDS)
    assert sorted(world.names) == [f"n{number}" for number in range(10)]


def test_a_watch_goes_on_where_the_last_one_ended(
    server: ApiServer, feed: Feed, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from the list: everything since would be told again, or the version would have expired."""
    monkeypatch.setattr(feed_module, "_WATCH_SECONDS", 1)
    feed.start()
    assert feed.synced.wait(GENEROUS_SECONDS)
    for number in range(4):
        put(server, "a", str(number))
        world.until(lambda number=number: world.names.get("a") == str(number))  # type: ignore[misc]
        time.sleep(0.7)
    assert [change.kind for change in world.changes] == ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED"]


def test_a_version_that_expired_is_listed_again(
    server: ApiServer, feed: Feed, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.start()
    put(server, "gone")
    put(server, "kept")
    world.until(lambda: len(world.names) == 2)
    paused, go = threading.Event(), threading.Event()
    send = KubernetesTransport.send

    def held(self: KubernetesTransport, method: str, path: str, **how: Any) -> Any:
        if how.get("query", {}).get("watch"):
            paused.set()
            go.wait(GENEROUS_SECONDS)
        return send(self, method, path, **how)

    monkeypatch.setattr(KubernetesTransport, "send", held)
    end_watch(feed)
    assert paused.wait(GENEROUS_SECONDS)
    server.registry.delete(NODES, "", "gone", DeleteOptions())
    put(server, "new")
    server.registry.store.hub.forget()
    go.set()
    world.until(lambda: sorted(world.names) == ["kept", "new"])
    put(server, "newer")
    world.until(lambda: "newer" in world.names)


def test_a_server_that_went_away_is_heard_again_and_told_of_twice(
    server: ApiServer, feed: Feed, world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(feed_module, "_LONGEST_PAUSE_SECONDS", 0.4)
    feed.start()
    for number in range(5):
        put(server, "a", str(number))
    world.until(lambda: world.names == {"a": "4"})
    port = server._port
    server.stop()
    deadline = time.monotonic() + GENEROUS_SECONDS
    while "no news; trying again" not in caplog.messages and time.monotonic() < deadline:
        time.sleep(0.05)
    with ApiServer(port=port) as second:
        # Its versions begin anew, as those of a cluster that was restored from a backup.
        put(second, "b")
        world.until(lambda: sorted(world.names) == ["b"])
        assert caplog.messages.count("no news; trying again") == 1
        assert "news again" in caplog.messages
        assert not [record for record in caplog.records if record.exc_info]
        feed.stop(GENEROUS_SECONDS)


def test_stopping_ends_a_quiet_watch_at_once(server: ApiServer, feed: Feed, world: World) -> None:
    feed.start()
    assert feed.synced.wait(GENEROUS_SECONDS)
    put(server, "a")
    world.until(lambda: "a" in world.names)
    begun = time.monotonic()
    feed.stop(GENEROUS_SECONDS)
    assert time.monotonic() - begun < 2
    assert not feed._informer._thread


def test_stopping_between_list_and_watch_does_not_wait_for_a_watch(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, go = threading.Event(), threading.Event()
    watch = Feed._watch

    def held(self: Feed) -> Any:
        listed.set()
        go.wait(GENEROUS_SECONDS)
        return watch(self)

    monkeypatch.setattr(Feed, "_watch", held)
    feed.start()
    assert listed.wait(GENEROUS_SECONDS)
    begun = time.monotonic()
    threading.Timer(0.3, go.set).start()
    feed.stop(GENEROUS_SECONDS)
    assert time.monotonic() - begun < 3
    assert not feed._informer._thread


def test_a_resource_that_is_not_there_is_empty_and_looked_for_again(
    server: ApiServer, transport: KubernetesTransport, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, "a")
    absent = threading.Event()
    absent.set()
    send = KubernetesTransport.send

    def redirected(self: KubernetesTransport, method: str, path: str, **how: Any) -> Any:
        return send(self, method, path if absent.is_set() else PATH, **how)

    monkeypatch.setattr(KubernetesTransport, "send", redirected)
    feed = Feed(transport, Watched("q", "/apis/gpu.fracgpu.dev/v1alpha1/q", optional=True), world, absent_seconds=0.1)
    feed.start()
    try:
        assert feed.synced.wait(GENEROUS_SECONDS)
        assert world.names == {}
        absent.clear()
        world.until(lambda: sorted(world.names) == ["a"])
        put(server, "b")
        world.until(lambda: sorted(world.names) == ["a", "b"])
        # Removed while it is watched: the watch ends, nothing is left.
        absent.set()
        end_watch(feed)
        world.until(lambda: world.names == {})
    finally:
        feed.stop(GENEROUS_SECONDS)


def test_a_missing_resource_that_is_not_optional_is_no_empty_one(transport: KubernetesTransport, world: World) -> None:
    feed = Feed(transport, Watched("q", "/apis/gpu.fracgpu.dev/v1alpha1/q"), world)
    feed.start()
    try:
        assert not feed.synced.wait(0.5)
    finally:
        feed.stop(GENEROUS_SECONDS)


def test_a_listener_that_fails_loses_nothing_but_that_news(
    server: ApiServer, transport: KubernetesTransport, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def hear(change: Change) -> None:
        if change.obj["metadata"]["name"] == "bad":
            raise ValueError("bad")
        world(change)

    feed = Feed(transport, NODES_WATCHED, hear)
    feed.start()
    try:
        put(server, "bad")
        put(server, "good")
        world.until(lambda: "good" in world.names)
        assert "news not taken in" in caplog.messages
    finally:
        feed.stop(GENEROUS_SECONDS)


def test_managed_fields_are_not_kept(
    server: ApiServer, feed: Feed, world: World, transport: KubernetesTransport
) -> None:
    del server
    entry = {"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "managedFields": [entry]}}
    transport.json("POST", PATH, body=body)
    feed.start()
    transport.json("POST", PATH, body={**body, "metadata": {**body["metadata"], "name": "b"}})  # type: ignore[dict-item]
    world.until(lambda: len(world.names) == 2)
    assert all("managedFields" not in change.obj["metadata"] for change in world.changes)


def test_all_resources_together(server: ApiServer, transport: KubernetesTransport, world: World) -> None:
    put(server, "a")
    informers = Informers(transport, world)
    assert informers.synced() == "not listed yet: " + ", ".join(one.plural for one in WATCHED)
    informers.start()
    try:
        assert informers.wait_synced(GENEROUS_SECONDS)
        assert informers.synced() is None
        assert world.names == {"a": ""}
        assert all(check() is None for check in informers.alive().values())
        assert set(informers.ages()) == {one.plural for one in WATCHED}
        assert max(informers.ages().values()) < GENEROUS_SECONDS
    finally:
        informers.stop()
