"""The patch formats by themselves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.sim.api.errors import ApiError
from fracgpu.sim.api.patch import apply_patch, json_patch, merge
from fracgpu.sim.api.strategic import strategic_merge

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        # The examples of RFC 7386, appendix A.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result


@given(JSON_VALUES, JSON_VALUES)
def test_merge_patch_is_idempotent(target: Any, patch: Any) -> None:
    once = merge(target, patch)
    assert merge(once, patch) == once


@pytest.mark.parametrize(
    ("operations", "result"),
    [
        ([{"op": "add", "path": "/l/1", "value": 9}], {"l": [1, 9, 2], "o": {"a/b": 1}}),
        ([{"op": "add", "path": "/l/-", "value": 9}], {"l": [1, 2, 9], "o": {"a/b": 1}}),
        ([{"op": "remove", "path": "/o/a~1b"}], {"l": [1, 2], "o": {}}),
        ([{"op": "replace", "path": "/l/0", "value": {"x": 1}}], {"l": [{"x": 1}, 2], "o": {"a/b": 1}}),
        ([{"op": "move", "from": "/l/0", "path": "/m"}], {"l": [2], "o": {"a/b": 1}, "m": 1}),
        ([{"op": "copy", "from": "/o", "path": "/p"}], {"l": [1, 2], "o": {"a/b": 1}, "p": {"a/b": 1}}),
        ([{"op": "test", "path": "/l/1", "value": 2}], {"l": [1, 2], "o": {"a/b": 1}}),
    ],
)
def test_json_patch(operations: Any, result: Any) -> None:
    document = {"l": [1, 2], "o": {"a/b": 1}}
    assert json_patch(document, operations) == result
    assert document == {"l": [1, 2], "o": {"a/b": 1}}


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ({"op": "add"}, 400),
        ([{"op": "add", "path": "/a"}], 400),
        ([{"op": "grow", "path": "/a", "value": 1}], 400),
        ([{"op": "add", "path": "a", "value": 1}], 400),
        ([{"op": "remove", "path": "/missing"}], 422),
        ([{"op": "replace", "path": "/missing", "value": 1}], 422),
        ([{"op": "add", "path": "/l/7", "value": 1}], 422),
        ([{"op": "add", "path": "/l/0/x", "value": 1}], 422),
        ([{"op": "test", "path": "/l", "value": []}], 422),
    ],
)
def test_json_patch_refuses(operations: Any, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        json_patch({"l": [1]}, operations)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        ({"conditions": [{"type": "B", "x": 2}]}, {"conditions": [{"type": "A", "x": 1}, {"type": "B", "x": 2}]}),
        ({"conditions": [{"type": "A", "y": 2}]}, {"conditions": [{"type": "A", "x": 1, "y": 2}]}),
        ({"conditions": [{"type": "A", "$patch": "delete"}]}, {"conditions": []}),
        ({"conditions": [{"$patch": "replace"}, {"type": "C"}]}, {"conditions": [{"type": "C"}]}),
        ({"args": ["z"]}, {"conditions": [{"type": "A", "x": 1}], "args": ["z"]}),
        ({"conditions": None}, {}),
        ({"$patch": "replace", "a": 1}, {"a": 1}),
        ({"finalizers": ["f"]}, {"conditions": [{"type": "A", "x": 1}], "finalizers": ["f"]}),
    ],
)
def test_strategic_merge(patch: Any, result: Any) -> None:
    assert strategic_merge({"conditions": [{"type": "A", "x": 1}]}, patch) == result


def test_strategic_merge_of_plain_lists_with_a_key() -> None:
    target = {"finalizers": ["a", "b"]}
    assert strategic_merge(target, {"finalizers": ["b", "c"]}) == {"finalizers": ["b", "c", "a"]}
    assert strategic_merge(target, {"$deleteFromPrimitiveList/finalizers": ["a"]}) == {"finalizers": ["b"]}


def test_strategic_merge_refuses_what_it_cannot_merge() -> None:
    with pytest.raises(ApiError, match="merge key: type"):
        strategic_merge({"conditions": [{"type": "A"}]}, {"conditions": [{"status": "True"}]})
    with pytest.raises(ApiError, match="Unknown patch type"):
        strategic_merge({}, {"$patch": "grow"})


def test_patch_type_decides_and_unknown_ones_are_refused() -> None:
    with pytest.raises(ApiError) as caught:
        apply_patch("application/apply-patch+yaml", {}, {})
    assert caught.value.code == 415
