"""Random histories of one node: never more than the GPUs have, and nothing left when all claims are gone."""

from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracgpu.cdi.writer import Sync
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.gpu import scaled_cores
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore, EntryState
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.files import Files

GIB = 1024**3
NAMES = ["a", "b", "c", "d", "e"]

share = st.fixed_dictionaries(
    {
        "device": st.sampled_from(["gpu-11111111", "gpu-22222222", "gpu-33333333"]),
        "memory": st.sampled_from([0, 2**20, GIB, 20 * GIB, 44 * GIB, 45 * GIB]),
        "cores": st.sampled_from([0, 1, 30, 100, 101]),
        "admin": st.booleans(),
    }
)
step = st.one_of(
    st.tuples(st.just("allocate"), st.sampled_from(NAMES), st.lists(share, min_size=1, max_size=3)),
    st.tuples(st.just("prepare"), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("unprepare"), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("crash"), st.sampled_from(NAMES), st.integers(1, 12)),
    st.tuples(st.just("delete"), st.sampled_from(NAMES), st.none()),
)


class Dying(Files):
    """A plugin that is killed at its n-th write."""

    def __init__(self) -> None:
        self.left = -1

    def write(self, path: Any, content: bytes, *, mode: int, sync: Sync = Sync.NOTHING) -> bool:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().write(path, content, mode=mode, sync=sync)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(step, max_size=25),
    memory_scale=st.sampled_from(["1", "1.5"]),
    cores_scale=st.sampled_from(["1", "1.3"]),
    slots=st.integers(1, 3),
)
def test_no_history_overcommits_or_leaves_anything(
    make_world: Any, steps: list[Any], memory_scale: str, cores_scale: str, slots: int
) -> None:
    world = make_world()
    world.configure(memory_scale=Decimal(memory_scale), cores_scale=Decimal(cores_scale), slots=slots)
    files = Dying()
    preparer = world.preparer(files)
    refs = {name: world.claim(name) for name in NAMES}
    answers: dict[str, Any] = {}
    for action, name, detail in steps:
        ref = refs[name]
        if action == "allocate":
            world.claim(name, *detail)
        elif action == "delete":
            world.cluster.claims.pop(("ns", name), None)
        elif action == "unprepare":
            preparer.unprepare(ref)
            answers.pop(name, None)
        else:
            files.left = detail if action == "crash" else -1
            try:
                devices = preparer.prepare(ref).devices
            except KeyboardInterrupt:
                preparer = world.preparer(files)
            except FracgpuError:
                pass
            else:
                # As long as a claim stays prepared its ids stay the same.
                assert answers.setdefault(name, devices) == devices
            files.left = -1
        check(world, answers)
    for ref in refs.values():
        preparer.unprepare(ref)
    assert world.residue() == []
    assert not CheckpointStore(world.options.state_dir / "checkpoint.json", Files()).load().entries


def check(world: Any, answers: dict[str, Any]) -> None:
    entries = CheckpointStore(world.options.state_dir / "checkpoint.json", Files()).load().entries
    for gpu in world.inventory.gpus:
        records = [record for entry in entries.values() for record in entry.allocations if record.gpu_uuid == gpu.uuid]
        assert sum(record.memory_bytes for record in records) <= gpu.scaled_memory_bytes(world.options.memory_scale)
        assert sum(record.cores for record in records) <= scaled_cores(world.options.cores_scale)
        assert sum(record.slots for record in records) <= world.options.slots
    prepared = {entry.name: entry for entry in entries.values() if entry.state is EntryState.PREPARED}
    assert set(prepared) == set(answers)
    for entry in prepared.values():
        assert f'"{entry.allocations[0].allocation_id}"'.encode() in world.spec(world_ref(entry))
        for record in entry.allocations:
            directory = world.options.run_dir / "allocations" / record.allocation_id
            assert sorted(path.name for path in directory.iterdir()) == ["config", "state"]
    known = {record.allocation_id for entry in entries.values() for record in entry.allocations}
    allocations = world.options.run_dir / "allocations"
    assert {path.name for path in allocations.iterdir()} <= known if allocations.exists() else True


def world_ref(entry: Any) -> Any:
    return ClaimRef(entry.namespace, entry.name, entry.claim_uid)
