"""Canonical form of quantities, as the API server answers them.

A driver that compares what it wrote with what it reads must normalise; an emulator that returned the text unchanged
would hide that. Rules: k8s.io/apimachinery/pkg/api/resource, CanonicalizeBytes.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

from fracgpu.driver.quantity import parse_quantity

_BINARY_SUFFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL_SUFFIXES = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}


def canonical_quantity(value: str | int) -> str:
    """Return the quantity in canonical form: `8192Mi` -> `8Gi`, `1000` -> `1k`, `0.5` -> `500m`.

    Raises QuantityInvalid of fracgpu.driver.
    """
    exact = parse_quantity(value)
    text = str(value)
    if re.search(r"[KMGTPE]i$", text) and abs(exact) >= 1024:
        return _binary(exact)
    if re.search(r"[eE][+-]?\d+$", text):
        return _exponent(exact)
    return _decimal(exact)


def _binary(exact: Decimal) -> str:
    number = int(exact.to_integral_value(rounding=ROUND_CEILING))
    power = 0
    while number and number % 1024 == 0 and power < len(_BINARY_SUFFIXES) - 1:
        number //= 1024
        power += 1
    return f"{number}{_BINARY_SUFFIXES[power]}"


def _factors_of_thousand(exact: Decimal) -> tuple[int, int]:
    number, exponent = int(exact * 10**9), -9
    while number and number % 1000 == 0 and exponent < 18:
        number //= 1000
        exponent += 3
    return (number, exponent) if number else (0, 0)


def _decimal(exact: Decimal) -> str:
    number, exponent = _factors_of_thousand(exact)
    return f"{number}{_DECIMAL_SUFFIXES[exponent]}"


def _exponent(exact: Decimal) -> str:
    number, exponent = _factors_of_thousand(exact)
    return f"{number}e{exponent}" if exponent else str(number)
