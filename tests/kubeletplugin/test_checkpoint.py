import json
import re
from pathlib import Path
from typing import Any

import pytest

from fracgpu.kubeletplugin import checkpoint as module
from fracgpu.kubeletplugin.checkpoint import AllocationRecord, Checkpoint, CheckpointStore, ClaimEntry, EntryState
from fracgpu.kubeletplugin.errors import CheckpointInvalid
from fracgpu.kubeletplugin.files import Files

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
        document["checksum"] = module._checksum(document["claims"])
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
        "field state: Input should be 'preparing' or 'prepared'",
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
