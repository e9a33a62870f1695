"""What the janitor takes away that no claim names: interceptors, CDI specs, allocation directories, temporary files."""

import fcntl
from pathlib import Path
from typing import Any

import pytest

from fracgpu.driver.kube.errors import Unavailable
from fracgpu.kubeletplugin.janitor.janitor import GRACE_SECONDS
from fracgpu.kubeletplugin.janitor.patience import Patience
from tests.kubeletplugin.janitor.mounts import mount, process


def stored(world: Any) -> list[str]:
    return sorted(path.name for path in (world.options.state_dir / "lib").iterdir())


def other_version(world: Any) -> Any:
    """A plugin with another interceptor."""
    world.libraries[0].write_bytes(b"a newer shim")
    return world.preparer()


# Interceptors


def test_an_interceptor_goes_with_its_last_claim(world: Any) -> None:
    first, second = world.claim("a"), world.claim("b")
    former = world.preparer()
    for ref in (first, second):
        former.prepare(ref)
    newer = other_version(world)
    janitor = world.janitor(newer)
    for ref in (first, second):
        assert world.wait_and_sweep(janitor) == 0
        assert former.library_digest in stored(world)
        newer.unprepare(ref)
    assert janitor.sweep() == 0
    world.clock.seconds += GRACE_SECONDS
    assert janitor.sweep() == 1
    assert stored(world) == [newer.library_digest]


def test_a_directory_that_is_no_interceptor_stays(world: Any) -> None:
    """What a file system or an administrator puts there, as lost+found."""
    preparer = world.preparer()
    foreign = world.options.state_dir / "lib" / "lost+found"
    foreign.mkdir()
    assert world.wait_and_sweep(world.janitor(preparer)) == 0
    assert foreign.is_dir()


def test_an_interceptor_of_a_claim_being_released_stays(world: Any, hold: Any) -> None:
    ref, former = world.claim(), world.preparer()
    former.prepare(ref)
    hold(world.allocation(ref) / "state")
    former.unprepare(ref)
    newer = other_version(world)
    assert world.wait_and_sweep(world.janitor(newer)) == 0
    assert former.library_digest in stored(world)


@pytest.mark.parametrize("name", ["someone-else.json", "someone-else.yaml"])
def test_an_interceptor_that_any_cdi_spec_names_stays(world: Any, name: str) -> None:
    former, newer = world.preparer(), other_version(world)
    world.options.cdi_dir.mkdir()
    spec = world.options.cdi_dir / name
    spec.write_text(f"not even a spec, but it names /x/lib/{former.library_digest}/libcuda.so.1")
    janitor = world.janitor(newer)
    assert world.wait_and_sweep(janitor) == 0
    spec.unlink()
    assert world.wait_and_sweep(janitor) == 1
    assert stored(world) == [newer.library_digest]


