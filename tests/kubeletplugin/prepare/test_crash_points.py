"""Every effect on the disk has a kill point directly before it; without one no crash test would stop there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted([*(ROOT / "kubeletplugin").rglob("*.py"), *(ROOT / "cdi").rglob("*.py")])
EFFECTS = {
    "fsync",
    "fdatasync",
    "rename",
    "renames",
    "mkdir",
    "makedirs",
    "unlink",
    "remove",
    "rmdir",
    "removedirs",
    "rmtree",
    "symlink_to",
    "hardlink_to",
    "symlink",
    "link",
    "touch",
    "write_bytes",
    "write_text",
    "chmod",
    "fchmod",
    "ftruncate",
    "truncate",
    "pwrite",
    "utime",
    "mkfifo",
    "mknod",
}
# `remove` is also a method of lists and of our own classes, whose insides are looked at where they stand.
NOT_OF_A_MODULE = {"remove", "link", "truncate"}
MODULES = {"os", "shutil"}


def is_effect(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "open" and opens_for_writing(call.args[1:2])
    if not isinstance(function, ast.Attribute):
        return False
    of_module = isinstance(function.value, ast.Name) and function.value.id in MODULES
    name = function.attr
    if name == "open":
        return creates(call) if of_module else opens_for_writing(call.args[:1])
    if name == "replace":
        # Path.replace(target); str.replace takes two, datetime.replace names its arguments.
        return of_module or (len(call.args) == 1 and not call.keywords)
    return name in EFFECTS and (of_module or name not in NOT_OF_A_MODULE)


def creates(call: ast.Call) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "O_CREAT" for node in ast.walk(call))


def opens_for_writing(mode: list[ast.expr]) -> bool:
    return bool(mode) and isinstance(mode[0], ast.Constant) and bool(set("wax+") & set(str(mode[0].value)))


def blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                yield block


def own_calls(statement: ast.stmt) -> Iterator[ast.Call]:
    """The calls of a statement, those of statements inside it excepted."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call):
            yield node
        pending.extend(
            child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt | ast.excepthandler)
        )


def is_kill_point(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Name)
        and statement.value.func.id == "kill_point"
    )


def unguarded(source: str) -> list[str]:
    """Return the effects in `source` that no kill point stands directly before."""
    found: list[str] = []
    for block in blocks(ast.parse(source)):
        before: ast.stmt | None = None
        for statement in block:
            if before is None or not is_kill_point(before):
                effects = (call for call in own_calls(statement) if is_effect(call))
                found.extend(f"{call.lineno}: {ast.unparse(call)}" for call in effects)
            before = statement
    return found


def count_effects(source: str) -> int:
    return sum(isinstance(node, ast.Call) and is_effect(node) for node in ast.walk(ast.parse(source)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_effect_has_a_kill_point_before_it(path: Path) -> None:
    assert unguarded(path.read_text()) == []


def test_there_are_effects_to_look_at() -> None:
    assert sum(count_effects(path.read_text()) for path in SOURCES) >= 20


PLANTED = [
    "os.fsync(1)",
    "path.rename(other)",
    "os.replace(a, b)",
    "path.replace(other)",
    "directory.mkdir(parents=True)",
    "path.parent.joinpath('x').unlink()",
    "if path.unlink():\n    pass",
    "for _ in range(2):\n    path.rmdir()",
    "shutil.rmtree(path)",
    "descriptor = os.open(path, os.O_RDWR | os.O_CREAT)",
    "with open(path, 'wb') as file:\n    pass",
    "with path.open('a') as file:\n    pass",
    "kill_point('x')\nother()\npath.unlink()",
    "try:\n    kill_point('x')\nfinally:\n    path.unlink()",
    "kill_point('x')\nif True:\n    path.unlink()",
]


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_effect_is_found(source: str) -> None:
    assert len(unguarded(source)) == 1


HARMLESS = [
    "kill_point('x')\nos.fsync(1)",
    "if there:\n    kill_point('x')\n    path.unlink()",
    "text.replace('a', 'b')",
    "replace(entry, state=1)",
    "when.replace(tzinfo=UTC)",
    "os.open(path, os.O_RDONLY)",
    "path.open('rb')",
    "files.remove(path)",
]


@pytest.mark.parametrize("source", HARMLESS)
def test_what_is_no_effect_or_has_its_kill_point_passes(source: str) -> None:
    assert unguarded(source) == []
