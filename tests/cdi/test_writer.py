import errno
import os
from pathlib import Path

import pytest

from fracgpu.cdi import writer
from fracgpu.cdi.errors import CdiSpecInvalid
from fracgpu.cdi.spec import CdiDevice, CdiSpec, ContainerEdits


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def spec(value: str = "1") -> CdiSpec:
    edits = ContainerEdits(env=(f"A={value}",))
    return CdiSpec(vendor="v", device_class="c", devices=(CdiDevice(name="d", edits=edits),))


def test_file_name_holds_vendor_class_and_uid() -> None:
    name = writer.spec_file_name(vendor="gpu.fracgpu.dev", device_class="claim", claim_uid="0a-b")
    assert name == "gpu.fracgpu.dev-claim_0a-b.json"


@pytest.mark.parametrize("uid", ["", "../x", "a/b", ".hidden"])
def test_a_uid_that_could_leave_the_directory_is_refused(uid: str) -> None:
    with pytest.raises(CdiSpecInvalid, match="can not be part of a file name"):
        writer.spec_file_name(vendor="v", device_class="c", claim_uid=uid)


def test_a_written_spec_is_complete_readable_and_alone(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "cdi"
    assert writer.write_spec(directory, "s.json", spec())
    assert (directory / "s.json").read_bytes() == spec().to_json()
    assert (directory / "s.json").stat().st_mode & 0o7777 == 0o644
    assert names(directory) == ["s.json"]


def test_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    former = os.umask(0o077)
    try:
        writer.write_spec(tmp_path, "s.json", spec())
    finally:
        os.umask(former)
    assert (tmp_path / "s.json").stat().st_mode & 0o7777 == 0o644


def test_identical_content_is_not_written_again(tmp_path: Path) -> None:
    writer.write_spec(tmp_path, "s.json", spec())
    before = (tmp_path / "s.json").stat()
    assert not writer.write_spec(tmp_path, "s.json", spec())
    after = (tmp_path / "s.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("damage", ["content", "truncated", "mode", "removed"])
def test_what_differs_is_written(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.json"
    writer.write_spec(tmp_path, "s.json", spec())
    if damage == "content":
        path.write_bytes(spec("2").to_json())
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:10])
    elif damage == "mode":
        path.chmod(0o600)
    else:
        path.unlink()
    assert writer.write_spec(tmp_path, "s.json", spec())
    assert path.read_bytes() == spec().to_json()
    assert path.stat().st_mode & 0o7777 == 0o644


def test_an_invalid_spec_leaves_nothing_not_even_the_directory(tmp_path: Path) -> None:
    with pytest.raises(CdiSpecInvalid):
        writer.write_spec(tmp_path / "cdi", "s.json", CdiSpec(vendor="v", device_class="c", devices=()))
    assert not (tmp_path / "cdi").exists()


def test_a_reader_only_ever_meets_whole_files_under_the_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.write_spec(tmp_path, "s.json", spec())
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        # What a reader sees at the moment when the new content is forced to disk.
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append(name)
        visible = [entry for entry in names(tmp_path) if entry.endswith(".json")]
        assert visible == ["s.json"]
        if name.startswith("."):
            assert (tmp_path / "s.json").read_bytes() == spec("2" if len(synced) > 1 else "1").to_json()

    monkeypatch.setattr(os, "fsync", fsync)
    writer.write_atomic(tmp_path / "s.json", spec("2").to_json(), mode=0o644, sync=writer.Sync.NAME)
    assert synced == [".s.json.tmp", tmp_path.name]
    writer.write_atomic(tmp_path / "s.json", spec("3").to_json(), mode=0o644, sync=writer.Sync.CONTENT)
    assert synced[2:] == [".s.json.tmp"]
    writer.write_spec(tmp_path, "s.json", spec("4"))
    assert synced[3:] == []


def test_a_failing_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.write_spec(tmp_path, "s.json", spec())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        writer.write_atomic(tmp_path / "s.json", spec("2").to_json(), mode=0o644, sync=writer.Sync.NAME)
    assert names(tmp_path) == ["s.json"]
    assert (tmp_path / "s.json").read_bytes() == spec().to_json()


def test_the_temporary_of_a_killed_writer_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".s.json.tmp").write_bytes(b"half")
    writer.write_spec(tmp_path, "s.json", spec())
    assert names(tmp_path) == ["s.json"]


def test_a_link_in_place_of_the_temporary_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"keep")
    (tmp_path / ".s.json.tmp").symlink_to(victim)
    writer.write_spec(tmp_path, "s.json", spec())
    assert victim.read_bytes() == b"keep"


def test_removal_takes_what_a_killed_writer_left_along(tmp_path: Path) -> None:
    writer.write_spec(tmp_path, "s.json", spec())
    writer.temporary_path(tmp_path / "s.json").write_bytes(b"half")
    assert writer.remove_file(tmp_path / "s.json")
    assert names(tmp_path) == []
    writer.temporary_path(tmp_path / "s.json").write_bytes(b"half")
    assert not writer.remove_file(tmp_path / "s.json")
    assert names(tmp_path) == []


def test_removal_is_idempotent(tmp_path: Path) -> None:
    writer.write_spec(tmp_path, "s.json", spec())
    assert writer.remove_file(tmp_path / "s.json")
    assert not writer.remove_file(tmp_path / "s.json")
    assert not writer.remove_file(tmp_path / "never" / "was.json")


def test_removing_what_is_not_there_needs_no_right_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert not writer.remove_file(tmp_path / "file" / "s.json")

    def read_only(path: Path, **_: bool) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    # As unlink(2) does there, whether or not the file exists.
    monkeypatch.setattr(Path, "unlink", read_only)
    assert not writer.remove_file(tmp_path / "s.json")
    with pytest.raises(OSError, match="Read-only file system"):
        writer.remove_file(tmp_path / "file")
