"""JSON that keeps the bytes of opaque parameters.

Kubernetes stores `opaque.parameters` (runtime.RawExtension) as the bytes that the creator sent and compares those bytes
when it decides whether an immutable field changed; answering in JSON it compacts them. A client that decodes and
encodes can therefore lose the right to update an object that it did not change. To show that trap, this module reads
the value of every `parameters` member below an `opaque` member as text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[ \t\n\r]+', re.DOTALL)
_HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_HTML_CHARACTER = re.compile("[<>&\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class RawJson:
    """One JSON value as the text that a client sent. Equality is equality of text."""

    text: str

    def __deepcopy__(self, _memo: dict[int, Any]) -> RawJson:
        return self

    def value(self) -> Any:
        """Return the decoded value."""
        return json.loads(self.text)

    def compact(self) -> RawJson:
        """Return the same value as Go's encoder emits raw JSON: no white space, `<>&` escaped, order kept."""

        def shrink(match: re.Match[str]) -> str:
            token = match.group()
            return token if token[0] == '"' else ""

        return RawJson(_escape_html(_TOKEN.sub(shrink, self.text)))

    def canonical(self) -> RawJson:
        """Return the value re-encoded from a Go map: keys sorted, compact, whole floats as integers."""
        plain = json.dumps(_go_numbers(self.value()), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return RawJson(_escape_html(plain))


class RawJsonError(ValueError):
    """The text is not one JSON value."""


def loads(data: bytes) -> Any:
    """Decode UTF-8 JSON; values of `opaque.parameters` come back as RawJson.

    Raises RawJsonError naming the position.
    """
    try:
        text = data.decode("utf-8")
        if '"parameters"' not in text:
            return json.loads(text)
        return _Reader(text).document()
    except (ValueError, RecursionError) as error:
        raise RawJsonError(str(error)) from error


def dumps(value: Any, *, verbatim: bool = False) -> bytes:
    """Encode to UTF-8 JSON as the API server does: raw parameters compacted.

    With verbatim their text is kept as stored; that is what protobuf does on a real server.
    """
    raws: list[str] = []

    def hold(node: Any) -> str:
        if not isinstance(node, RawJson):
            raise TypeError(f"{type(node).__name__} is not JSON")
        raws.append(node.text if verbatim else node.compact().text)
        return f"\ue000{len(raws) - 1}\ue001"

    text = json.dumps(value, default=hold, separators=(",", ":"), ensure_ascii=False)
    if raws:
        text = re.sub('"\ue000(\\d+)\ue001"', lambda match: raws[int(match.group(1))], text)
    return text.encode("utf-8", "surrogatepass")


def plain(value: Any) -> Any:
    """Return the tree with every RawJson replaced by its decoded value (a copy)."""
    if isinstance(value, RawJson):
        return value.value()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def seal(value: Any, *, below: str = "") -> Any:
    """Return the tree with `opaque.parameters` as RawJson again, where a patch left decoded values there (a copy)."""
    if isinstance(value, dict):
        return {
            key: _sealed(item) if below == "opaque" and key == "parameters" else seal(item, below=key)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [seal(item) for item in value]
    return value


def _sealed(value: Any) -> RawJson:
    return value if isinstance(value, RawJson) else RawJson(dumps(value).decode())


def _escape_html(text: str) -> str:
    return _HTML_CHARACTER.sub(lambda match: _HTML[match.group()], text)


def _go_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, dict):
        return {key: _go_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_go_numbers(item) for item in value]
    return value


class _Reader:
    """Recursive descent over one document; the only reason for it is to know where a value begins and ends."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def document(self) -> Any:
        value = self._value(())
        self._skip()
        if self._at != len(self._text):
            raise RawJsonError(f"extra data at character {self._at}")
        return value

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        if match:
            self._at = match.end()

    def _value(self, path: tuple[str, ...]) -> Any:
        self._skip()
        start = self._at
        head = self._text[start : start + 1]
        if head == "{":
            value: Any = self._object(path)
        elif head == "[":
            value = self._array(path)
        elif head == '"':
            value = self._string()
        else:
            value = self._scalar()
        return RawJson(self._text[start : self._at]) if path == ("opaque", "parameters") else value

    def _scalar(self) -> Any:
        match = _SCALAR.match(self._text, self._at)
        if not match:
            raise RawJsonError(f"no JSON value at character {self._at}")
        self._at = match.end()
        return json.loads(match.group())

    def _string(self) -> str:
        match = _STRING.match(self._text, self._at)
        if not match:
            raise RawJsonError(f"no string at character {self._at}")
        self._at = match.end()
        return str(json.loads(match.group()))

    def _object(self, path: tuple[str, ...]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        self._at += 1
        if self._take("}"):
            return members
        while True:
            self._skip()
            key = self._string()
            self._expect(":")
            members[key] = self._value((*path[-1:], key))
            if self._take("}"):
                return members
            self._expect(",")

    def _array(self, path: tuple[str, ...]) -> list[Any]:
        items: list[Any] = []
        self._at += 1
        if self._take("]"):
            return items
        while True:
            items.append(self._value((*path[-1:], "[]")))
            if self._take("]"):
                return items
            self._expect(",")

    def _take(self, character: str) -> bool:
        self._skip()
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def _expect(self, character: str) -> None:
        if not self._take(character):
            raise RawJsonError(f"{character!r} expected at character {self._at}")
