"""What `kubectl describe` prints of an object that it has no describer for, such as a ResourceClaim.

For the bundle: people who get it may have no cluster to ask. Same order, labels and indentation as kubectl's generic
describer (k8s.io/kubectl/pkg/describe, 1.36); columns are aligned over consecutive lines, as its tabwriter does. `make
e2e` gives the same objects to both and compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from fracgpu.sim.lab.kubectl_age import human_duration
from fracgpu.sim.node.api import Json

_ACRONYMS: Final = ("API", "URL", "UID", "OSB", "GUID")
# Runs of upper case, capitalised words, words in lower case: as camel case is read.
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z]+")
_HEAD: Final = ("name", "namespace", "labels", "annotations", "managedFields")
_PADDING: Final = 2
_EVENT_COLUMNS: Final = ("Type", "Reason", "Age", "From", "Message")
_EVENT_RULES: Final = ("----", "------", "----", "----", "-------")
# What `kubectl apply` keeps for itself, and `kubectl describe` from its reader.
_HIDDEN_ANNOTATION: Final = "kubectl.kubernetes.io/last-applied-configuration"


def describe(obj: Json, events: Iterable[Json] = (), *, now: datetime | None = None) -> str:
    """Return the description of an object; `events` are those of its namespace, `now` is what their age refers to."""
    meta = obj["metadata"]
    rows: list[str] = [f"Name:\t{meta['name']}", f"Namespace:\t{meta.get('namespace', '')}"]
    rows += _pairs("Labels", meta.get("labels") or {}, "=")
    annotations = {key: text for key, text in (meta.get("annotations") or {}).items() if key != _HIDDEN_ANNOTATION}
    rows += _pairs("Annotations", annotations, ": ")
    shown = {**obj, "metadata": {key: value for key, value in meta.items() if key not in _HEAD}}
    rows += _content(shown, 0)
    own = [event for event in events if event.get("involvedObject", {}).get("uid") == meta.get("uid")]
    rows += _events(own, now or datetime.now(UTC))
    return _aligned(rows)


def _pairs(title: str, pairs: dict[str, str], separator: str) -> list[str]:
    texts = [f"{key}{separator}{pairs[key]}" for key in sorted(pairs)] or ["<none>"]
    return [f"{title}:\t{texts[0]}", *(f"\t{text}" for text in texts[1:])]


def _content(tree: Json, level: int) -> Iterator[str]:
    indent = "  " * level
    for key in sorted(tree):
        value, label = tree[key], _label(key)
        if isinstance(value, dict):
            yield f"{indent}{label}:"
            yield from _content(value, level + 1)
        elif isinstance(value, list):
            yield f"{indent}{label}:"
            for item in value:
                if isinstance(item, dict):
                    yield from _content(item, level + 1)
                else:
                    yield f"{indent}  {_scalar(item)}"
        else:
            yield f"{indent}{label}:\t{_scalar(value)}"


def _scalar(value: object) -> str:
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _label(key: str) -> str:
    if not all(character.isalpha() or character == "-" for character in key):
        return key
    words = _WORDS.findall(key)
    return " ".join(word.upper() if word.upper() in _ACRONYMS else word[0].upper() + word[1:] for word in words)


def _events(events: Sequence[Json], now: datetime) -> list[str]:
    if not events:
        return ["Events:\t<none>"]
    rows = [_EVENT_COLUMNS, _EVENT_RULES]
    for event in sorted(events, key=lambda one: str(one.get("lastTimestamp") or "")):
        source = (event.get("source") or {}).get("component") or event.get("reportingComponent") or ""
        message = str(event.get("message") or "").strip()
        rows.append((event.get("type") or "", event.get("reason") or "", _ages(event, now), source, message))
    return ["Events:", *("  " + "\t".join(row) for row in rows)]


def _ages(event: Json, now: datetime) -> str:
    """Return how long ago it happened; of what happened often, how long ago the last and the first time."""
    first, series = _age(event.get("eventTime") or event.get("firstTimestamp"), now), event.get("series")
    if series:
        return f"{_age(series.get('lastObservedTime'), now)} (x{series['count']} over {first})"
    if event.get("count", 1) > 1:
        return f"{_age(event.get('lastTimestamp'), now)} (x{event['count']} over {first})"
    return first


def _age(text: str | None, now: datetime) -> str:
    return human_duration(now - datetime.fromisoformat(text)) if text else "<unknown>"


def _aligned(rows: Sequence[str]) -> str:
    """Pad the cells of each column over the consecutive rows that have it, as a tabwriter does."""
    table = [row.split("\t") for row in rows]
    _align(table, 0, len(table), 0)
    return "".join("".join(cells).rstrip() + "\n" for cells in table)


def _align(table: list[list[str]], start: int, end: int, column: int) -> None:
    at = start
    while at < end:
        if len(table[at]) <= column + 1:
            at += 1
            continue
        last = at
        while last < end and len(table[last]) > column + 1:
            last += 1
        width = max(len(table[row][column]) for row in range(at, last)) + _PADDING
        for row in range(at, last):
            table[row][column] = table[row][column].ljust(width)
        _align(table, at, last, column + 1)
        at = last
