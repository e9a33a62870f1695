"""Raw JSON and canonical quantities."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.quantity import parse_quantity
from fracgpu.sim.api.quantities import canonical_quantity
from fracgpu.sim.api.rawjson import RawJson, RawJsonError, dumps, loads, plain, seal

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(JSON_VALUES, st.sampled_from([None, 1]), st.booleans())
def test_parameters_keep_their_bytes_and_the_rest_its_value(value: Any, indent: int | None, ascii_only: bool) -> None:
    try:
        inner = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
        inner.encode()
    except UnicodeEncodeError:
        return
    head = '{"x": [1, {"opaque" : {"driver":"d", "parameters" :  '
    text = f'{head}{inner} }}}}], "parameters": {{"plain": true}}}}'
    tree = loads(text.encode())
    assert tree["x"][1]["opaque"]["parameters"] == RawJson(inner)
    assert tree["parameters"] == {"plain": True}
    assert plain(tree) == json.loads(text)
    assert json.loads(dumps(tree)) == json.loads(text)
    assert inner.encode() in dumps(tree, verbatim=True)
    assert loads(dumps(tree, verbatim=True)) == tree
    assert seal(plain(tree)).keys() == tree.keys()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"parameters"',
        b'{"parameters": }',
        b'{"parameters": 1 2}',
        b'{"parameters": 01}',
        b'{"parameters": "a}',
        b'{"parameters": [1,]}',
        b'{"parameters": {a:1}}',
        b'"parameters" x',
        b"\xff",
        b'{"parameters": ' + b"[" * 100_000,
    ],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(RawJsonError):
        loads(text)


def test_answer_escapes_as_go_does() -> None:
    raw = RawJson('{ "b": "a<b>&é  ",\n "a": 1.0 }')
    assert raw.compact().text == r'{"b":"a\u003cb\u003e\u0026é  ","a":1.0}'
    assert raw.canonical().text == r'{"a":1,"b":"a\u003cb\u003e\u0026é  "}'


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("8192Mi", "8Gi"),
        ("3000Mi", "3000Mi"),
        ("1024Ki", "1Mi"),
        ("0.5Gi", "512Mi"),
        ("1Ki", "1Ki"),
        ("0.5Ki", "512"),
        ("1000", "1k"),
        ("100", "100"),
        ("1500", "1500"),
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1e3", "1e3"),
        ("8G", "8G"),
        ("0", "0"),
        ("0Gi", "0"),
        (30, "30"),
    ],
)
def test_canonical_quantity(text: str | int, canonical: str) -> None:
    assert canonical_quantity(text) == canonical


@given(
    st.integers(0, 2**40).map(str)
    | st.builds("{}{}".format, st.integers(0, 2**20), st.sampled_from(["m", "k", "M", "G", "Ki", "Mi", "Gi", "e3"]))
)
def test_canonical_quantity_keeps_the_value_and_is_stable(text: str) -> None:
    canonical = canonical_quantity(text)
    assert parse_quantity(canonical) == parse_quantity(text)
    assert canonical_quantity(canonical) == canonical


def test_no_quantity() -> None:
    with pytest.raises(QuantityInvalid):
        canonical_quantity("8 Gi")
