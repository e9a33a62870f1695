"""A key changes with every input, and with nothing else."""

from pathlib import Path

import pytest

from tests.cluster.build.key import Inputs


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_text("one")
    (root / "sub" / "b").write_text("two")
    return root


def key_of(root: Path) -> str:
    return Inputs().files(root, [path for path in root.rglob("*") if path.is_file()]).key()


def test_the_same_inputs_give_the_same_key(tree: Path, tmp_path: Path) -> None:
    first = key_of(tree)
    moved = tree.rename(tmp_path / "elsewhere")
    assert key_of(moved) == first


@pytest.mark.parametrize("change", ["content", "name", "mode", "more"])
def test_a_tree_that_differs_has_another_key(tree: Path, change: str) -> None:
    first = key_of(tree)
    if change == "content":
        (tree / "a").write_text("One")
    elif change == "name":
        (tree / "a").rename(tree / "c")
    elif change == "mode":
        (tree / "a").chmod(0o755)
    else:
        (tree / "sub" / "c").touch()
    assert key_of(tree) != first


def test_inputs_do_not_run_together() -> None:
    lists = [
        Inputs().text("a", "bc"),
        Inputs().text("ab", "c"),
        Inputs().text("a", "b").text("", "c"),
        Inputs().text("a", "b").text("c", ""),
        Inputs().text("a", "b1:c"),
        Inputs().text("a", "x").text("b", "y"),
        Inputs().text("a", "x1:b:y"),
        Inputs(),
    ]
    assert len({inputs.key() for inputs in lists}) == len(lists)


def test_the_name_of_a_file_counts_but_not_its_directory(tree: Path) -> None:
    (tree / "sub" / "a").write_text("one")
    (tree / "other").write_text("one")
    key = Inputs().file(tree / "a").key()
    assert Inputs().file(tree / "sub" / "a").key() == key
    assert Inputs().file(tree / "other").key() != key
