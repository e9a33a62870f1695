"""A plugin killed with SIGKILL at every kill point of what it does, and then started again.

The operation runs in a copy of this process that kills itself at the n-th point, for every n until it gets through.
After each kill a fresh plugin either does the same again, or the opposite, and nothing may be missing or left.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.kubeletplugin.prepare.checkpoint import EntryState
from fracgpu.native.config_page import decode_config_page
from fracgpu.native.state_file import read_state_file
from tests.kubeletplugin.prepare.crash import killed_at

GIB = 1024**3
TWO = (
    {"request": "a", "memory": 30 * GIB, "cores": 60},
    {"request": "b", "device": "gpu-22222222", "memory": 30 * GIB, "cores": 60},
)
SUFFIXES = ("a-gpu-11111111-0", "b-gpu-22222222-1")


def each_kill(make_world: Callable[[], Any], operation: Callable[[Any], Callable[[], object]]) -> Iterator[Any]:
    """Yield a node after each kill of `operation(node)`, until it gets through."""
    point = 0
    while True:
        point += 1
        world = make_world()
        if not killed_at(point, operation(world)):
            return
        yield world


def files_below(*places: Path) -> list[str]:
    return sorted(str(path) for place in places for path in place.rglob("*"))


def check_nothing_is_left(world: Any) -> None:
    assert world.residue() == []
    assert world.entries() == {}
    check_state_directory(world)


def check_state_directory(world: Any) -> None:
    state = world.options.state_dir
    assert {path.name for path in state.iterdir()} <= {"checkpoint.json", "node.lock", "lib"}
    for directory in (state / "lib").iterdir():
        assert not directory.name.startswith(".")
        assert sorted(path.name for path in directory.iterdir()) == ["libcuda.so.1", "libnvidia-ml.so.1"]


def check_prepared(world: Any, ref: Any, devices: Any, spec: bytes) -> None:
    """The whole claim is there: `devices` and `spec` are those of a node on which nothing was killed."""
    assert world.preparer().prepare(ref).devices == devices
    assert world.spec(ref).replace(str(world.root).encode(), b"ROOT") == spec
    assert world.entries()[ref.uid].state is EntryState.PREPARED
    for suffix, gpu in zip(SUFFIXES, world.inventory.gpus, strict=True):
        directory = world.allocation(ref, suffix)
        assert sorted(path.name for path in directory.iterdir()) == ["config", "state"]
        assert decode_config_page((directory / "config").read_bytes()).memory_limit_bytes == 30 * GIB
        assert read_state_file(directory / "state").device_uuid == gpu.uuid
    assert [path.name for path in world.options.cdi_dir.iterdir()] == [f"gpu.fracgpu.dev-claim_{ref.uid}.json"]
    check_state_directory(world)


@pytest.fixture
def expected(make_world: Any) -> tuple[Any, bytes]:
    """The answer and the spec of a node on which nothing happens."""
    world = make_world()
    ref = world.claim("c1", *TWO)
    devices = world.preparer().prepare(ref).devices
    return devices, world.spec(ref).replace(str(world.root).encode(), b"ROOT")


def prepare(world: Any) -> Callable[[], object]:
    preparer, ref = world.preparer(), world.claim("c1", *TWO)
    return lambda: preparer.prepare(ref)


def unprepare(world: Any) -> Callable[[], object]:
    preparer, ref = world.preparer(), world.claim("c1", *TWO)
    preparer.prepare(ref)
    return lambda: preparer.unprepare(ref)


# With fewer points the test would have lost its object: 2 allocations with 2 files each, a spec, 2 checkpoints.
LEAST = {prepare: 30, unprepare: 12}


@pytest.mark.parametrize("operation", [prepare, unprepare])
@pytest.mark.parametrize("then", ["prepare", "unprepare", "unprepare and prepare"])
def test_a_plugin_killed_at_every_point_of_one_claim(
    make_world: Any, expected: tuple[Any, bytes], operation: Any, then: str
) -> None:
    kills = 0
    for world in each_kill(make_world, operation):
        kills += 1
        ref = world.claim("c1", *TWO)
        if then == "prepare":
            check_prepared(world, ref, *expected)
            world.preparer().unprepare(ref)
        else:
            world.preparer().unprepare(ref)
            check_nothing_is_left(world)
            if then != "unprepare":
                check_prepared(world, ref, *expected)
                world.preparer().unprepare(ref)
        check_nothing_is_left(world)
    assert kills >= LEAST[operation]


def test_a_claim_that_never_comes_back_after_a_kill_leaves_nothing_once_it_is_gone(make_world: Any) -> None:
    kills = 0
    for world in each_kill(make_world, prepare):
        kills += 1
        world.cluster.claims.clear()
        preparer = world.preparer()
        world.wait_and_sweep(world.janitor(preparer))
        check_nothing_is_left(world)
    assert kills >= LEAST[prepare]


def test_a_node_that_lost_power_at_every_point(make_world: Any, expected: tuple[Any, bytes]) -> None:
    """After the kill everything volatile is gone, too."""
    for world in each_kill(make_world, prepare):
        for volatile in (world.options.cdi_dir, world.options.run_dir):
            shutil.rmtree(volatile, ignore_errors=True)
        check_prepared(world, world.claim("c1", *TWO), *expected)


def upgrade(world: Any) -> Callable[[], object]:
    """A plugin with interceptor A had a claim; one with B starts, and A's is collected."""
    old = world.claim("old")
    former = world.preparer()
    former.prepare(old)
    former.unprepare(old)
    world.libraries[0].write_bytes(b"a newer shim")

    def start_and_sweep() -> None:
        preparer = world.preparer()
        world.wait_and_sweep(world.janitor(preparer))

    return start_and_sweep


def test_a_plugin_killed_at_every_point_of_an_upgrade(make_world: Any) -> None:
    kills = 0
    for world in each_kill(make_world, upgrade):
        kills += 1
        preparer = world.preparer()
        assert preparer.library_digest in {path.name for path in (world.options.state_dir / "lib").iterdir()}
        check_state_directory(world)
        ref = world.claim("new")
        preparer.prepare(ref)
        assert preparer.library_digest.encode() in world.spec(ref)
        world.wait_and_sweep(world.janitor(preparer))
        assert [path.name for path in (world.options.state_dir / "lib").iterdir()] == [preparer.library_digest]
        check_state_directory(world)
    assert kills >= 20


def first_start(world: Any) -> Callable[[], object]:
    return world.preparer  # type: ignore[no-any-return]


def test_a_plugin_killed_at_every_point_of_its_first_start(make_world: Any) -> None:
    kills = 0
    for world in each_kill(make_world, first_start):
        kills += 1
        world.preparer()
        check_nothing_is_left(world)
        assert len(list((world.options.state_dir / "lib").iterdir())) == 1
    assert kills >= 20


def test_a_deferred_release_killed_at_every_point(make_world: Any, hold: Any) -> None:
    def deferred(world: Any) -> Callable[[], object]:
        operation = unprepare(world)
        hold(world.allocation(world.claim("c1", *TWO), SUFFIXES[0]) / "state")
        return operation

    kills = 0
    for world in each_kill(make_world, deferred):
        kills += 1
        ref = world.claim("c1", *TWO)
        inode = (world.allocation(ref, SUFFIXES[0]) / "state").stat().st_ino
        assert world.preparer().unprepare(ref).deferred
        assert world.entries()[ref.uid].state is EntryState.RELEASING
        assert list(world.options.cdi_dir.iterdir()) == []
        assert (world.allocation(ref, SUFFIXES[0]) / "state").stat().st_ino == inode
        check_state_directory(world)
    assert kills >= 6
