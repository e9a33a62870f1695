"""The publisher against an API server in memory. Time is virtual: a pause is a call that the test answers."""

import logging
import queue
import threading
from dataclasses import replace
from typing import Any

import pytest

from fracgpu.driver.kube.errors import NotFound, Refused, Unavailable
from fracgpu.kubeletplugin.publish.publisher import SlicePublisher
from fracgpu.kubeletplugin.publish.slice_watch import SliceWatch

NAME = "00000-gpu.fracgpu.dev-n1"
SHARING = {"allowMultipleAllocations", "requestPolicy"}


def publisher(world: Any) -> SlicePublisher:
    return SlicePublisher(options=world.options, cluster=world.cluster, gpus=world.inventory.list_gpus)


def is_refused(one: SlicePublisher) -> bool:
    return one.refusal is not None


def test_the_first_sync_creates_and_the_second_does_nothing(world: Any) -> None:
    one = publisher(world)
    assert one.sync()
    assert world.cluster.calls == ["create"]
    assert list(world.cluster.slices) == [NAME]
    assert one.published.is_set()
    assert not one.sync()
    assert not publisher(world).sync()
    assert world.cluster.calls == ["create"]


def test_a_changed_gpu_replaces_the_slice_and_keeps_what_others_put_on_it(world: Any) -> None:
    publisher(world).sync()
    world.cluster.slices[NAME]["metadata"]["labels"] = {"team": "a"}
    world.inventory.gpus = world.inventory.gpus[:1]
    assert publisher(world).sync()
    assert world.cluster.calls == ["create", "replace"]
    assert len(world.cluster.slices[NAME]["spec"]["devices"]) == 1
    assert world.cluster.slices[NAME]["metadata"]["labels"] == {"team": "a"}


def test_canonical_quantities_of_the_api_server_are_no_change(world: Any) -> None:
    publisher(world).sync()
    memory = world.cluster.slices[NAME]["spec"]["devices"][0]["capacity"]["memory"]
    memory["value"] = "45056Mi"
    assert not publisher(world).sync()


def test_a_node_that_was_created_anew_owns_the_slice_again(world: Any) -> None:
    publisher(world).sync()
    world.cluster.nodes["n1"]["metadata"]["uid"] = "node-uid-2"
    assert publisher(world).sync()
    assert world.cluster.slices[NAME]["metadata"]["ownerReferences"][0]["uid"] == "node-uid-2"


def test_another_slice_of_ours_on_the_node_is_removed(world: Any) -> None:
    world.cluster.slices["left-by-an-older-version"] = {"metadata": {"name": "left-by-an-older-version"}, "spec": {}}
    publisher(world).sync()
    assert list(world.cluster.slices) == [NAME]


def test_the_scheduler_gets_a_slice_after_a_dry_run(world: Any) -> None:
    world.configure(allocator="scheduler")
    one = publisher(world)
    one.sync()
    assert world.cluster.calls == ["dry-run create", "create"]
    assert one.refusal is None
    world.inventory.gpus = ()
    one.sync()
    assert world.cluster.calls[2:] == ["dry-run replace", "replace"]


@pytest.mark.parametrize("field", sorted(SHARING))
def test_an_api_server_that_drops_sharing_gets_no_slice_for_the_scheduler(world: Any, field: str) -> None:
    world.configure(allocator="scheduler")
    world.cluster.drops = {field}
    one = publisher(world)
    assert not one.sync()
    assert world.cluster.calls == ["dry-run create"]
    assert world.cluster.slices == {}
    assert not one.published.is_set()
    assert one.refusal is not None
    assert one.refusal.startswith(f"node n1: the API server drops {field}")
    assert one.refusal.endswith("enable the feature gate DRAConsumableCapacity, or set --allocator=controller")


def test_a_slice_published_before_the_api_server_began_to_drop_is_taken_away(world: Any) -> None:
    world.configure(allocator="scheduler")
    one = publisher(world)
    one.sync()
    world.cluster.drops = SHARING
    for device in world.cluster.slices[NAME]["spec"]["devices"]:
        del device["allowMultipleAllocations"]
    assert one.sync()
    assert world.cluster.slices == {}
    assert is_refused(one)
    world.cluster.drops = set()
    one.sync()
    assert not is_refused(one)
    assert list(world.cluster.slices) == [NAME]


