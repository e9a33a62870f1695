from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.quantity import (
    MIB,
    ceil_mib,
    floor_mib,
    format_bytes,
    format_mib,
    parse_quantity,
    quantity_bytes,
    quantity_int,
)

BINARY = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


@pytest.mark.parametrize(("suffix", "power"), DECIMAL.items(), ids=lambda v: str(v) or "none")
def test_decimal_suffixes(suffix: str, power: int) -> None:
    assert parse_quantity(f"3{suffix}") == Decimal(3).scaleb(power)


@pytest.mark.parametrize("power", range(1, 7), ids=BINARY)
def test_binary_suffixes(power: int) -> None:
    assert parse_quantity(f"3{BINARY[power - 1]}") == 3 * 1024**power


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5Gi", "1610612736"),
        (".5", "0.5"),
        ("5.", "5"),
        ("+7", "7"),
        ("-7m", "-0.007"),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("1E", "1000000000000000000"),
        ("12e-1", "1.2"),
        ("0.000000001", "0.000000001"),
        ("1.000000001Gi", "1073741825.073741824"),
        ("9223372036854775807", "9223372036854775807"),
        ("0e999", "0"),
    ],
)
def test_values_are_exact(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "8 Gi", "8gi", "8GB", "8K", "8mi", "1e", "1e+", "0x10", "1,5", "١", "8Gi\n", "NaN", "inf", "1e9999"),
        *("--1", ".", "1" * 65, "1e3Mi"),
    ],
)
def test_refuses_what_is_no_quantity(text: str) -> None:
    with pytest.raises(QuantityInvalid, match="is not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["0.1n", "1e-10", "1.5n", "1e-999"])
def test_refuses_finer_than_a_billionth(text: str) -> None:
    with pytest.raises(QuantityInvalid, match="billionth"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["8Ei", "9223372036854775808", "-9223372036854775808", "1e999"])
def test_refuses_what_the_api_would_cap(text: str) -> None:
    with pytest.raises(QuantityInvalid, match="larger"):
        parse_quantity(text)


@pytest.mark.parametrize("value", [True, 1.0, None, b"1", Decimal(1)])
def test_refuses_other_types(value: object) -> None:
    with pytest.raises(QuantityInvalid):
        parse_quantity(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "what"), [("-1", "negative"), ("500m", "whole number of bytes"), ("1.5", "whole number of bytes")]
)
def test_bytes_must_be_whole_and_not_negative(text: str, what: str) -> None:
    with pytest.raises(QuantityInvalid, match=what):
        quantity_bytes(text)


def test_whole_milli_values_are_whole() -> None:
    assert quantity_int("30000m", unit="percent") == 30
    assert quantity_bytes(8589934592) == 8 * 1024**3


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1, "1"), (1000, "1000"), (1024, "1Ki"), (3000 * MIB, "3000Mi"), (8 * 1024**3, "8Gi"), (2**62, "4Ei")],
)
def test_format_is_canonical(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_format_refuses_negative_counts() -> None:
    with pytest.raises(QuantityInvalid):
        format_bytes(-1)


def test_format_mib_keeps_one_unit() -> None:
    assert (format_mib(8 * 1024**3), format_mib(MIB - 1)) == ("8192Mi", "0Mi")


@given(st.integers(0, 2**63 - 1))
def test_bytes_round_trip_exactly(count: int) -> None:
    assert quantity_bytes(format_bytes(count)) == count


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
@example(1, 1)
def test_decimals_round_trip_exactly(whole: int, billionths: int) -> None:
    text = f"{whole}.{billionths:09d}"
    assert parse_quantity(text) * 10**9 == whole * 10**9 + billionths


@given(st.text(alphabet="0123456789.eE+-KMGTPEkmnuix ", max_size=12))
def test_never_fails_but_with_its_own_error(text: str) -> None:
    try:
        value = parse_quantity(text)
    except QuantityInvalid:
        return
    assert abs(value) <= 2**63 - 1


@given(st.integers(0, 2**50))
def test_mib_rounding_brackets_the_count(count: int) -> None:
    low, high = floor_mib(count), ceil_mib(count)
    assert low <= count <= high
    assert low % MIB == high % MIB == 0
    assert high - low == (0 if count % MIB == 0 else MIB)
