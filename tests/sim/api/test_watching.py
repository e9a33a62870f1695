"""Watches over HTTP: order, selectors, bookmarks, expiry, end."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from fracgpu.sim.api.server import ApiServer

NODES = "/api/v1/nodes"


class Stream:
    """An open watch: `next` blocks for one event."""

    def __init__(self, url: str, path: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        self._connection.request("GET", path)
        self.response = self._connection.getresponse()

    def next(self) -> tuple[str, dict[str, Any]]:
        event = json.loads(self.response.readline())
        return event["type"], event["object"]

    def rest(self) -> list[str]:
        return [json.loads(line)["type"] for line in self.response]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def watch(server: ApiServer) -> Iterator[Any]:
    streams: list[Stream] = []

    def build(query: str) -> Stream:
        streams.append(Stream(server.url, f"{NODES}?watch=true&{query}"))
        return streams[-1]

    yield build
    for stream in streams:
        stream.close()


def _node(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


def test_watch_continues_exactly_after_the_list(raw: Any, watch: Any) -> None:
    raw("POST", NODES, _node("before"))
    version = raw("GET", NODES).body["metadata"]["resourceVersion"]
    raw("POST", NODES, _node("between"))
    stream = watch(f"resourceVersion={version}")
    raw("PUT", f"{NODES}/between", _node("between", a="b"))
    raw("DELETE", f"{NODES}/between")
    events = [stream.next() for _ in range(3)]
    assert [(kind, obj["metadata"]["name"]) for kind, obj in events] == [
        ("ADDED", "between"),
        ("MODIFIED", "between"),
        ("DELETED", "between"),
    ]
    versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in events]
    assert versions == sorted(set(versions))
    assert versions[0] > int(version)
    assert events[2][1]["metadata"]["labels"] == {"a": "b"}


@pytest.mark.parametrize("query", ["", "resourceVersion=0"])
def test_watch_without_version_begins_with_the_present_state(raw: Any, watch: Any, query: str) -> None:
    raw("POST", NODES, _node("n1"))
    stream = watch(query)
    assert stream.next()[1]["metadata"]["name"] == "n1"


def test_object_that_leaves_or_enters_a_selector_is_deleted_or_added(raw: Any, watch: Any) -> None:
    stream = watch("labelSelector=zone%3Dx")
    raw("POST", NODES, _node("n1", zone="y"))
    raw("PUT", f"{NODES}/n1", _node("n1", zone="x"))
    raw("PUT", f"{NODES}/n1", _node("n1", zone="y"))
    raw("POST", NODES, _node("n2", zone="x"))
    assert [(kind, obj["metadata"]["name"]) for kind, obj in (stream.next() for _ in range(3))] == [
        ("ADDED", "n1"),
        ("DELETED", "n1"),
        ("ADDED", "n2"),
    ]


def test_bookmark_comes_before_the_timeout_ends_the_stream(raw: Any, watch: Any) -> None:
    version = raw("POST", NODES, _node("n1")).body["metadata"]["resourceVersion"]
    stream = watch(f"resourceVersion={version}&timeoutSeconds=1&allowWatchBookmarks=true")
    kind, obj = stream.next()
    assert (kind, obj["kind"], obj["metadata"]["resourceVersion"]) == ("BOOKMARK", "Node", version)
    assert stream.rest() == []


def test_bookmarks_come_though_other_resources_change_all_the_time(
    raw: Any, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client takes a connection on which nothing comes for dead."""
    monkeypatch.setattr("fracgpu.sim.api.streaming._BOOKMARK_SECONDS", 0.3)
    version = raw("POST", NODES, _node("n1")).body["metadata"]["resourceVersion"]
    stream = watch(f"resourceVersion={version}&timeoutSeconds=60&allowWatchBookmarks=true")
    heard = threading.Event()

    def disturb() -> None:
        for number in range(40):
            if heard.is_set():
                return
            raw("POST", "/api/v1/namespaces", {"metadata": {"name": f"ns{number}"}})
            time.sleep(0.1)

    others = threading.Thread(target=disturb)
    others.start()
    kind, obj = stream.next()
    amid = others.is_alive()
    heard.set()
    others.join()
    assert (kind, obj["kind"], amid) == ("BOOKMARK", "Node", True)


def test_too_old_version_is_answered_with_410_in_the_stream(server: ApiServer, raw: Any, watch: Any) -> None:
    version = raw("POST", NODES, _node("n1")).body["metadata"]["resourceVersion"]
    raw("POST", NODES, _node("n2"))
    server.registry.store.hub.forget()
    kind, status = watch(f"resourceVersion={version}").next()
    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")


def test_history_is_bounded() -> None:
    with ApiServer(history=3) as server:
        for index in range(6):
            server.registry.create(_nodes(), "", _node(f"n{index}"))
        stream = Stream(server.url, f"{NODES}?watch=true&resourceVersion=4")
        assert stream.next()[0] == "ERROR"
        stream.close()


def _nodes() -> Any:
    from fracgpu.sim.api.resources import NODES as RESOURCE

    return RESOURCE


@pytest.mark.parametrize(("version", "code"), [("999999", 504), ("abc", 400)])
def test_impossible_versions_are_refused(raw: Any, version: str, code: int) -> None:
    assert raw("GET", f"{NODES}?watch=true&resourceVersion={version}").code == code


def test_stop_ends_open_watches_and_threads() -> None:
    before = threading.active_count()
    with ApiServer() as server:
        stream = Stream(server.url, f"{NODES}?watch=true")
        assert stream.response.status == 200
    assert stream.rest() == []
    stream.close()
    assert threading.active_count() == before
