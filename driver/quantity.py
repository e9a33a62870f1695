"""Kubernetes quantities, exactly.

A limit that is off by a rounding error is a limit that two parts disagree about, so everything here is integer or
Decimal; no float is accepted or produced. Grammar: k8s.io/apimachinery/pkg/api/resource (Quantity).
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from typing import Final

from fracgpu.driver.errors import QuantityInvalid

MIB: Final = 1024 * 1024

_BINARY: Final = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_MULTIPLIER: Final[dict[str, Decimal]] = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(_BINARY, start=1)},
}
_PATTERN: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:[eE](?P<exponent>[+-]?[0-9]{1,3})|(?P<suffix>[numkMGTPE]|[KMGTPE]i)?)"
)
# The API server answers numbers beyond these with a silently different value (capped, or rounded up to a billionth);
# we refuse them instead, because the user would not get what was written.
_LARGEST: Final = Decimal(2**63 - 1)
_FINEST: Final = Decimal("1e-9")
_LONGEST_TEXT: Final = 64
# A text of the allowed length times the largest multiplier (19 digits) has fewer digits than this: no step rounds.
_EXACT: Final = Context(prec=2 * _LONGEST_TEXT)


def parse_quantity(value: str | int) -> Decimal:
    """Return the exact value of a Kubernetes Quantity, e.g. `8Gi`, `1500m`, `1e3`, 42.

    Raises QuantityInvalid for anything that is not a Quantity, is finer than one billionth, or exceeds 2^63-1.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise _invalid(value, "is not a quantity")
    text = str(value)
    match = _PATTERN.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if match is None:
        raise _invalid(value, "is not a quantity")
    number = Decimal(match["number"])
    scale = Decimal(f"1e{match['exponent']}") if match["exponent"] else _MULTIPLIER[match["suffix"] or ""]
    exact = _EXACT.multiply(number, scale)
    if exact.copy_abs() > _LARGEST:
        raise _invalid(value, "is larger than 2^63-1")
    if _EXACT.remainder(exact, _FINEST) != 0:
        raise _invalid(value, "is finer than one billionth")
    return exact


def quantity_int(value: str | int, *, unit: str) -> int:
    """Return a quantity that must be a whole, non-negative number of `unit` (a plural noun for the error text).

    Raises QuantityInvalid.
    """
    exact = parse_quantity(value)
    if exact < 0:
        raise _invalid(value, f"is negative, not a number of {unit}")
    whole = int(exact)
    if whole != exact:
        raise _invalid(value, f"is not a whole number of {unit}")
    return whole


def quantity_bytes(value: str | int) -> int:
    """Return a memory quantity in bytes. Raises QuantityInvalid if it is negative or not whole bytes."""
    return quantity_int(value, unit="bytes")


def format_bytes(count: int) -> str:
    """Return the canonical binary Quantity of a non-negative byte count: `8Gi`, `3000Mi`, `1000`, `0`."""
    if isinstance(count, bool) or count < 0:
        raise _invalid(count, "is not a byte count")
    power = 0
    while count and count % 1024 == 0 and power < len(_BINARY):
        count //= 1024
        power += 1
    return f"{count}{_BINARY[power - 1] if power else ''}"


def format_mib(count: int) -> str:
    """Return a byte count in MiB, rounded down, whatever its size (`8192Mi`): one unit makes messages comparable."""
    return f"{count // MIB}Mi"


def floor_mib(count: int) -> int:
    """Return `count` bytes rounded down to a multiple of one MiB (in bytes)."""
    return count // MIB * MIB


def ceil_mib(count: int) -> int:
    """Return `count` bytes rounded up to a multiple of one MiB (in bytes): the step of the memory capacity."""
    return -(-count // MIB) * MIB


def _invalid(value: object, what: str) -> QuantityInvalid:
    return QuantityInvalid(f"quantity {value!r:.80}", what, remedy="write it like 8Gi, 3000Mi, 500m or 1e9")
