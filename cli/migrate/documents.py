"""YAML documents that keep their layout.

A document that nothing is changed in is written as it was read, byte by byte. In one that is changed, everything but
comments and indentation stays: order, quotes, block texts, numbers as they were spelled. So edits are made in YAML's
own tree of nodes and not in the values that it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from fracgpu.cli.migrate.sources import ManifestUnreadable, Source
from fracgpu.controller.convert.edits import Edit, Json, Path, Remove

_SEPARATOR: Final = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_MERGE: Final = "tag:yaml.org,2002:merge"
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"
_ENDLESS: Final = 1 << 30
_MOST_LEVELS: Final = 100
_TEMPLATE: Final = "{{"
_RENDER_FIRST: Final = "it looks like a template: give what comes out of it, as `helm template` prints it"
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(yaml.composer.Composer, _Base):  # type: ignore[misc]
    """YAML as Kubernetes reads it: times are texts.

    Nodes are put together in Python: the C library does it by recursion, and a file of brackets ends the process.
    """

    def __init__(self, stream: str) -> None:
        _Base.__init__(self, stream)
        yaml.composer.Composer.__init__(self)
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node. Raises ComposerError for one that is too deep inside others."""
        self._level += 1
        if self._level > _MOST_LEVELS:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply", mark)
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
            return node
        finally:
            self._level -= 1


class _Dumper(yaml.SafeDumper):
    """Spells as it was read."""


_RESOLVERS: Final = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_implicit_resolvers = _RESOLVERS
_Dumper.yaml_implicit_resolvers = _RESOLVERS


@dataclass(frozen=True, slots=True)
class Document:
    """One document: `text` as it was written, from `line` (from 1) of its source on; no `node` if it is empty."""

    source: str
    line: int
    text: str
    node: yaml.Node | None

    def value(self) -> Any:
        """Return what the document says. Raises ManifestUnreadable."""
        if self.node is None:
            return None
        try:
            return yaml.constructor.SafeConstructor().construct_document(self.node)
        except (yaml.YAMLError, ValueError) as error:
            raise _unreadable(self, error) from error

    @property
    def title(self) -> str:
        """What to call the document in a message about all of it."""
        value = self.value()
        meta = value.get("metadata") if isinstance(value, dict) else None
        name = meta.get("name") if isinstance(meta, dict) else None
        return f"{value.get('kind')} {name}" if name else "this document"

    @property
    def has_comments(self) -> bool:
        """Whether there are comments, which a changed document loses."""
        end = 0
        for token in yaml.scan(self.text, Loader=_Loader):
            if "#" in self.text[end : token.start_mark.index]:
                return True
            end = token.end_mark.index
        return "#" in self.text[end:]

    def edited(self, edits: Sequence[Edit], path: Path = ()) -> Document:
        """Return the document with the edits made, in order, at `path` of it. There must be a node."""
        node = self.node
        for edit in edits:
            node = _edited(node, (*path, *edit.path), edit)
        return Document(self.source, self.line, self.text, node)

    def rendered(self) -> str:
        """Return the document's nodes as YAML."""
        text = yaml.serialize(self.node, Dumper=_Dumper, width=_ENDLESS, allow_unicode=True)
        return str(text)


def documents_of(source: Source) -> Iterator[Document]:
    """Yield the documents of a text. Raises ManifestUnreadable, naming file and line."""
    starts = [match.end() for match in _SEPARATOR.finditer(source.text)]
    ends = [match.start() for match in _SEPARATOR.finditer(source.text)]
    for start, end in zip([0, *starts], [*ends, len(source.text)], strict=True):
        text = source.text[start:end]
        line = source.text.count("\n", 0, start) + 1
        document = Document(source.name, line, text, None)
        if text.strip():
            yield Document(source.name, line, text, _compose(document))


def represent(value: Json) -> str:
    """Return an object as YAML, in the order of its keys."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=_ENDLESS, allow_unicode=True))


def _compose(document: Document) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(document.text, Loader=_Loader)
        if node is not None:
            _Flattening(document).flatten(node)
    except yaml.YAMLError as error:
        raise _unreadable(document, error) from error
    return node


def _unreadable(document: Document, error: Exception) -> ManifestUnreadable:
    mark = getattr(error, "problem_mark", None)
    line = document.line + (mark.line if mark is not None else 0)
    what = f"is not YAML that Kubernetes takes: {getattr(error, 'problem', None) or error}"
    remedy = _RENDER_FIRST if _TEMPLATE in document.text else "correct the syntax"
    return ManifestUnreadable(f"{document.source}:{line}", what, remedy=remedy)


class _Flattening:
    """Writes out merge keys (`<<`) and refuses keys that are given twice, once for every mapping."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._seen: set[int] = set()

    def flatten(self, node: yaml.Node) -> None:
        if id(node) in self._seen or isinstance(node, yaml.ScalarNode):
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.flatten(item)
            return
        own = [(key, value) for key, value in node.value if key.tag != _MERGE]
        keys: set[str] = set()
        for key, value in own:
            self.flatten(value)
            text = str(key.value)
            if text in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{text!r:.80} is given twice", key.start_mark)
            keys.add(text)
        merged = [pair for key, value in node.value if key.tag == _MERGE for pair in self._merged(value)]
        for key, value in merged:
            if str(key.value) not in keys:
                keys.add(str(key.value))
                own.append((key, value))
        node.value = own

    def _merged(self, node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(None, None, "<< names no object", source.start_mark)
            self.flatten(source)
            pairs += source.value
        return pairs


def _edited(node: Any, path: Path, edit: Edit) -> yaml.Node:
    """Return a copy of a node with the change made below it. What an alias also names elsewhere stays as it is."""
    step, rest = path[0], path[1:]
    items = list(node.value)
    if isinstance(node, yaml.SequenceNode):
        position = int(step)
        items[position : position + 1] = [_edited(items[position], rest, edit)] if rest else []
        return _copy(node, items)
    position = next((index for index, (key, _) in enumerate(items) if key.value == step), len(items))
    old = items[position : position + 1]
    if rest:
        new = [(key, _edited(value, rest, edit)) for key, value in old]
    elif isinstance(edit, Remove):
        new = []
    else:
        key, before = old[0] if old else (_node_of(step), None)
        new = [(key, _with_item(before, edit.value))]
    items[position : position + 1] = new
    return _copy(node, items)


def _with_item(before: yaml.Node | None, value: Json) -> yaml.Node:
    if isinstance(before, yaml.SequenceNode):
        return _copy(before, [*before.value, _node_of(value)])
    return _node_of([value])


def _copy(node: Any, items: list[Any]) -> yaml.Node:
    copied: yaml.Node = type(node)(node.tag, items, node.start_mark, node.end_mark, flow_style=node.flow_style)
    return copied


def _node_of(value: Any) -> yaml.Node:
    representer = yaml.representer.SafeRepresenter(default_flow_style=False, sort_keys=False)
    node: yaml.Node = representer.represent_data(value)
    return node
