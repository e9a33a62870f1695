"""A small part of CEL: what selectors of GPUs by attribute and capacity are written with.

Comparisons, `&&`, `||`, `!`, `in`, indexes, optional fields with `orValue`, the usual methods of strings, quantities.
Nothing is guessed: what is not in here is not understood, and a key that a device has not is an error, as in CEL.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from fracgpu.controller.fit.views import GpuView
from fracgpu.driver.names import (
    ALLOCATOR_SCHEDULER,
    ATTR_ALLOCATOR,
    CAPACITY_CORES,
    CAPACITY_MEMORY,
    CAPACITY_SLOTS,
    DRIVER_NAME,
)
from fracgpu.driver.quantity import parse_quantity

Value = Any
Evaluate = Callable[[dict[str, Value]], Value]

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'[^'\\]*'|\"[^\"\\]*\")|(?P<number>\d+)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<mark>&&|\|\||==|!=|<=|>=|\.\?|[<>!()\[\].,]))"
)
_COMPARISONS: Final[dict[str, Callable[[Value, Value], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda key, members: key in members,
}
_OF_STRINGS: Final[dict[str, Callable[[str, str], bool]]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, part: part in text,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
}
_OF_QUANTITIES: Final[dict[str, Callable[[Decimal, Decimal], Value]]] = {
    "compareTo": lambda one, other: (one > other) - (one < other),
    "isGreaterThan": operator.gt,
    "isLessThan": operator.lt,
}
_CONSTANTS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class _Optional:
    """What `.?` returns: nothing can be done with it but `orValue`."""

    values: tuple[Value, ...]


class NotUnderstoodError(ValueError):
    """The expression uses something that is not in this part of CEL, or fails for a device."""


def compile_selector(expression: str) -> Callable[[GpuView], bool]:
    """Return the predicate of an expression. Raises NotUnderstoodError, and so may the predicate."""
    evaluate = _Parser(expression).whole()

    def matches(gpu: GpuView) -> bool:
        found = evaluate(_device(gpu))
        if not isinstance(found, bool):
            raise NotUnderstoodError("must evaluate to bool")
        return found

    return matches


def _device(gpu: GpuView) -> dict[str, Value]:
    # Devices that the engine owns are presented as kube-scheduler's, so that selectors of classes hold for both.
    attributes = {**gpu.attributes, ATTR_ALLOCATOR: ALLOCATOR_SCHEDULER}
    amounts = ((CAPACITY_MEMORY, gpu.memory_bytes), (CAPACITY_CORES, gpu.cores), (CAPACITY_SLOTS, gpu.slots))
    capacity = {name: Decimal(amount) for name, amount in amounts}
    return {"driver": DRIVER_NAME, "attributes": {DRIVER_NAME: attributes}, "capacity": {DRIVER_NAME: capacity}}


class _Parser:
    """Recursive descent over the tokens of one expression; each method returns a function of a device."""

    def __init__(self, expression: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while expression[at:].strip():
            match = _TOKEN.match(expression, at)
            if match is None or match.lastgroup is None:
                raise NotUnderstoodError(f"at {expression[at:]!r}")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
        self._at = 0

    def whole(self) -> Evaluate:
        found = self._any()
        if self._at < len(self._tokens):
            raise NotUnderstoodError(f"at {self._tokens[self._at][1]!r}")
        return found

    def _accept(self, *words: str) -> str:
        kind, word = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind in ("mark", "name") and word in words:
            self._at += 1
            return word
        return ""

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise NotUnderstoodError(f"{word!r} is missing")

    def _take(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise NotUnderstoodError("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _any(self) -> Evaluate:
        parts = [self._all()]
        while self._accept("||"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else lambda device: any(_truth(part(device)) for part in parts)

    def _all(self) -> Evaluate:
        parts = [self._comparison()]
        while self._accept("&&"):
            parts.append(self._comparison())
        return parts[0] if len(parts) == 1 else lambda device: all(_truth(part(device)) for part in parts)

    def _comparison(self) -> Evaluate:
        left = self._unary()
        word = self._accept(*_COMPARISONS)
        if not word:
            return left
        right, compare = self._unary(), _COMPARISONS[word]
        return lambda device: _compared(compare, left(device), right(device), alike=word != "in")

    def _unary(self) -> Evaluate:
        if self._accept("!"):
            inner = self._unary()
            return lambda device: not _truth(inner(device))
        return self._members(self._primary())

    def _primary(self) -> Evaluate:
        if self._accept("("):
            inner = self._any()
            self._expect(")")
            return inner
        kind, word = self._take()
        if kind == "text":
            return _constant(word[1:-1])
        if kind == "number":
            return _constant(int(word))
        if word in _CONSTANTS:
            return _constant(_CONSTANTS[word])
        if word == "device":
            return lambda device: device
        if word == "quantity":
            argument = self._argument()
            return lambda device: parse_quantity(argument(device))
        raise NotUnderstoodError(f"at {word!r}")

    def _argument(self) -> Evaluate:
        self._expect("(")
        inner = self._any()
        self._expect(")")
        return inner

    def _members(self, value: Evaluate) -> Evaluate:
        while mark := self._accept(".", ".?", "["):
            if mark == "[":
                value = _indexed(value, self._any())
                self._expect("]")
                continue
            _, name = self._take()
            if mark == ".?":
                value = _optional(value, name)
            elif self._tokens[self._at : self._at + 1] == [("mark", "(")]:
                value = _called(value, name, self._argument())
            else:
                value = _indexed(value, _constant(name))
        return value


def _constant(value: Value) -> Evaluate:
    return lambda _: value


def _truth(value: Value) -> bool:
    if not isinstance(value, bool):
        raise NotUnderstoodError("no such overload: a bool is needed")
    return value


def _compared(compare: Callable[[Value, Value], bool], left: Value, right: Value, *, alike: bool) -> bool:
    if alike and type(left) is not type(right):
        raise NotUnderstoodError("no such overload: values of two kinds are compared")
    if not alike and not isinstance(right, dict):
        raise NotUnderstoodError("no such overload: `in` asks for a key of a map")
    if isinstance(left, _Optional):
        raise NotUnderstoodError("an optional field is compared without orValue")
    return compare(left, right)


def _indexed(value: Evaluate, key: Evaluate) -> Evaluate:
    def evaluate(device: dict[str, Value]) -> Value:
        members, name = value(device), key(device)
        if not isinstance(members, dict) or name not in members:
            raise NotUnderstoodError(f"no such key: {name}")
        return members[name]

    return evaluate


def _optional(value: Evaluate, name: str) -> Evaluate:
    def evaluate(device: dict[str, Value]) -> Value:
        members = value(device)
        if not isinstance(members, dict):
            raise NotUnderstoodError(f"no fields to look for {name} in")
        return _Optional((members[name],) if name in members else ())

    return evaluate


def _called(value: Evaluate, method: str, argument: Evaluate) -> Evaluate:
    def evaluate(device: dict[str, Value]) -> Value:
        subject, other = value(device), argument(device)
        if method == "orValue" and isinstance(subject, _Optional):
            return subject.values[0] if subject.values else other
        if isinstance(subject, str) and isinstance(other, str) and method in _OF_STRINGS:
            return _OF_STRINGS[method](subject, other)
        if isinstance(subject, Decimal) and isinstance(other, Decimal) and method in _OF_QUANTITIES:
            return _OF_QUANTITIES[method](subject, other)
        raise NotUnderstoodError(f"no such overload: {method}")

    if method not in ("orValue", *_OF_STRINGS, *_OF_QUANTITIES):
        raise NotUnderstoodError(f"at {method!r}")
    return evaluate
