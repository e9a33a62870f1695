"""Changes of an object as data, so that whoever holds it in another form (YAML with its layout) can make them too."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Path = tuple[str | int, ...]
"""Keys of objects and positions in lists, from the root."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Take out a member of an object or an item of a list."""

    path: Path


@dataclass(frozen=True, slots=True)
class Append:
    """Put an item at the end of the list at `path`, which is made if it is not there; its parent is there."""

    path: Path
    value: Json


Edit = Remove | Append


def apply_edits(obj: Json, edits: Iterable[Edit]) -> Json:
    """Return a changed copy. Edits are made one after the other: a later path is one of the object as it is then."""
    changed = copy.deepcopy(obj)
    for edit in edits:
        parent: Any = changed
        for step in edit.path[:-1]:
            parent = parent[step]
        last = edit.path[-1]
        if isinstance(edit, Remove):
            del parent[last]
        else:
            # A key without a value says the same as no key.
            parent[last] = [*(parent.get(last) or []), copy.deepcopy(edit.value)]
    return changed
