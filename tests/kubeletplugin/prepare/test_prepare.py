"""Prepare and Unprepare on a real disk, with the API server in memory."""

import errno
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fracgpu.cdi.writer import Sync
from fracgpu.kubeletplugin.errors import CheckpointInvalid, ClaimChanged, ClaimInvalid
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore, EntryState
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.native.config_change import change_config_page
from fracgpu.native.config_page import ConfigPage, decode_config_page, encode_config_page
from fracgpu.native.state_file import read_state_file

GIB = 1024**3
UUID_0 = "GPU-11111111-1111-1111-1111-111111111111"


def entries(world: Any) -> dict[str, Any]:
    return dict(CheckpointStore(world.options.state_dir / "checkpoint.json", Files()).load().entries)


def page(world: Any, ref: ClaimRef, suffix: str = "gpu-gpu-11111111-0") -> ConfigPage:
    return decode_config_page((world.allocation(ref, suffix) / "config").read_bytes())


def test_a_prepared_claim_has_its_files_and_the_kubelet_its_ids(world: Any) -> None:
    ref = world.claim()
    (device,) = world.preparer().prepare(ref).devices
    identifier = f"{ref.uid}-gpu-gpu-11111111-0"
    assert (device.request_names, device.pool, device.device, device.share_id) == (("gpu",), "n1", "gpu-11111111", None)
    assert device.cdi_device_ids == (f"gpu.fracgpu.dev/claim={identifier}",)
    assert page(world, ref) == ConfigPage(
        allocation_id=identifier, device_uuid=UUID_0, memory_limit_bytes=8 * GIB, cores_percent=30
    )
    state = world.allocation(ref) / "state"
    assert read_state_file(state).device_uuid == UUID_0
    assert state.stat().st_mode & 0o777 == 0o666
    assert (world.allocation(ref) / "config").stat().st_mode & 0o777 == 0o644
    assert world.allocation(ref).stat().st_mode & 0o777 == 0o711
    assert [device["name"] for device in json.loads(world.spec(ref))["devices"]] == [identifier]
    entry = entries(world)[ref.uid]
    assert (entry.state, entry.namespace, entry.name) == (EntryState.PREPARED, "ns", "c1")


def test_preparing_again_changes_nothing_down_to_the_inode(world: Any) -> None:
    ref = world.claim()
    preparer = world.preparer()
    first = preparer.prepare(ref)
    paths = [world.allocation(ref) / "config", world.allocation(ref) / "state"]
    paths += [*world.options.cdi_dir.iterdir(), world.options.state_dir / "checkpoint.json"]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    assert preparer.prepare(ref) == first
    assert world.preparer().prepare(ref) == first
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in paths} == before


def test_after_a_reboot_everything_volatile_is_made_again_with_the_same_bytes(world: Any) -> None:
    ref = world.claim()
    devices = world.preparer().prepare(ref)
    spec = world.spec(ref)
    shutil.rmtree(world.options.cdi_dir)
    shutil.rmtree(world.options.run_dir)
    assert world.preparer().prepare(ref) == devices
    assert world.spec(ref) == spec
    assert page(world, ref).memory_limit_bytes == 8 * GIB
    read_state_file(world.allocation(ref) / "state")


def test_a_config_page_in_use_keeps_its_generation_and_suspension(world: Any) -> None:
    ref = world.claim()
    world.preparer().prepare(ref)
    path = world.allocation(ref) / "config"
    path.write_bytes(encode_config_page(replace(page(world, ref), generation=8, suspend=True)))
    world.preparer().prepare(ref)
    assert (page(world, ref).generation, page(world, ref).suspend) == (8, True)


def test_limits_that_were_lowered_on_the_node_stay_lowered(world: Any) -> None:
    """They need no memory that the GPU may have given to others, and are no sign of another claim."""
    ref = world.claim()
    devices = world.preparer().prepare(ref)
    path = world.allocation(ref) / "config"
    inode = path.stat().st_ino
    changed = change_config_page(path, lambda now: replace(now, memory_limit_bytes=GIB, cores_percent=1))
    assert world.preparer().prepare(ref) == devices
    assert (page(world, ref), path.stat().st_ino) == (changed, inode)


