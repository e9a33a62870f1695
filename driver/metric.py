"""What a metric of ours is, for the catalogues of the components."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: `kind` is counter, gauge or histogram, `unit` in UCUM, `labels` those that each of its series has."""

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    description: str


def catalogue(names: Mapping[str, object]) -> tuple[Metric, ...]:
    """Return the metrics among a module's names (its `globals()`), in the order of the file."""
    return tuple(value for value in names.values() if isinstance(value, Metric))
