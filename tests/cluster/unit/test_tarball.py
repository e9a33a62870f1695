"""The same tree gives the same bytes, whenever and by whomever it was made."""

import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.build.tarball import write_tar


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "dir" / "inner").mkdir(parents=True)
    (root / "dir" / "file").write_text("content")
    (root / "dir" / "program").write_text("#!")
    (root / "dir" / "program").chmod(0o700)
    (root / "link").symlink_to("dir")
    (root / "broken").symlink_to("nowhere")
    os.link(root / "dir" / "file", root / "same")
    (root / "ä").touch()
    return root


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def entries(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return {entry.name: entry for entry in tar}


def test_times_do_not_count(tree: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "one", tree)
    for path in tree.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    write_tar(tmp_path / "two", tree)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_everything_is_in_it_in_order(tree: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "tar", tree)
    assert list(entries(tmp_path / "tar")) == [
        *("broken", "dir", "link", "same", "ä"),
        *("dir/file", "dir/inner", "dir/program"),
    ]
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "tar", "-C", tmp_path / "out"], check=True)
    assert (tmp_path / "out" / "dir" / "file").read_text() == "content"
    assert (tmp_path / "out" / "same").samefile(tmp_path / "out" / "dir" / "file")
    assert [str((tmp_path / "out" / name).readlink()) for name in ("link", "broken")] == ["dir", "nowhere"]


def test_excluded_directories_stay_out_with_all_they_hold(tree: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def excluded(path: str) -> bool:
        asked.append(path)
        return path in {"dir", "same"}

    write_tar(tmp_path / "tar", tree, excluded=excluded)
    assert list(entries(tmp_path / "tar")) == ["broken", "link", "ä"]
    assert not [path for path in asked if path.startswith("dir/")]


def test_plain_entries_are_roots_and_readable(umask: None, tree: Path, tmp_path: Path) -> None:
    """A layer's directories replace those below it, so a builder's umask must not close /usr."""
    (tree / "secret").mkdir()
    (tree / "secret" / "file").touch()
    write_tar(tmp_path / "tar", tree, plain=True)
    found = entries(tmp_path / "tar")
    assert {(entry.uid, entry.gid, entry.uname, entry.gname) for entry in found.values()} == {(0, 0, "", "")}
    modes = {name: oct(found[name].mode) for name in ("secret", "secret/file", "dir/program")}
    assert modes == {"secret": "0o755", "secret/file": "0o644", "dir/program": "0o755"}


def test_otherwise_permissions_are_kept(tree: Path, tmp_path: Path) -> None:
    (tree / "dir").chmod(0o1777)
    write_tar(tmp_path / "tar", tree)
    found = entries(tmp_path / "tar")
    assert (oct(found["dir"].mode), found["dir"].uid) == ("0o1777", os.getuid())