def test_a_cdi_spec_that_can_not_be_read_may_name_any(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    former, newer = world.preparer(), other_version(world)
    world.options.cdi_dir.mkdir()
    (world.options.cdi_dir / "nvidia.yaml").touch()
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "nvidia.yaml":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    assert world.wait_and_sweep(world.janitor(newer)) == 0
    assert former.library_digest in stored(world)


def test_an_interceptor_that_a_process_has_mounted_stays(world: Any) -> None:
    former, newer = world.preparer(), other_version(world)
    janitor = world.janitor(newer)
    process(world, 7, f"9 8 8:1 /var/lib/fracgpu/lib/{former.library_digest}/libcuda.so.1 /usr/lib64/libcuda.so.1 ro")
    assert world.wait_and_sweep(janitor) == 0


def test_a_plugin_whose_interceptor_another_one_s_janitor_took_puts_it_back(world: Any) -> None:
    """Two plugins overlap; the newer one has no claim yet, so nothing names what it has installed."""
    former = world.preparer()
    janitor = world.janitor(former)
    newer = other_version(world)
    assert world.wait_and_sweep(janitor) == 1
    assert stored(world) == [former.library_digest]
    ref = world.claim()
    newer.prepare(ref)
    assert newer.library_digest.encode() in world.spec(ref)
    assert newer.library_digest in stored(world)
    assert world.wait_and_sweep(janitor) == 0


# What nothing names


def test_files_that_no_claim_names_go_at_the_second_look(world: Any) -> None:
    ref, kept, preparer = world.claim("gone"), world.claim("kept"), world.preparer()
    preparer.prepare(ref)
    preparer.prepare(kept)
    preparer._checkpoints.save(preparer._checkpoints.load().without(ref.uid))
    janitor = world.janitor(preparer)
    assert janitor.sweep() == 0
    world.clock.seconds += GRACE_SECONDS
    assert janitor.sweep() == 2
    assert all(kept.uid in path for path in world.residue())
    assert len(world.residue()) == 4


def test_files_that_no_claim_names_but_a_process_uses_stay(world: Any, hold: Any) -> None:
    refs, preparer = [world.claim("a"), world.claim("b")], world.preparer()
    for ref in refs:
        preparer.prepare(ref)
    (world.options.state_dir / "checkpoint.json").unlink()
    holder = hold(world.allocation(refs[0]) / "state")
    process(world, 7, mount(refs[1]))
    janitor = world.janitor(preparer)
    assert world.wait_and_sweep(janitor) == 0
    assert len(world.residue()) == 8
    holder.end()
    assert janitor.sweep() == 2
    assert all(refs[1].uid in path for path in world.residue())


def test_a_claim_that_gets_its_entry_back_keeps_its_files(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    preparer.prepare(ref)
    (world.options.state_dir / "checkpoint.json").unlink()
    janitor = world.janitor(preparer)
    janitor.sweep()
    preparer.prepare(ref)
    world.clock.seconds += GRACE_SECONDS
    assert janitor.sweep() == 0
    # And the time in between does not count when it is lost once more.
    (world.options.state_dir / "checkpoint.json").unlink()
    assert janitor.sweep() == 0
    assert len(world.residue()) == 4


def test_temporary_files_go_at_once_and_foreign_ones_stay(world: Any) -> None:
    preparer = world.preparer()
    world.options.cdi_dir.mkdir()
    ours = [
        world.options.cdi_dir / ".gpu.fracgpu.dev-claim_0a.json.tmp",
        world.options.state_dir / ".checkpoint.json.tmp",
    ]
    foreign = [world.options.cdi_dir / ".nvidia.json.tmp", world.options.cdi_dir / "nvidia.json"]
    for path in (*ours, *foreign):
        path.write_bytes(b"half")
    left = world.options.state_dir / "lib" / ".abc.tmp"
    left.mkdir()
    (left / "libcuda.so.1").write_bytes(b"half")
    assert world.janitor(preparer).sweep() == 3
    assert [path.exists() for path in (*ours, left, *foreign)] == [False] * 3 + [True] * 2


def test_what_can_not_be_removed_does_not_save_the_rest(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    former, newer = world.preparer(), other_version(world)
    stubborn = world.options.run_dir / "allocations" / "x" / "not-a-file"
    stubborn.mkdir(parents=True)
    janitor = world.janitor(newer)
    assert world.wait_and_sweep(janitor) == 1
    assert former.library_digest not in stored(world)
    assert "not everything could be swept" in caplog.text


def test_one_thing_that_can_not_be_removed_does_not_save_others_of_its_kind(world: Any) -> None:
    refs, preparer = [world.claim("a"), world.claim("b")], world.preparer()
    for ref in refs:
        preparer.prepare(ref)
    (world.options.run_dir / "allocations" / "0" / "not-a-file").mkdir(parents=True)
    (world.options.state_dir / "checkpoint.json").unlink()
    # Two specs and two allocations; the first in the order of names stays.
    assert world.wait_and_sweep(world.janitor(preparer)) == 4
    assert world.residue() == ["run/allocations/0", "run/allocations/0/not-a-file"]


def test_an_abandoned_claim_that_can_not_be_removed_does_not_save_the_others(world: Any) -> None:
    refs, preparer = [world.claim("a"), world.claim("b")], world.preparer()
    for ref in refs:
        preparer.prepare(ref)
    first, _ = sorted(refs, key=lambda ref: str(ref.uid))
    (world.allocation(first) / "x" / "y").mkdir(parents=True)
    world.cluster.claims.clear()
    assert world.wait_and_sweep(world.janitor(preparer)) == 1
    assert set(world.entries()) == {first.uid}


def test_a_slow_api_server_is_not_waited_for_under_the_node_lock_for_each_claim(world: Any) -> None:
    """Each Prepare and Unprepare of the node would wait as well, and fail after 40 s."""
    preparer = world.preparer()
    for number in range(10):
        preparer.prepare(world.claim(f"c{number}", {"memory": 2**30, "cores": 0}))
    world.cluster.claims.clear()
    janitor = world.janitor(preparer)
    janitor.sweep()
    world.clock.seconds += GRACE_SECONDS
    get, locked_seconds = world.cluster.get_claim, 0.0

    def slow(namespace: str, name: str, *, timeout_seconds: float) -> Any:
        nonlocal locked_seconds
        if is_locked(world):
            locked_seconds += min(2.0, timeout_seconds)
            world.clock.seconds += min(2.0, timeout_seconds)
        return get(namespace, name)

    world.cluster.get_claim = slow
    assert janitor.sweep() == 3
    assert locked_seconds == 5.0
    # The next sweeps take back the rest.
    world.cluster.get_claim = get
    assert janitor.sweep() == 7
    assert world.entries() == {}


def test_a_silent_api_server_holds_up_releases_for_half_a_minute_and_not_for_each_claim(world: Any) -> None:
    preparer = world.preparer()
    for number in range(10):
        preparer.prepare(world.claim(f"c{number}", {"memory": 2**30, "cores": 0}))
    began = world.clock.seconds

    def silent(namespace: str, name: str, *, timeout_seconds: float) -> Any:
        assert timeout_seconds > 0
        world.clock.seconds += timeout_seconds
        raise Unavailable(f"claim {namespace}/{name}", "timed out", remedy="wait")

    world.cluster.get_claim = silent
    assert world.janitor(preparer).sweep() == 0
    assert world.clock.seconds - began == 30
    assert len(world.entries()) == 10


def is_locked(world: Any) -> bool:
    with (world.options.state_dir / "node.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_what_is_removed_is_named(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    preparer = world.preparer()
    ref = world.claim()
    preparer.prepare(ref)
    name = world.allocation(ref).name
    preparer._checkpoints.save(preparer._checkpoints.load().without(ref.uid))
    world.wait_and_sweep(world.janitor(preparer))
    told = {record.message: record.__dict__ for record in caplog.records}
    assert told["CDI spec removed that no claim names"]["uid"] == ref.uid
    assert told["allocation removed that no claim names"]["allocation_id"] == name


def test_nothing_is_unused_at_the_first_look_however_short_the_patience(world: Any) -> None:
    patience = Patience(0, world.clock)
    patience.look()
    assert not patience.unused("x")
    patience.look()
    assert patience.unused("x")
    for _ in range(2):
        patience.look()
    # Not seen unused at the look before: it begins anew.
    assert not patience.unused("x")