def test_page_whose_change_was_cut_off_is_made_good_in_place(world: Any) -> None:
    """A new file would be another one than the containers have."""
    ref = world.claim()
    world.preparer().prepare(ref)
    path = world.allocation(ref) / "config"
    inode, before = path.stat().st_ino, page(world, ref)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), (before.generation + 1).to_bytes(8, "little"), 16)
    world.preparer().prepare(ref)
    assert page(world, ref) == replace(before, generation=before.generation + 2)
    assert path.stat().st_ino == inode


@pytest.mark.parametrize(("name", "opener"), [("config", "io.open"), ("state", "os.open")], ids=["config", "state"])
def test_a_page_or_state_file_that_can_not_be_read_now_is_not_taken_for_broken(
    world: Any, monkeypatch: pytest.MonkeyPatch, name: str, opener: str
) -> None:
    """Containers hold the inode: a new file beside a valid one would start the account again from nothing."""
    ref = world.claim()
    preparer = world.preparer()
    preparer.prepare(ref)
    path = world.allocation(ref) / name
    inode = path.stat().st_ino
    module = {"io.open": io, "os.open": os}[opener]
    original = module.open
    failed: list[Any] = []

    def exhausted(file: Any, *arguments: Any, **options: Any) -> Any:
        if not failed and str(file) == str(path):
            failed.append(file)
            raise OSError(errno.EMFILE, "Too many open files", str(file))
        return original(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "open", exhausted)
        with pytest.raises(OSError, match="Too many open files"):
            preparer.prepare(ref)
    assert failed
    preparer.prepare(ref)
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("name", ["config", "state"])
@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"junk"], ids=["empty", "zeros", "junk"])
def test_a_broken_page_or_state_file_is_made_anew(world: Any, name: str, content: bytes) -> None:
    ref = world.claim()
    world.preparer().prepare(ref)
    good = (world.allocation(ref) / name).read_bytes()
    (world.allocation(ref) / name).write_bytes(content)
    world.preparer().prepare(ref)
    assert (world.allocation(ref) / name).read_bytes() == good


def test_a_page_with_other_limits_is_never_overwritten(world: Any) -> None:
    ref = world.claim()
    world.preparer().prepare(ref)
    (world.options.state_dir / "checkpoint.json").unlink()
    path = world.allocation(ref) / "config"
    path.write_bytes(encode_config_page(replace(page(world, ref), memory_limit_bytes=30 * GIB)))
    kept = world.residue()
    with pytest.raises(ClaimChanged, match="has a config page with other limits on this node; delete the pods"):
        world.preparer().prepare(ref)
    assert page(world, ref).memory_limit_bytes == 30 * GIB
    assert world.residue() == kept
    assert entries(world) == {}


def test_unprepare_needs_neither_claim_nor_gpu_nor_driver(world: Any) -> None:
    ref = world.claim()
    world.preparer().prepare(ref)
    world.cluster.claims.clear()
    world.inventory.gpus = ()
    shutil.rmtree(world.options.driver_root)
    assert world.preparer().unprepare(ref).known
    assert world.residue() == []
    assert entries(world) == {}


def test_unprepare_twice_and_of_an_unknown_claim_is_success(world: Any) -> None:
    ref = world.claim()
    preparer = world.preparer()
    assert not preparer.unprepare(ref).known
    preparer.prepare(ref)
    assert preparer.unprepare(ref).known
    assert not preparer.unprepare(ref).known


def test_unprepare_leaves_other_claims_alone(world: Any) -> None:
    preparer = world.preparer()
    first, second = world.claim("c1"), world.claim("c2")
    preparer.prepare(first)
    preparer.prepare(second)
    spec = world.spec(second)
    preparer.unprepare(first)
    assert world.spec(second) == spec
    assert set(entries(world)) == {second.uid}
    assert all(second.uid in path for path in world.residue())


