"""docs/dev/sharp-edges.md: every edge has tests that exist, but for a few that have a reason."""

from pathlib import Path

import pytest

from tests.project.sharp_edges import PAGE, Edge, edges, missing_tests, real_tests

EDGES = 38
SENTENCES = 5
TABLE = edges(PAGE.read_text())
METHODS = """\
def test_one(): ...
def helper(): ...
class TestMore:
    def test_two(self): ...
"""


def test_all_edges_are_there_once_and_in_order() -> None:
    assert [edge.number for edge in TABLE] == list(range(1, EDGES + 1))


@pytest.mark.parametrize("edge", TABLE, ids=lambda edge: str(edge.number))
def test_every_named_test_exists(edge: Edge) -> None:
    assert missing_tests(set(edge.tests)) == set()


def test_nothing_that_looks_like_a_test_is_passed_over() -> None:
    for edge in TABLE:
        assert edge.text.count(".py::") == len(edge.tests), edge


def test_few_edges_are_sentences_and_each_says_why() -> None:
    sentences = [edge for edge in TABLE if not edge.tests]
    assert len(sentences) <= SENTENCES
    for edge in sentences:
        assert len(edge.text) > 40, edge


def test_every_trap_is_told() -> None:
    assert all(len(edge.trap) > 20 for edge in TABLE)


def test_a_table_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "tests" / "scenarios").mkdir(parents=True)
    (tmp_path / "tests" / "scenarios" / "test_a.py").write_text(METHODS)
    page = (
        "| # | trap | proof |\n|---|---|---|\n"
        "| 1 | falls | `tests/scenarios/test_a.py::test_one`, `tests/scenarios/test_a.py::helper` |\n"
        "| 2 | cuts | `tests/cli/test_b.py::test_two` |\n"
        "| 3 | burns | Nobody has fire here. |\n"
        "| 4 | bites | `tests/scenarios/test_a.py::TestMore::test_two` `tests/scenarios/test_a.py::TestMore` |\n"
    )
    table = edges(page)
    assert [(edge.number, edge.trap, len(edge.tests)) for edge in table] == [
        (1, "falls", 2),
        (2, "cuts", 1),
        (3, "burns", 0),
        (4, "bites", 2),
    ]
    here = "tests/scenarios/test_a.py"
    good = {f"{here}::test_one", f"{here}::TestMore::test_two"}
    wrong = {f"{here}::helper", f"{here}::TestMore"}
    assert real_tests(page) == good | wrong
    named = {test for edge in table for test in edge.tests}
    assert missing_tests(named, tmp_path) == wrong | {"tests/cli/test_b.py::test_two"}
