"""Compares ResourceSlices by what they mean.

The API server rewrites quantities into its own form, adds defaults, and drops fields whose feature gate is off without
a word. Comparing objects literally would rewrite the slice for ever, which wakes every scheduler each time.
"""

from collections.abc import Mapping
from typing import Any, Final

from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.quantity import parse_quantity

_QUANTITIES: Final = frozenset({"value", "default", "min", "max", "step"})
# Filled in by the API server.
_DEFAULTED: Final = frozenset({"timeAdded"})


def same_slice(wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Whether the stored ResourceSlice means what `wanted` says, in spec and owner; the rest is the server's."""
    return _owners(wanted) == _owners(stored) and _normal(wanted.get("spec")) == _normal(stored.get("spec"))


def dropped_fields(wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the fields in the spec that were sent and are not in what the API server stored."""
    return tuple(sorted(_missing(_normal(wanted.get("spec")), _normal(stored.get("spec")))))


def _owners(item: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    owners = item.get("metadata", {}).get("ownerReferences") or []
    return [(owner.get("kind"), owner.get("uid")) for owner in owners]


def _normal(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        # An absent field and an empty one are the same to the API server.
        inner = {name: _normal(item, name) for name, item in value.items() if name not in _DEFAULTED}
        return {name: item for name, item in inner.items() if item not in (None, {}, [])}
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if key in _QUANTITIES and isinstance(value, (str, int)) and not isinstance(value, bool):
        try:
            return parse_quantity(value)
        except QuantityInvalid:
            return value
    return value


def _missing(wanted: Any, stored: Any) -> set[str]:
    if isinstance(wanted, Mapping) and isinstance(stored, Mapping):
        lost = {name for name in wanted if name not in stored}
        return lost.union(*(_missing(item, stored[name]) for name, item in wanted.items() if name in stored))
    if isinstance(wanted, list) and isinstance(stored, list):
        return set().union(*(_missing(one, other) for one, other in zip(wanted, stored, strict=False)))
    return set()