def test_a_later_plugin_keeps_the_interceptor_that_the_claim_was_prepared_with(world: Any) -> None:
    ref = world.claim()
    world.preparer().prepare(ref)
    spec = world.spec(ref)
    world.libraries[0].write_bytes(b"a newer shim")
    newer = world.preparer()
    newer.prepare(ref)
    assert world.spec(ref) == spec
    other = world.claim("c2")
    newer.prepare(other)
    assert entries(world)[ref.uid].library_digest != entries(world)[other.uid].library_digest
    assert entries(world)[other.uid].library_digest.encode() in world.spec(other)


def test_a_claim_whose_interceptor_is_gone_gets_the_present_one(world: Any) -> None:
    ref = world.claim()
    world.preparer().prepare(ref)
    former = entries(world)[ref.uid].library_digest
    shutil.rmtree(world.options.state_dir / "lib" / former)
    world.libraries[0].write_bytes(b"a newer shim")
    world.preparer().prepare(ref)
    present = entries(world)[ref.uid].library_digest
    assert present != former
    assert former.encode() not in world.spec(ref)


def test_a_claim_that_was_recreated_under_its_name_is_refused(world: Any) -> None:
    old = world.claim(uid="00000000-0000-0000-0000-00000000000a")
    world.claim(uid="00000000-0000-0000-0000-00000000000b")
    with pytest.raises(ClaimInvalid, match=r"has UID 00000000-.*b, the kubelet asked for 00000000-.*a; it was deleted"):
        world.preparer().prepare(old)
    assert world.residue() == []


def test_a_claim_that_is_gone_is_refused(world: Any) -> None:
    ref = world.claim()
    world.cluster.claims.clear()
    with pytest.raises(ClaimInvalid, match="claim ns/c1: does not exist; delete the pod"):
        world.preparer().prepare(ref)


def test_another_allocation_of_a_prepared_claim_is_refused_and_nothing_changes(world: Any) -> None:
    ref = world.claim()
    world.preparer().prepare(ref)
    before = world.residue(), world.spec(ref), entries(world)
    world.claim("c1", {"device": "gpu-22222222"})
    with pytest.raises(ClaimChanged, match="claim ns/c1: is prepared on this node with another allocation"):
        world.preparer().prepare(ref)
    assert (world.residue(), world.spec(ref), entries(world)) == before


def test_another_allocation_of_a_claim_that_never_got_prepared_replaces_it(world: Any) -> None:
    ref = world.claim()
    world.preparer().prepare(ref)
    store = CheckpointStore(world.options.state_dir / "checkpoint.json", Files())
    store.save(store.load().with_entry(replace(entries(world)[ref.uid], state=EntryState.PREPARING)))
    world.claim("c1", {"device": "gpu-22222222", "memory": GIB})
    world.preparer().prepare(ref)
    assert page(world, ref, "gpu-gpu-22222222-0").memory_limit_bytes == GIB
    assert not world.allocation(ref).exists()
    assert [record.device for record in entries(world)[ref.uid].allocations] == ["gpu-22222222"]


def test_other_amounts_at_the_same_id_of_a_claim_that_never_got_prepared_replace_the_page(world: Any) -> None:
    ref = world.claim()
    world.preparer().prepare(ref)
    store = CheckpointStore(world.options.state_dir / "checkpoint.json", Files())
    store.save(store.load().with_entry(replace(entries(world)[ref.uid], state=EntryState.PREPARING)))
    world.claim("c1", {"memory": GIB})
    world.preparer().prepare(ref)
    assert page(world, ref).memory_limit_bytes == GIB


def test_a_broken_checkpoint_stops_everything_and_stays(world: Any) -> None:
    ref = world.claim()
    preparer = world.preparer()
    preparer.prepare(ref)
    path: Path = world.options.state_dir / "checkpoint.json"
    path.write_bytes(path.read_bytes()[:-20])
    broken, kept = path.read_bytes(), world.residue()
    for call in (preparer.prepare, preparer.unprepare, lambda _: world.preparer()):
        with pytest.raises(CheckpointInvalid, match=f"checkpoint {path}: is cut short or no JSON; drain this node"):
            call(ref)
    assert (path.read_bytes(), world.residue()) == (broken, kept)


