"""What both are asked: the objects of one case as the API server stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Question:
    """The objects of one case as the API server stores them."""

    nodes: Sequence[Json]
    slices: Sequence[Json]
    holders: Sequence[Json]
    fillers: Sequence[Json]
    claims: Sequence[Json]
    pod: Json
    classes: Mapping[str, Json]
