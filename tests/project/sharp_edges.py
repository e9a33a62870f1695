"""The table of docs/dev/sharp-edges.md as data: which tests show that an edge does not cut us."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "dev" / "sharp-edges.md"
_ROW: Final = re.compile(r"^\| *(\d+) *\| *(.*?) *\| *(.*?) *\|$", re.MULTILINE)
_TEST: Final = re.compile(r"`([^`]+\.py(?:::\w+)+)`")
# What `make e2e` runs; tests/scenarios runs in the fast tier too, but it is the real cluster that counts.
_REAL: Final = ("tests/cluster/scenarios/", "tests/scenarios/")


@dataclass(frozen=True, slots=True)
class Edge:
    """One row. `tests` are ids without parameters; a row that has none is a sentence."""

    number: int
    trap: str
    tests: tuple[str, ...]
    text: str

    @property
    def real_tests(self) -> tuple[str, ...]:
        """Those that the real cluster has to pass."""
        return tuple(test for test in self.tests if test.startswith(_REAL))


def edges(page: str) -> list[Edge]:
    """Read the table of a page; anything between backquotes that looks like a test's id is one."""
    return [Edge(int(number), trap, tuple(_TEST.findall(proof)), proof) for number, trap, proof in _ROW.findall(page)]


def real_tests(page: str) -> set[str]:
    """Return the tests of the page that the real cluster has to pass."""
    return {test for edge in edges(page) for test in edge.real_tests}


def missing_tests(tests: set[str], root: Path = ROOT) -> set[str]:
    """Return the ids that name no test function, or test method, of a file below `root`."""
    missing = set()
    for test in tests:
        path, *names = test.split("::")
        if not (root / path).is_file() or not _is_test(ast.parse((root / path).read_text()), names):
            missing.add(test)
    return missing


def _is_test(scope: ast.Module | ast.ClassDef, names: list[str]) -> bool:
    first, *rest = names
    for node in scope.body:
        if isinstance(node, ast.ClassDef) and node.name == first and rest:
            return _is_test(node, rest)
        if isinstance(node, ast.FunctionDef) and node.name == first and not rest:
            return first.startswith("test_")
    return False
