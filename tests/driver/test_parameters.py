import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.parameters import canonical_json

CANONICAL = st.recursive(
    st.text() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def test_sorted_compact_utf8_with_the_escapes_of_go() -> None:
    value = {"b": [1, True, "é"], "a": {"z": "<&>\u2028", "y": "x\ty"}}
    assert canonical_json(value) == '{"a":{"y":"x\\ty","z":"\\u003c\\u0026\\u003e\\u2028"},"b":[1,true,"é"]}'.encode()


@given(CANONICAL)
def test_says_the_same_value_and_is_stable(value: object) -> None:
    encoded = canonical_json(value)
    assert json.loads(encoded) == value
    assert canonical_json(json.loads(encoded)) == encoded


@pytest.mark.parametrize(
    ("value", "where"),
    [({"a": 1.5}, r"\$\.a"), ({"a": [None]}, r"\$\.a\[0\]"), ({1: "a"}, "key 1"), (b"x", "bytes"), ({"a": {2}}, "set")],
    ids=["float", "null", "integer-key", "bytes", "set"],
)
def test_refuses_what_has_no_canonical_form(value: object, where: str) -> None:
    with pytest.raises(ConfigInvalid, match=where):
        canonical_json(value)


def test_refuses_lone_surrogates() -> None:
    with pytest.raises(ConfigInvalid, match="UTF-8"):
        canonical_json("\ud800")
