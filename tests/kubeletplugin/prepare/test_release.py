"""Claims that the kubelet takes back while processes still use them, and calls that overtake each other."""

import re
import threading
from dataclasses import replace
from typing import Any

import pytest

from fracgpu.kubeletplugin.errors import AccountDamaged, ClaimChanged, ClaimOvertaken, ClaimRefused
from fracgpu.kubeletplugin.prepare.checkpoint import EntryState
from fracgpu.native.state_file import read_state_file

GIB = 1024**3
GENEROUS_SECONDS = 60.0


def state(world: Any, ref: Any) -> Any:
    return world.allocation(ref) / "state"


def test_a_claim_in_use_is_taken_back_without_its_files(world: Any, hold: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    holder = hold(state(world, ref))
    released = preparer.unprepare(ref)
    assert (released.known, released.deferred) == (True, True)
    assert world.entries()[ref.uid].state is EntryState.RELEASING
    assert list(world.options.cdi_dir.iterdir()) == []
    assert sorted(path.name for path in world.allocation(ref).iterdir()) == ["config", "state"]
    # The kubelet may ask again.
    assert preparer.unprepare(ref).deferred
    holder.end()
    assert not preparer.unprepare(ref).deferred
    assert world.residue() == []
    assert world.entries() == {}


def test_what_the_container_wrote_into_its_state_file_does_not_hide_its_processes(world: Any, hold: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    hold(state(world, ref))
    state(world, ref).write_bytes(b"")
    assert preparer.unprepare(ref).deferred


def test_a_refusal_says_who_still_has_the_memory(world: Any, hold: Any) -> None:
    ref, preparer = world.claim("old", {"memory": 40 * GIB, "cores": 0}), world.preparer()
    preparer.prepare(ref)
    holders = [hold(state(world, ref), offset) for offset in (4096, 8192)]
    preparer.unprepare(ref)
    new = world.claim("new", {"memory": 8 * GIB, "cores": 0})
    with pytest.raises(ClaimRefused) as error:
        preparer.prepare(new)
    assert str(error.value) == (
        "claim ns/new device gpu-11111111: CardInsufficientMemory (need 8192Mi memory, free 4096Mi of 45056Mi); "
        "claims that were taken back are still in use: ns/old (2 processes); "
        "it is tried again; if those processes do not end by themselves, end them"
    )
    # The kubelet tries again, and need not wait for the janitor.
    for holder in holders:
        holder.end()
    preparer.prepare(new)
    assert set(world.entries()) == {new.uid}
    assert all(new.uid in path for path in world.residue())


def test_a_claim_in_use_elsewhere_is_no_excuse_on_this_gpu(world: Any, hold: Any) -> None:
    ref, preparer = world.claim("old", {"device": "gpu-22222222"}), world.preparer()
    preparer.prepare(ref)
    hold(world.allocation(ref, "gpu-gpu-22222222-0") / "state")
    preparer.unprepare(ref)
    preparer.prepare(world.claim("a", {"memory": 40 * GIB, "cores": 0}))
    with pytest.raises(ClaimRefused, match=r"free 4096Mi of 45056Mi\); delete the claim"):
        preparer.prepare(world.claim("b", {"memory": 40 * GIB, "cores": 0}))


def test_a_claim_that_comes_back_finds_its_files_as_they_were(world: Any, hold: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    devices, spec = preparer.prepare(ref).devices, world.spec(ref)
    inodes = [path.stat().st_ino for path in sorted(world.allocation(ref).iterdir())]
    hold(state(world, ref))
    preparer.unprepare(ref)
    world.configure(slots=1)
    assert world.preparer().prepare(ref).devices == devices
    assert world.spec(ref) == spec
    assert [path.stat().st_ino for path in sorted(world.allocation(ref).iterdir())] == inodes
    assert world.entries()[ref.uid].state is EntryState.PREPARED


def test_a_claim_that_comes_back_with_another_allocation_waits_for_the_former_one(world: Any, hold: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    holder = hold(state(world, ref))
    preparer.unprepare(ref)
    world.claim("c1", {"device": "gpu-22222222"})
    with pytest.raises(
        ClaimChanged, match=r"was allocated anew while its former allocation is still in use \(1 process\); it"
    ):
        preparer.prepare(ref)
    assert state(world, ref).exists()
    holder.end()
    preparer.prepare(ref)
    assert not world.allocation(ref).exists()
    assert [record.device for record in world.entries()[ref.uid].allocations] == ["gpu-22222222"]


def test_a_destroyed_state_file_in_use_is_never_replaced(world: Any, hold: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    holder = hold(state(world, ref))
    state(world, ref).write_bytes(b"junk")
    inode = state(world, ref).stat().st_ino
    with pytest.raises(AccountDamaged) as error:
        preparer.prepare(ref)
    assert str(error.value) == (
        f"allocation {ref.uid}-gpu-gpu-11111111-0: a container has overwritten its state file, which is in use "
        "(1 process); "
        "delete the pods that use the claim; without them the file is made good"
    )
    assert (state(world, ref).stat().st_ino, state(world, ref).read_bytes()) == (inode, b"junk")
    holder.end()
    preparer.prepare(ref)
    assert read_state_file(state(world, ref)).processes == ()
    # Other containers of the claim have this very file mounted: a new one would be a second account beside theirs.
    assert state(world, ref).stat().st_ino == inode
    assert state(world, ref).stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("change_mib", [-6, 6])
def test_a_whole_gpu_stays_whole_when_another_driver_counts_its_memory_otherwise(world: Any, change_mib: int) -> None:
    ref = world.claim("c1", {"memory": 44 * GIB, "cores": 0}, class_config={"memory": "Whole"})
    first = world.preparer().prepare(ref)
    (record,) = world.entries()[ref.uid].allocations
    assert not record.limited
    page = (world.allocation(ref) / "config").read_bytes()
    world.inventory.gpus = (world.gpu(0, memory_total_bytes=44 * GIB + change_mib * 2**20),)
    assert world.preparer().prepare(ref) == first
    assert world.entries()[ref.uid].allocations == (record,)
    assert (world.allocation(ref) / "config").read_bytes() == page


def test_a_whole_gpu_that_kube_scheduler_gave_out_stays_whole_too(world: Any) -> None:
    world.configure(allocator="scheduler")
    ref = world.claim(
        "c1",
        {"consumed": {"memory": "44Gi", "cores": "0", "slots": "1"}},
        grant=False,
        class_config={"memory": "Whole"},
        claim_config={"memory": "Whole"},
    )
    first = world.preparer().prepare(ref)
    world.inventory.gpus = (world.gpu(0, memory_total_bytes=44 * GIB - 6 * 2**20),)
    assert world.preparer().prepare(ref) == first


def test_a_limited_claim_that_a_smaller_card_would_make_whole_stays_limited(world: Any) -> None:
    ref = world.claim("c1", {"memory": 40 * GIB, "cores": 0}, class_config={"memory": "Whole"})
    first = world.preparer().prepare(ref)
    world.inventory.gpus = (world.gpu(0, memory_total_bytes=40 * GIB),)
    assert world.preparer().prepare(ref) == first
    assert world.entries()[ref.uid].allocations[0].limited


def interrupted(world: Any, preparer: Any, ref: Any) -> tuple[threading.Thread, threading.Event, list[Any]]:
    """A Prepare that stands still while it reads the claim, until the event is set; and its outcome."""
    reading, go, outcome = threading.Event(), threading.Event(), []
    get = world.cluster.get_claim

    def slow(*arguments: Any, **options: Any) -> Any:
        answer = get(*arguments, **options)
        world.cluster.get_claim = get
        reading.set()
        assert go.wait(GENEROUS_SECONDS)
        return answer

    def prepare() -> None:
        try:
            outcome.append(preparer.prepare(ref))
        except ClaimOvertaken as error:
            outcome.append(error)

    world.cluster.get_claim = slow
    thread = threading.Thread(target=prepare)
    thread.start()
    assert reading.wait(GENEROUS_SECONDS)
    return thread, go, outcome


@pytest.mark.parametrize("prepared_before", [False, True])
def test_a_prepare_that_an_unprepare_overtook_leaves_nothing(world: Any, prepared_before: bool) -> None:
    ref, preparer = world.claim(), world.preparer()
    if prepared_before:
        preparer.prepare(ref)
    thread, go, outcome = interrupted(world, preparer, ref)
    assert preparer.unprepare(ref).known == prepared_before
    go.set()
    thread.join(GENEROUS_SECONDS)
    assert re.fullmatch(
        "claim ns/c1: was taken back by the kubelet while it was being prepared; "
        "nothing is left of it; it is prepared anew when a pod asks again",
        str(outcome[0]),
    )
    assert world.residue() == []
    assert world.entries() == {}
    assert len(preparer.prepare(ref).devices) == 1


def test_an_unprepare_of_another_claim_overtakes_nothing(world: Any) -> None:
    ref, other, preparer = world.claim(), world.claim("other"), world.preparer()
    thread, go, outcome = interrupted(world, preparer, ref)
    preparer.unprepare(other)
    go.set()
    thread.join(GENEROUS_SECONDS)
    assert len(outcome[0].devices) == 1


def test_an_unprepare_before_a_prepare_overtakes_nothing_and_nothing_is_remembered(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.unprepare(ref)
    preparer.prepare(ref)
    preparer.unprepare(ref)
    preparer.prepare(ref)
    assert preparer._order._turns == {}


def test_two_prepares_of_one_claim_at_the_same_time_agree(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    thread, go, outcome = interrupted(world, preparer, ref)
    second = preparer.prepare(ref)
    inode = state(world, ref).stat().st_ino
    go.set()
    thread.join(GENEROUS_SECONDS)
    assert outcome == [second]
    assert state(world, ref).stat().st_ino == inode


def test_what_a_former_version_made_of_a_deferred_release_is_not_taken_from_its_processes(
    world: Any, hold: Any
) -> None:
    """Rolled back and forward again: the entry reads "preparing", but it was handed out."""
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    hold(state(world, ref))
    store = preparer._checkpoints
    store.save(store.load().with_entry(replace(world.entries()[ref.uid], state=EntryState.PREPARING)))
    world.claim("c1", {"device": "gpu-22222222"})
    with pytest.raises(ClaimChanged, match="1 process"):
        preparer.prepare(ref)
    assert state(world, ref).exists()
    assert preparer.unprepare(ref).deferred


def test_a_claim_that_comes_back_after_its_last_process_ended_keeps_its_inodes(world: Any, hold: Any) -> None:
    """A container that never called CUDA has them mounted, and is counted by no lock."""
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    before = state(world, ref).stat().st_ino, (world.allocation(ref) / "config").stat().st_ino
    holder = hold(state(world, ref))
    assert preparer.unprepare(ref).deferred
    # So that a file made anew gets another inode than the one that was given back.
    kept = state(world, ref).open("rb")
    holder.end()
    preparer.prepare(ref)
    kept.close()
    assert (state(world, ref).stat().st_ino, (world.allocation(ref) / "config").stat().st_ino) == before
    assert world.entries()[ref.uid].state is EntryState.PREPARED


def test_a_release_that_can_not_be_finished_holds_up_nobody_else(
    world: Any, hold: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, ended, preparer = world.claim("a-stuck"), world.claim("b-ended"), world.preparer()
    for ref in (stuck, ended):
        preparer.prepare(ref)
    for ref in (stuck, ended):
        holder = hold(state(world, ref))
        assert preparer.unprepare(ref).deferred
        holder.end()
    # What Files can not remove: a directory where a file should be.
    (world.allocation(stuck) / "x" / "y").mkdir(parents=True)
    new = world.claim("new")
    preparer.prepare(new)
    assert set(world.entries()) == {stuck.uid, new.uid}
    assert world.entries()[stuck.uid].state is EntryState.RELEASING
    (told,) = [record for record in caplog.records if record.message == "release not finished"]
    assert (told.__dict__["claim"], told.__dict__["uid"]) == ("ns/a-stuck", stuck.uid)
    assert told.__dict__["gpu"].startswith("GPU-1111")
    assert world.janitor(preparer).finish_releases() == 0
