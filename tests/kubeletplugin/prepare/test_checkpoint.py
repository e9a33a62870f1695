import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fracgpu.kubeletplugin.errors import CheckpointInvalid
from fracgpu.kubeletplugin.prepare.checkpoint import (
    AllocationRecord,
    Checkpoint,
    CheckpointStore,
    ClaimEntry,
    EntryState,
)
from fracgpu.kubeletplugin.prepare.files import Files
from tests.kubeletplugin.prepare import checkpoint_v1

RECORD = AllocationRecord(
    allocation_id="u1-gpu-gpu-11111111-0",
    index=0,
    request="gpu",
    pool="n1",
    device="gpu-11111111",
    gpu_uuid="GPU-11111111-1111-1111-1111-111111111111",
    share_id=None,
    memory_bytes=1 << 33,
    cores=30,
    slots=1,
    limited=True,
    admin=False,
)


def entry(uid: str = "u1", state: EntryState = EntryState.PREPARED) -> ClaimEntry:
    return ClaimEntry(
        claim_uid=uid, namespace="ns", name="c1", state=state, library_digest="abc", allocations=(RECORD,)
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoint.json", Files())


def test_an_absent_file_is_an_empty_checkpoint(store: CheckpointStore) -> None:
    assert store.load() == Checkpoint()


def test_what_is_saved_is_loaded(store: CheckpointStore) -> None:
    saved = Checkpoint().with_entry(entry()).with_entry(entry("u2", EntryState.PREPARING))
    store.save(saved)
    assert store.load() == saved
    assert store.path.stat().st_mode & 0o777 == 0o600
    store.save(store.load().without("u1"))
    assert list(store.load().entries) == ["u2"]


def test_the_file_does_not_depend_on_the_order_of_claims(store: CheckpointStore) -> None:
    store.save(Checkpoint().with_entry(entry("b")).with_entry(entry("a")))
    first = store.path.read_bytes()
    store.save(Checkpoint().with_entry(entry("a")).with_entry(entry("b")))
    assert store.path.read_bytes() == first


def test_fields_of_a_later_version_of_the_same_format_are_ignored(store: CheckpointStore) -> None:
    store.save(Checkpoint().with_entry(entry()))
    alter(store.path, lambda document: document["claims"][0].update(boot_id="x"), valid_checksum=True)
    assert store.load() == Checkpoint().with_entry(entry())


def alter(path: Path, change: Any, *, valid_checksum: bool = False) -> None:
    document = json.loads(path.read_text())
    change(document)
    if valid_checksum:
        document["checksum"] = checkpoint_v1.checksum(document["claims"])
    path.write_text(json.dumps(document))


DAMAGE = [
    ("empty", lambda path: path.write_bytes(b""), "is cut short or no JSON"),
    ("truncated", lambda path: path.write_bytes(path.read_bytes()[:100]), "is cut short or no JSON"),
    ("binary", lambda path: path.write_bytes(b"\xff\xfe\0"), "is cut short or no JSON"),
    ("list", lambda path: path.write_text("[]"), "states no version"),
    ("no-version", lambda path: alter(path, lambda d: d.pop("version")), "states no version"),
    ("text-version", lambda path: alter(path, lambda d: d.update(version="1")), "states no version"),
    ("no-claims", lambda path: alter(path, lambda d: d.pop("claims")), "has version 1 and no claims of that version"),
    ("version-0", lambda path: alter(path, lambda d: d.update(version=0)), "has version 0 and no claims of that"),
    ("no-checksum", lambda path: alter(path, lambda d: d.pop("checksum")), "does not match its checksum"),
    ("altered", lambda path: alter(path, lambda d: d["claims"][0].update(name="x")), "does not match its checksum"),
    (
        "field-gone",
        lambda path: alter(path, lambda d: d["claims"][0].pop("state"), valid_checksum=True),
        "field state: Field required",
    ),
    (
        "wrong-type",
        lambda path: alter(path, lambda d: d["claims"][0]["allocations"][0].update(cores="30"), valid_checksum=True),
        "field allocations.0.cores: Input should be a valid integer",
    ),
    (
        "wrong-state",
        lambda path: alter(path, lambda d: d["claims"][0].update(state="lost"), valid_checksum=True),
        "field state: Input should be 'preparing', 'prepared' or 'releasing'",
    ),
    ("directory", lambda path: (path.unlink(), path.mkdir()), "can not be read: Is a directory"),
]


@pytest.mark.parametrize(("damage", "text"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_a_damaged_file_is_named_with_what_to_do_and_left_alone(store: CheckpointStore, damage: Any, text: str) -> None:
    store.save(Checkpoint().with_entry(entry()))
    damage(store.path)
    damaged = store.path.read_bytes() if store.path.is_file() else None
    expected = f"checkpoint {store.path}: {text}"
    with pytest.raises(CheckpointInvalid, match=re.escape(expected) + ".*; drain this node, move the file away"):
        store.load()
    assert (store.path.read_bytes() if store.path.is_file() else None) == damaged


def test_a_newer_format_says_who_can_read_it(store: CheckpointStore) -> None:
    store.save(Checkpoint())
    alter(store.path, lambda document: document.update(version=2))
    with pytest.raises(CheckpointInvalid, match="has version 2, this plugin reads up to 1; run the newer fracgpu"):
        store.load()


RELEASING = Checkpoint().with_entry(entry()).with_entry(entry("u2", EntryState.RELEASING))


def test_a_claim_being_released_is_loaded_as_saved(store: CheckpointStore) -> None:
    store.save(RELEASING)
    assert store.load() == RELEASING


def test_the_former_version_reads_what_this_one_writes(store: CheckpointStore) -> None:
    """After an update is taken back: a claim being released counts, and may be taken back or prepared again."""
    store.save(RELEASING)
    former = checkpoint_v1.read(store.path)
    assert {uid: one.state for uid, one in former.items()} == {"u1": "prepared", "u2": "preparing"}
    assert [asdict(one) for one in former["u2"].allocations] == [asdict(RECORD)]


def test_this_version_reads_what_the_former_one_made_of_it(store: CheckpointStore) -> None:
    store.save(RELEASING)
    checkpoint_v1.write(store.path, checkpoint_v1.read(store.path))
    assert store.load() == Checkpoint().with_entry(entry()).with_entry(entry("u2", EntryState.PREPARING))


def test_this_version_reads_a_file_that_the_former_one_wrote(store: CheckpointStore) -> None:
    store.path.write_bytes((Path(__file__).parent / "checkpoint_v1.json").read_bytes())
    read = store.load().entries
    assert {uid: one.state for uid, one in read.items()} == {"u1": EntryState.PREPARED, "u2": EntryState.PREPARING}
    assert read["u1"].allocations == (RECORD,)
    assert (read["u2"].allocations[0].share_id, read["u2"].allocations[0].admin) == (
        "3f3b2c1a-0000-4000-8000-000000000001",
        True,
    )
    # And writes the same again, as long as nothing is new, whatever the white space.
    store.save(store.load())
    assert json.loads(store.path.read_bytes()) == json.loads(
        (Path(__file__).parent / "checkpoint_v1.json").read_bytes()
    )


def test_a_file_that_another_plugin_changed_is_read_again(store: CheckpointStore) -> None:
    store.save(Checkpoint().with_entry(entry()))
    assert set(store.load().entries) == {"u1"}
    CheckpointStore(store.path, Files()).save(RELEASING)
    assert set(store.load().entries) == {"u1", "u2"}
    store.path.write_bytes(store.path.read_bytes()[:-20])
    with pytest.raises(CheckpointInvalid, match="cut short"):
        store.load()
    store.path.unlink()
    assert store.load() == Checkpoint()


@pytest.mark.parametrize("value", [False, None, "true", 1])
def test_only_a_plain_true_says_that_a_claim_is_being_released(store: CheckpointStore, value: Any) -> None:
    store.save(Checkpoint().with_entry(entry("u1", EntryState.PREPARING)))
    alter(store.path, lambda document: document["claims"][0].update(releasing=value), valid_checksum=True)
    assert store.load().entries["u1"].state is EntryState.PREPARING


def test_a_wrong_entry_costs_no_other_one(store: CheckpointStore) -> None:
    """The whole file is refused and stays: nothing is written over what can not be understood."""
    store.save(RELEASING)
    alter(store.path, lambda document: document["claims"][1].update(allocations="none"), valid_checksum=True)
    before = store.path.read_bytes()
    with pytest.raises(CheckpointInvalid, match="field allocations"):
        store.load()
    assert store.path.read_bytes() == before


def test_no_power_cut_finds_half_a_checkpoint_or_brings_a_released_claim_back(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is forced to disk, and when: content before each rename, and an Unprepare's name before its answer."""
    state = world.options.state_dir
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def forced(descriptor: int) -> None:
        fsync(descriptor)
        done.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink()}")

    def renamed(path: Path, target: Path) -> Path:
        done.append(f"rename {target}")
        return rename(path, target)

    ref, preparer = world.claim(), world.preparer()
    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(Path, "rename", renamed)
    content, name, directory = (
        f"fsync {state}/.checkpoint.json.tmp",
        f"rename {state}/checkpoint.json",
        f"fsync {state}",
    )

    def of_the_checkpoint(call: Any) -> list[str]:
        done.clear()
        call(ref)
        return [effect for effect in done if effect in (content, name, directory)]

    assert of_the_checkpoint(preparer.prepare) == [content, name, content, name]
    assert of_the_checkpoint(preparer.unprepare) == [content, name, directory]
