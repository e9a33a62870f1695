"""The publisher against an API server in memory. Time is virtual: a pause is a call that the test answers."""

import threading
from typing import Any

import pytest

from fracgpu.kubeletplugin.errors import Refused, Unavailable
from fracgpu.kubeletplugin.publisher import SlicePublisher

NAME = "00000-gpu.fracgpu.dev-n1"
SHARING = {"allowMultipleAllocations", "requestPolicy"}


def publisher(world: Any) -> SlicePublisher:
    return SlicePublisher(options=world.options, cluster=world.cluster, inventory=world.inventory)


def is_refused(one: SlicePublisher) -> bool:
    return one.refusal is not None


def test_the_first_sync_creates_and_the_second_does_nothing(world: Any) -> None:
    one = publisher(world)
    assert one.sync()[1]
    assert world.cluster.calls == ["create"]
    assert list(world.cluster.slices) == [NAME]
    assert one.published.is_set()
    assert not one.sync()[1]
    assert not publisher(world).sync()[1]
    assert world.cluster.calls == ["create"]


def test_a_changed_gpu_replaces_the_slice_and_keeps_what_others_put_on_it(world: Any) -> None:
    publisher(world).sync()
    world.cluster.slices[NAME]["metadata"]["labels"] = {"team": "a"}
    world.inventory.gpus = world.inventory.gpus[:1]
    assert publisher(world).sync()[1]
    assert world.cluster.calls == ["create", "replace"]
    assert len(world.cluster.slices[NAME]["spec"]["devices"]) == 1
    assert world.cluster.slices[NAME]["metadata"]["labels"] == {"team": "a"}


def test_canonical_quantities_of_the_api_server_are_no_change(world: Any) -> None:
    publisher(world).sync()
    memory = world.cluster.slices[NAME]["spec"]["devices"][0]["capacity"]["memory"]
    memory["value"] = "45056Mi"
    assert not publisher(world).sync()[1]


def test_a_node_that_was_created_anew_owns_the_slice_again(world: Any) -> None:
    publisher(world).sync()
    world.cluster.nodes["n1"]["metadata"]["uid"] = "node-uid-2"
    assert publisher(world).sync()[1]
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
    assert not one.sync()[1]
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
    assert one.sync()[1]
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
    assert publisher(world).sync()[1]
    assert world.cluster.slices == {}


def test_our_controller_does_without_the_dropped_fields_and_they_are_not_sent_for_ever(world: Any) -> None:
    world.cluster.drops = SHARING
    one = publisher(world)
    assert one.sync()[1]
    assert list(world.cluster.slices) == [NAME]
    assert not one.sync()[1]
    assert world.cluster.calls == ["create"]


class Run:
    """Runs the publisher in a thread. `next_pause` waits for its next pause and lets it go on, or stops it."""

    def __init__(self, one: SlicePublisher) -> None:
        self.pauses: list[float] = []
        self._paused = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._stop = False
        self.thread = threading.Thread(target=one.run, args=(self._wait,), daemon=True)
        self.thread.start()

    def _wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self._paused.release()
        self._go.acquire()
        return self._stop

    def next_pause(self, *, stop: bool = False) -> float:
        assert self._paused.acquire(timeout=60)
        self._stop = stop
        self._go.release()
        return self.pauses[-1]


def watched(world: Any) -> None:
    assert world.cluster.watching.wait(60)
    world.cluster.watching.clear()


def test_a_deleted_slice_comes_back_and_a_repeated_fight_slows_down(world: Any) -> None:
    run = Run(publisher(world))
    for expected in (1.0, 2.0, 4.0):
        watched(world)
        world.cluster.delete_slice(NAME)
        assert run.next_pause() == expected
    watched(world)
    assert list(world.cluster.slices) == [NAME]
    # Undisturbed until the watch ends: the next fight starts from the shortest pause.
    world.cluster.end_watches()
    assert run.next_pause() == 8.0
    watched(world)
    world.cluster.end_watches()
    assert run.next_pause(stop=True) == 1.0
    run.thread.join(60)
    assert not run.thread.is_alive()
    assert list(world.cluster.slices) == [NAME]


def test_a_changed_slice_is_put_right(world: Any) -> None:
    run = Run(publisher(world))
    watched(world)
    changed = {**world.cluster.slices[NAME], "spec": {**world.cluster.slices[NAME]["spec"], "devices": []}}
    world.cluster.replace_slice(changed)
    run.next_pause()
    watched(world)
    assert len(world.cluster.slices[NAME]["spec"]["devices"]) == 2
    world.cluster.end_watches()
    run.next_pause(stop=True)
    run.thread.join(60)


ERRORS = [
    ("unavailable", Unavailable("API server", "is down", remedy="wait")),
    ("refused", Refused("API server", "no rights", remedy="grant them")),
    ("bug", RuntimeError("unexpected")),
]


@pytest.mark.parametrize("error", [case[1] for case in ERRORS], ids=[case[0] for case in ERRORS])
def test_errors_are_retried_with_growing_pauses(world: Any, error: Exception) -> None:
    world.cluster.fails = [error] * 8
    run = Run(publisher(world))
    assert [run.next_pause() for _ in range(8)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    watched(world)
    assert list(world.cluster.slices) == [NAME]
    world.cluster.end_watches()
    run.next_pause(stop=True)
    run.thread.join(60)
