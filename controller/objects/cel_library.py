"""What Kubernetes adds to CEL for device selectors: quantities and semantic versions, for Google's CEL.

Both are passed as one kind of message, because the library tells overloads apart by kind and not by type. So a version
in the place of a quantity is found at evaluation and not by the type checker; the API server, which keeps the two
apart, has refused such an expression already.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_optional, ext_strings
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from fracgpu.controller.objects.semver import Semver
from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.quantity import parse_quantity

_MESSAGE: Final = "kubernetes.Value"
_QUANTITY: Final = "quantity"
_SEMVER: Final = "semver"
_LARGEST_INTEGER: Final = 2**63 - 1
_TEXT_FIELD: Final = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_OPTIONAL: Final = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL


@cache
def environment() -> cel.Env:
    """Return the environment of device selectors, in which `device` is a map."""
    string, bool_, int_, value = cel.Type.STRING, cel.Type.BOOL, cel.Type.INT, cel.Type(_MESSAGE)
    functions = [
        _function("quantity", value, ([string], lambda text: quantity_value(_quantity(text)))),
        _function("isQuantity", bool_, ([string], _is_quantity)),
        _function("semver", value, ([string], semver_value), ([string, bool_], semver_value)),
        _function("isSemver", bool_, ([string], _is_semver), ([string, bool_], _is_semver)),
        _method("isGreaterThan", bool_, ([value, value], lambda one, other: _compare(one, other) > 0)),
        _method("isLessThan", bool_, ([value, value], lambda one, other: _compare(one, other) < 0)),
        _method("compareTo", int_, ([value, value], _compare)),
        _method("sign", int_, ([value], lambda one: (_number(one) > 0) - (_number(one) < 0))),
        _method("add", value, ([value, value], _sum), ([value, int_], _sum)),
        _method("sub", value, ([value, value], _difference), ([value, int_], _difference)),
        _method("isInteger", bool_, ([value], lambda one: _is_integer(_number(one)))),
        _method("asInteger", int_, ([value], _as_integer)),
        _method("asApproximateFloat", cel.Type.DOUBLE, ([value], lambda one: float(_number(one)))),
        _method("major", int_, ([value], lambda one: _version(one).major)),
        _method("minor", int_, ([value], lambda one: _version(one).minor)),
        _method("patch", int_, ([value], lambda one: _version(one).patch)),
    ]
    return cel.NewEnv(
        _pool(),
        variables={"device": cel.Type.Map(string, cel.Type.DYN)},
        extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings(), ext_bindings.ExtBindings()],
        functions=functions,
    )


def quantity_value(amount: Decimal | int) -> Any:
    """Return a quantity as CEL sees it. Equal amounts are equal values, however they were written."""
    return _message()(kind=_QUANTITY, text=format(Decimal(amount).normalize(), "f"))


@lru_cache(maxsize=1024)
def semver_value(text: str, normalize: bool = False) -> Any:
    """Return a semantic version as CEL sees it. Raises ValueError."""
    return _message()(kind=_SEMVER, text=str(Semver.parse(text, normalize=normalize)))


_Overload = tuple[list[cel.Type], Callable[..., Any]]


def _function(name: str, result: cel.Type, *overloads: _Overload) -> cel.FunctionDecl:
    return _declared(name, result, overloads, is_member=False)


def _method(name: str, result: cel.Type, *overloads: _Overload) -> cel.FunctionDecl:
    return _declared(name, result, overloads, is_member=True)


def _declared(name: str, result: cel.Type, overloads: tuple[_Overload, ...], *, is_member: bool) -> cel.FunctionDecl:
    declared = [
        cel.Overload(f"{name}_{number}", return_type=result, parameters=types, is_member=is_member, impl=impl)
        for number, (types, impl) in enumerate(overloads)
    ]
    return cel.FunctionDecl(name, declared)


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="kubernetes_value.proto", package="kubernetes", syntax="proto3")
    message = file.message_type.add(name="Value")
    for number, name in enumerate(("kind", "text"), start=1):
        message.field.add(name=name, number=number, type=_TEXT_FIELD, label=_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


@cache
def _message() -> Any:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(_MESSAGE))


# The library turns an exception of these functions into an error of the expression, with its text.


@lru_cache(maxsize=1024)
def _quantity(text: str) -> Decimal:
    try:
        return parse_quantity(text)
    except QuantityInvalid as error:
        raise ValueError(f"{text!r:.80} {error.what}") from error


def _is_quantity(text: str) -> bool:
    try:
        _quantity(text)
    except ValueError:
        return False
    return True


def _is_semver(text: str, normalize: bool = False) -> bool:
    try:
        Semver.parse(text, normalize=normalize)
    except ValueError:
        return False
    return True


def _number(value: Any) -> Decimal:
    if isinstance(value, int):
        return Decimal(value)
    if value.kind != _QUANTITY:
        raise ValueError("no such overload: a quantity is needed, not a version")
    return Decimal(value.text)


def _version(value: Any) -> Semver:
    if value.kind != _SEMVER:
        raise ValueError("no such overload: a version is needed, not a quantity")
    return Semver.parse(value.text)


def _compare(one: Any, other: Any) -> int:
    if one.kind == _SEMVER:
        left, right = _version(one), _version(other)
        return (left > right) - (left < right)
    first, second = _number(one), _number(other)
    return (first > second) - (first < second)


def _sum(one: Any, other: Any) -> Any:
    return quantity_value(_number(one) + _number(other))


def _difference(one: Any, other: Any) -> Any:
    return quantity_value(_number(one) - _number(other))


def _is_integer(number: Decimal) -> bool:
    return number == int(number) and abs(number) <= _LARGEST_INTEGER


def _as_integer(one: Any) -> int:
    number = _number(one)
    if not _is_integer(number):
        raise ValueError(f"cannot convert quantity {one.text} to an integer")
    return int(number)