def test_a_cdi_directory_that_can_not_be_made_leaves_nothing_behind(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    world.options.cdi_dir.touch()
    with pytest.raises(OSError, match="exists"):
        preparer.prepare(ref)
    assert world.residue() == []
    assert entries(world) == {}
    assert not preparer.unprepare(ref).known


class Failing(Files):
    """Fails at the n-th change of the disk, as a full file system does, or dies there, as a killed process does."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.left = at
        self.error = error

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error

    def make_directory(self, path: Path, *, durable: bool = False) -> None:
        self._step()
        super().make_directory(path, durable=durable)

    def write(self, path: Path, content: bytes, *, mode: int, sync: Sync = Sync.NOTHING) -> bool:
        self._step()
        return super().write(path, content, mode=mode, sync=sync)

    def write_spec(self, path: Path, spec: Any) -> bool:
        self._step()
        return super().write_spec(path, spec)

    def remove(self, path: Path) -> bool:
        self._step()
        return super().remove(path)

    def remove_directory(self, path: Path) -> bool:
        self._step()
        return super().remove_directory(path)


# Large enough that counting a claim twice shows.
TWO = (
    {"request": "a", "memory": 30 * GIB, "cores": 60},
    {"request": "b", "device": "gpu-22222222", "memory": 30 * GIB, "cores": 60},
)
# checkpoint, 2 x (directory, page, state), spec, checkpoint
PREPARE_STEPS = 9
# spec, 2 directories, checkpoint
UNPREPARE_STEPS = 4


def failing(world: Any, at: int, error: BaseException) -> Any:
    files = Failing(-1, error)
    preparer = world.preparer(files)
    files.left = at
    return preparer


@pytest.mark.parametrize("at", range(1, PREPARE_STEPS + 1))
def test_a_step_that_fails_leaves_nothing_of_a_new_claim(world: Any, at: int) -> None:
    ref = world.claim("c1", *TWO)
    with pytest.raises(OSError, match="No space left"):
        failing(world, at, OSError(28, "No space left on device")).prepare(ref)
    assert world.residue() == []
    assert entries(world) == {}
    world.preparer().prepare(ref)


@pytest.mark.parametrize("at", range(1, PREPARE_STEPS + 1))
@pytest.mark.parametrize("then", ["prepare", "unprepare"])
def test_a_plugin_killed_while_preparing_is_recovered_from(world: Any, at: int, then: str) -> None:
    ref = world.claim("c1", *TWO)
    with pytest.raises(KeyboardInterrupt):
        failing(world, at, KeyboardInterrupt()).prepare(ref)
    # Named before its first file exists, confirmed only when the last one does.
    assert [entry.state for entry in entries(world).values()] == ([EntryState.PREPARING] if at > 1 else [])
    assert bool(list(world.residue())) == (at > 2)
    assert (world.options.cdi_dir.exists() and bool(list(world.options.cdi_dir.iterdir()))) == (at == PREPARE_STEPS)
    if then == "prepare":
        world.preparer().prepare(ref)
        assert entries(world)[ref.uid].state is EntryState.PREPARED
        assert len(json.loads(world.spec(ref))["devices"]) == 2
    world.preparer().unprepare(ref)
    assert world.residue() == []
    assert entries(world) == {}


@pytest.mark.parametrize("at", range(1, UNPREPARE_STEPS + 1))
def test_a_plugin_killed_while_taking_back_is_recovered_from(world: Any, at: int) -> None:
    ref = world.claim("c1", *TWO)
    world.preparer().prepare(ref)
    with pytest.raises(KeyboardInterrupt):
        failing(world, at, KeyboardInterrupt()).unprepare(ref)
    assert world.preparer().unprepare(ref).known
    assert world.residue() == []
    assert entries(world) == {}


def test_the_steps_above_are_all_there_are(world: Any) -> None:
    ref = world.claim("c1", *TWO)
    failing(world, PREPARE_STEPS + 1, KeyboardInterrupt()).prepare(ref)
    failing(world, UNPREPARE_STEPS + 1, KeyboardInterrupt()).unprepare(ref)
