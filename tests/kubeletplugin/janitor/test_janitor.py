"""Which claims the janitor takes back, and above all which it leaves; and what it does when in doubt."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fracgpu.driver.kube.errors import Refused, Unavailable
from fracgpu.kubeletplugin.errors import CheckpointInvalid, NodeLockTimeout
from fracgpu.kubeletplugin.janitor import janitor as module
from fracgpu.kubeletplugin.janitor.janitor import GRACE_SECONDS
from fracgpu.kubeletplugin.janitor.mounts import mounted_by_a_process
from fracgpu.kubeletplugin.prepare.checkpoint import EntryState
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.node_lock import node_lock
from tests.kubeletplugin.janitor.mounts import mount, process


def stored(world: Any) -> list[str]:
    return sorted(path.name for path in (world.options.state_dir / "lib").iterdir())


def other_version(world: Any) -> Any:
    """A plugin with another interceptor."""
    world.libraries[0].write_bytes(b"a newer shim")
    return world.preparer()


# Releases that waited for a process


def test_a_deferred_release_is_finished_when_its_last_process_has_ended(world: Any, hold: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    holder = hold(world.allocation(ref) / "state")
    preparer.unprepare(ref)
    told: list[tuple[str, int]] = []
    janitor = world.janitor(preparer, removed=lambda kind, count: told.append((kind, count)))
    for _ in range(3):
        assert world.wait_and_sweep(janitor) == 0
        assert janitor.finish_releases() == 0
    assert world.entries()[ref.uid].state is EntryState.RELEASING
    holder.end()
    assert janitor.finish_releases() == 1
    assert told == [("claim", 1)]
    assert world.residue() == []
    assert world.entries() == {}


# Claims whose Unprepare never came


def test_a_claim_that_is_gone_is_taken_back_at_the_second_look(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    janitor = world.janitor(preparer)
    assert world.wait_and_sweep(janitor) == 0
    world.cluster.claims.clear()
    assert janitor.sweep() == 0
    world.clock.seconds += GRACE_SECONDS - 1
    assert janitor.sweep() == 0
    assert set(world.entries()) == {ref.uid}
    world.clock.seconds += 1
    assert janitor.sweep() == 1
    assert world.residue() == []
    assert world.entries() == {}


def recreate(world: Any, ref: Any) -> None:
    world.change(ref)["metadata"]["uid"] = "00000000-0000-0000-0000-00000000000b"


def deallocate(world: Any, ref: Any) -> None:
    world.change(ref)["status"] = {}


def move(world: Any, ref: Any) -> None:
    world.change(ref)["status"]["allocation"]["devices"]["results"][0]["pool"] = "n2"


@pytest.mark.parametrize("change", [recreate, deallocate, move])
def test_a_claim_that_is_not_for_this_node_any_more_is_taken_back(world: Any, change: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    change(world, ref)
    assert world.wait_and_sweep(world.janitor(preparer)) == 1
    assert world.entries() == {}


def test_a_claim_in_preparation_that_is_gone_is_taken_back(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    store = preparer._checkpoints
    store.save(store.load().with_entry(replace(world.entries()[ref.uid], state=EntryState.PREPARING)))
    world.cluster.claims.clear()
    assert world.wait_and_sweep(world.janitor(preparer)) == 1
    assert world.entries() == {}


@pytest.mark.parametrize("error", [Unavailable, Refused])
def test_no_answer_of_the_api_server_is_no_news(world: Any, error: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    world.cluster.claims.clear()
    janitor = world.janitor(preparer)
    janitor.sweep()
    for _ in range(3):
        world.clock.seconds += GRACE_SECONDS
        world.cluster.fails = [error("API server", "is away", remedy="wait")]
        assert janitor.sweep() == 0
    # And the time before does not count.
    assert janitor.sweep() == 0
    assert set(world.entries()) == {ref.uid}
    assert world.wait_and_sweep(janitor) == 1


@pytest.mark.parametrize("answer", [{}, {"metadata": None}, {"metadata": {"uid": None}, "status": []}])
def test_nonsense_of_the_api_server_is_no_news(world: Any, answer: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    world.cluster.claims["ns", "c1"] = answer
    if answer.get("metadata"):
        answer["metadata"]["uid"] = ref.uid
    assert world.wait_and_sweep(world.janitor(preparer)) == 0
    assert set(world.entries()) == {ref.uid}


def test_a_claim_that_is_gone_but_in_use_stays(world: Any, hold: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    holder = hold(world.allocation(ref) / "state")
    world.cluster.claims.clear()
    janitor = world.janitor(preparer)
    assert world.wait_and_sweep(janitor) == 0
    assert sorted(path.name for path in world.allocation(ref).iterdir()) == ["config", "state"]
    holder.end()
    assert janitor.sweep() == 1


@pytest.mark.parametrize("name", ["config", "state"])
def test_a_claim_that_is_gone_but_mounted_by_a_container_without_cuda_stays(world: Any, name: str) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    world.cluster.claims.clear()
    janitor = world.janitor(preparer)
    process(world, 1, "22 1 0:21 / /proc rw - proc proc rw")
    process(world, 4711, "22 1 0:21 / /proc rw - proc proc rw", mount(ref, name))
    assert world.wait_and_sweep(janitor) == 0
    assert set(world.entries()) == {ref.uid}
    (world.root / "proc" / "4711" / "mountinfo").unlink()
    assert janitor.sweep() == 1


def test_a_claim_that_was_allocated_and_prepared_anew_during_the_sweep_stays(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    body = world.cluster.claims.pop(("ns", "c1"))
    janitor = world.janitor(preparer)
    janitor.sweep()
    world.clock.seconds += GRACE_SECONDS

    def prepared_meanwhile(*arguments: Any) -> Any:
        world.cluster.claims["ns", "c1"] = body
        preparer.prepare(ref)
        return node_lock(*arguments)

    monkeypatch.setattr(module, "node_lock", prepared_meanwhile)
    assert janitor.sweep() == 0
    assert world.entries()[ref.uid].state is EntryState.PREPARED
    assert (world.allocation(ref) / "state").exists()


def test_processes_whose_mounts_can_not_be_read_may_have_any(world: Any, tmp_path: Path) -> None:
    directory = tmp_path / "proc" / "7"
    (directory / "mountinfo").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        mounted_by_a_process(["/x/"], tmp_path / "proc")
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    world.cluster.claims.clear()
    assert world.wait_and_sweep(world.janitor(preparer, proc=tmp_path / "proc")) == 0
    assert set(world.entries()) == {ref.uid}


def test_this_process_s_own_mounts_are_seen() -> None:
    assert mounted_by_a_process([" /proc "])
    assert not mounted_by_a_process(["/allocations/no-such-claim-"])
    assert not mounted_by_a_process([])


# When in doubt


def test_nothing_is_removed_while_the_checkpoint_can_not_be_read(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    other_version(world)
    janitor = world.janitor(preparer)
    world.cluster.claims.clear()
    janitor.sweep()
    path = world.options.state_dir / "checkpoint.json"
    path.write_bytes(path.read_bytes()[:-20])
    (world.options.cdi_dir / ".gpu.fracgpu.dev-claim_0a.json.tmp").touch()
    before = world.residue(), stored(world)
    world.clock.seconds += GRACE_SECONDS
    with pytest.raises(CheckpointInvalid):
        janitor.sweep()
    assert (world.residue(), stored(world)) == before


def test_a_janitor_waits_for_the_node_lock_only_so_long(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.01)
    janitor = world.janitor()
    with node_lock(world.options.state_dir / "node.lock", 1), pytest.raises(NodeLockTimeout):
        janitor.sweep()


def test_the_loop_survives_every_error_and_sweeps_again_in_time(
    world: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    janitor = world.janitor()
    sweeps: list[float] = []
    errors: list[Exception] = [OSError(5, "Input/output error"), RuntimeError("bug")]
    began = world.clock.seconds

    def sweep() -> int:
        sweeps.append(world.clock.seconds - began)
        if errors:
            raise errors.pop(0)
        return 0

    looks: list[float] = []

    def finish() -> int:
        looks.append(world.clock.seconds - began)
        return 0

    def wait(seconds: float) -> bool:
        world.clock.seconds += seconds
        return bool(world.clock.seconds - began > 4 * GRACE_SECONDS)

    monkeypatch.setattr(janitor, "sweep", sweep)
    monkeypatch.setattr(janitor, "finish_releases", finish)
    janitor.run(wait)
    assert sweeps == [0, 300, 600, 900, 1200]
    assert looks[:2] == [10, 20]
    assert [getattr(record, "error", record.getMessage()) for record in caplog.records] == [
        "[Errno 5] Input/output error",
        "sweep failed",
    ]


def test_trouble_is_logged_once_for_as_long_as_it_lasts(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    janitor = world.janitor()
    (world.options.state_dir / "checkpoint.json").write_bytes(b"junk")
    looks = 0

    def wait(seconds: float) -> bool:
        nonlocal looks
        looks += 1
        return looks == 5

    janitor.run(wait)
    assert caplog.text.count("not everything could be swept") == 1


def test_a_sweep_of_a_tidy_node_changes_nothing(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)

    class Never(Files):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_") and name != "remove":
                raise AssertionError(f"{name} was used")
            return super().__getattribute__(name)

    before = {path: path.stat().st_ctime_ns for path in world.root.rglob("*") if path.name != "proc"}
    assert world.wait_and_sweep(world.janitor(preparer, files=Never())) == 0
    after = {path: path.stat().st_ctime_ns for path in world.root.rglob("*") if path.name != "proc"}
    assert before == after
    assert os.path.lexists(world.allocation(ref))