def test_an_api_server_that_honours_no_dry_run_is_noticed_on_the_write(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.configure(allocator="scheduler")
    world.cluster.drops = SHARING
    create = world.cluster.create_slice

    def complete_answer_to_a_dry_run(body: Any, *, dry_run: bool = False) -> Any:
        return body if dry_run else create(body)

    monkeypatch.setattr(world.cluster, "create_slice", complete_answer_to_a_dry_run)
    assert publisher(world).sync()
    assert world.cluster.slices == {}


def test_our_controller_does_without_the_dropped_fields_and_they_are_not_sent_for_ever(world: Any) -> None:
    world.cluster.drops = SHARING
    one = publisher(world)
    assert one.sync()
    assert list(world.cluster.slices) == [NAME]
    assert not one.sync()
    assert world.cluster.calls == ["create"]


def test_a_field_that_is_dropped_but_not_needed_is_a_warning(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Without DRADeviceTaints a lost GPU loses its taint; our controller shares without the sharing fields."""
    world.inventory.gpus = (world.gpu(0), replace(world.gpu(1), healthy=False))
    world.cluster.drops = {"taints"}
    one = publisher(world)
    with caplog.at_level(logging.INFO):
        assert one.sync()
        world.inventory.gpus, world.cluster.drops = (world.gpu(0),), SHARING
        assert one.sync()
    told = [(record.levelname, record.__dict__["dropped"]) for record in caplog.records if "slice" in record.message]
    assert told == [("WARNING", "taints"), ("INFO", "allowMultipleAllocations,requestPolicy")]


def test_outcomes_of_writes_are_told(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    world.configure(allocator="scheduler")
    one = SlicePublisher(
        options=world.options, cluster=world.cluster, gpus=world.inventory.list_gpus, on_write=told.append
    )
    one.sync()
    world.inventory.gpus = ()
    one.sync()
    world.cluster.slices["other"] = {"metadata": {"name": "other"}, "spec": {}}
    one.sync()
    assert told == ["created", "replaced", "deleted"]
    world.inventory.gpus = (world.gpu(0),)

    def refuse(*_: Any, **__: Any) -> Any:
        raise Refused("API server", "no rights", remedy="grant them")

    with monkeypatch.context() as broken:
        broken.setattr(world.cluster, "replace_slice", refuse)
        with pytest.raises(Refused):
            one.sync()
    assert told.pop() == "failed"
    world.cluster.drops = SHARING
    one.sync()
    assert told[3:] == ["refused", "deleted"]


def test_nothing_is_published_before_the_gpus_are_known(world: Any) -> None:
    one = SlicePublisher(options=world.options, cluster=world.cluster, gpus=lambda: None)
    assert not one.sync()
    assert world.cluster.calls == []


def test_a_node_without_gpus_has_an_empty_slice(world: Any) -> None:
    world.inventory.gpus = ()
    assert publisher(world).sync()
    assert world.cluster.slices[NAME]["spec"].get("devices", []) == []


def test_a_missing_node_object_is_named(world: Any) -> None:
    world.cluster.nodes.clear()
    with pytest.raises(NotFound, match=r"node n1: has no Node object; check --node-name"):
        publisher(world).sync()
    assert world.cluster.slices == {}


class Run:
    """A publisher in a thread, in virtual time: pauses end when the test says so, and the clock moves by them."""

    def __init__(self, world: Any) -> None:
        self.now = 0.0
        self.publisher = SlicePublisher(
            options=world.options, cluster=world.cluster, gpus=world.inventory.list_gpus, clock=lambda: self.now
        )
        self._pauses: queue.Queue[float] = queue.Queue()
        self._go = threading.Semaphore(0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.publisher.run, args=(self._wait,), daemon=True)
        self._thread.start()

    def _wait(self, seconds: float) -> bool:
        if seconds:
            self._pauses.put(seconds)
            assert self._go.acquire(timeout=60)
            self.now += seconds
        return self._stopping.is_set()

    def pause(self) -> float:
        """Wait for the next pause, let it pass and return how long it was."""
        seconds = self._pauses.get(timeout=60)
        self._go.release()
        return seconds

    def stop(self) -> None:
        self._stopping.set()
        self._go.release()
        self.publisher.wake()
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_a_wiped_slice_comes_back_at_once_and_a_fight_slows_down(world: Any) -> None:
    run = Run(world)
    assert run.pause() == 1.0
    run.now += 3600
    for expected in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        world.cluster.delete_slice(NAME)
        run.publisher.wake()
        assert run.pause() == expected
        assert list(world.cluster.slices) == [NAME]
    # Undisturbed for long enough: the next fight starts from the shortest pause.
    run.now += 3600
    world.cluster.delete_slice(NAME)
    run.publisher.wake()
    assert run.pause() == 1.0
    run.stop()
    assert list(world.cluster.slices) == [NAME]


def test_gpus_that_change_are_published_when_the_publisher_is_woken(world: Any) -> None:
    run = Run(world)
    assert run.pause() == 1.0
    run.now += 3600
    world.inventory.gpus = (world.gpu(0, healthy=False),)
    run.publisher.wake()
    assert run.pause() == 1.0
    (device,) = world.cluster.slices[NAME]["spec"]["devices"]
    assert device["taints"] == [{"key": "gpu.fracgpu.dev/unhealthy", "effect": "NoSchedule"}]
    run.stop()


def test_one_wake_is_one_look(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, get_node = threading.Semaphore(0), world.cluster.get_node

    def look(name: str) -> Any:
        looks.release()
        return get_node(name)

    monkeypatch.setattr(world.cluster, "get_node", look)
    run = Run(world)
    assert run.pause() == 1.0
    run.publisher.wake()
    assert looks.acquire(timeout=60)
    assert looks.acquire(timeout=60)
    # Nothing was to be written. A publisher that does not sleep now looks thousands of times a second.
    assert not looks.acquire(timeout=0.2)
    run.stop()


def test_a_wake_during_a_pause_is_not_lost(world: Any) -> None:
    run = Run(world)
    seconds = run._pauses.get(timeout=60)
    world.inventory.gpus = ()
    run.publisher.wake()
    run._go.release()
    assert seconds == 1.0
    assert run.pause() == 2.0
    assert not world.cluster.slices[NAME]["spec"].get("devices")
    run.stop()


ERRORS = [
    ("unavailable", Unavailable("API server", "is down", remedy="wait")),
    ("refused", Refused("API server", "no rights", remedy="grant them")),
    ("bug", RuntimeError("unexpected")),
]


@pytest.mark.parametrize("error", [case[1] for case in ERRORS], ids=[case[0] for case in ERRORS])
def test_errors_are_retried_with_growing_pauses(world: Any, error: Exception) -> None:
    world.cluster.fails = [error] * 8
    run = Run(world)
    assert [run.pause() for _ in range(9)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 1.0]
    assert list(world.cluster.slices) == [NAME]
    run.stop()


class Watching:
    """A SliceWatch in a thread that counts its calls; a pause ends at once."""

    def __init__(self, world: Any, expected: Any = lambda _: False) -> None:
        self.changes: queue.Queue[None] = queue.Queue()
        self.pauses: list[float] = []
        self._stopping = threading.Event()
        self.watch = SliceWatch(world.cluster, "n1", on_change=lambda: self.changes.put(None), expected=expected)
        self._thread = threading.Thread(target=self.watch.run, args=(self._wait,), daemon=True)
        self._thread.start()

    def _wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return self._stopping.is_set()

    def change(self) -> None:
        self.changes.get(timeout=60)

    def stop(self, world: Any) -> None:
        self._stopping.set()
        world.cluster.end_watches()
        self._thread.join(60)
        assert not self._thread.is_alive()


def watched(world: Any) -> None:
    assert world.cluster.watching.wait(60)
    world.cluster.watching.clear()


def test_the_watch_tells_of_changes_that_are_not_ours(world: Any) -> None:
    one = publisher(world)
    one.sync()
    watching = Watching(world, one.expected)
    watching.change()
    watched(world)
    own = world.cluster.slices[NAME]
    world.cluster.replace_slice(own)
    world.cluster.replace_slice({**world.cluster.slices[NAME], "spec": {**own["spec"], "devices": []}})
    watching.change()
    world.cluster.delete_slice(NAME)
    watching.change()
    # Had our own slice, written again as it was, been told of, there would be one more.
    assert watching.changes.empty()
    watching.stop(world)


def test_a_watch_that_ended_begins_anew_and_asks_for_a_look(world: Any) -> None:
    watching = Watching(world)
    for _ in range(3):
        watching.change()
        watched(world)
        world.cluster.end_watches()
    watching.change()
    watched(world)
    watching.stop(world)
    assert set(watching.pauses) == {1.0}


def test_a_watch_that_fails_is_tried_again_with_growing_pauses(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [Unavailable("API server", "is down", remedy="wait"), RuntimeError("bug")] * 4
    listed = world.cluster.list_slices

    def fail(node_name: str) -> Any:
        if errors:
            raise errors.pop()
        return listed(node_name)

    monkeypatch.setattr(world.cluster, "list_slices", fail)
    watching = Watching(world)
    watched(world)
    watching.stop(world)
    assert watching.pauses[:8] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_what_changes_while_the_slice_is_looked_at_is_looked_at_afterwards(world: Any) -> None:
    stop, again, looks = threading.Event(), threading.Event(), 0

    def gpus() -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            one.wake()
        else:
            again.set()
        return world.inventory.list_gpus()

    one = SlicePublisher(options=world.options, cluster=world.cluster, gpus=gpus)
    thread = threading.Thread(target=one.run, args=(lambda _: stop.is_set(),), daemon=True)
    thread.start()
    # By itself it looks again after 60 s.
    assert again.wait(45)
    stop.set()
    one.wake()
    thread.join(45)
    assert not thread.is_alive()
