"""Validation of capacity request policies (KEP-5075).

Source: validateRequestPolicy and its helpers in pkg/apis/resource/validation of Kubernetes 1.36.
"""

from __future__ import annotations

from fracgpu.driver.quantity import parse_quantity
from fracgpu.sim.api.errors import FieldError, duplicate, forbidden_field, invalid, required, too_many
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.quantities import canonical_quantity

_MAX_VALUES = 10


def check_policy(policy: JsonObject, value: str, path: str) -> list[FieldError]:
    """Return the findings about the policy of a capacity whose total is the quantity `value`."""
    values, limits = policy.get("validValues"), policy.get("validRange")
    if values and limits:
        text = 'exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time'
        return [forbidden_field(path, text)]
    if not (values or limits):
        return []
    if "default" not in policy:
        kind = "validValues" if values else "validRange"
        return [required(f"{path}.default", f"required when {kind} is defined")]
    if values:
        return _check_values(values, policy["default"], value, f"{path}.validValues")
    return _check_range(limits or {}, policy["default"], value, f"{path}.validRange")


def _check_values(values: list[str], default: str, value: str, path: str) -> list[FieldError]:
    errors = [too_many(path, len(values), _MAX_VALUES)] if len(values) > _MAX_VALUES else []
    numbers = [parse_quantity(item) for item in values]
    for index, (text, number) in enumerate(zip(values, numbers, strict=True)):
        where = f"{path}[{index}]"
        if number > parse_quantity(value):
            errors.append(invalid(where, text, f"option is larger than capacity value: {value}"))
        if number in numbers[:index]:
            errors.append(duplicate(where, text))
        elif index and number < numbers[index - 1]:
            errors.append(invalid(where, text, "values must be sorted in ascending order"))
    if parse_quantity(default) not in numbers:
        errors.append(invalid(path, default, "default value is not valid according to the requestPolicy"))
    return errors


def _check_range(limits: JsonObject, default: str, value: str, path: str) -> list[FieldError]:
    if "min" not in limits:
        return [required(f"{path}.min", "required when validRange is defined")]
    minimum, maximum = limits["min"], limits.get("max")
    errors: list[FieldError] = []
    if _exceeds(minimum, value):
        errors.append(invalid(f"{path}.min", minimum, f"min is larger than capacity value: {value}"))
    if _exceeds(minimum, default):
        errors.append(invalid(f"{path}.min", default, f"default is less than min: {minimum}"))
    if maximum is not None:
        if _exceeds(maximum, value):
            errors.append(invalid(f"{path}.max", maximum, f"max is larger than capacity value: {value}"))
        if _exceeds(minimum, maximum):
            errors.append(invalid(f"{path}.max", minimum, f"min is larger than max: {maximum}"))
        if _exceeds(default, maximum):
            errors.append(invalid(f"{path}.max", default, f"default is more than max: {maximum}"))
    if "step" in limits:
        steps = [quantity for quantity in (default, maximum) if quantity is not None]
        errors += _check_step(limits["step"], minimum, steps, value=value, path=f"{path}.step")
    return errors


def _exceeds(quantity: str, other: str) -> bool:
    return parse_quantity(quantity) > parse_quantity(other)


def _check_step(step: str, minimum: str, quantities: list[str], *, value: str, path: str) -> list[FieldError]:
    size, first = parse_quantity(step), parse_quantity(minimum)
    if size <= 0:
        # The real server divides by it and cuts the connection.
        return [invalid(path, step, "must be greater than zero")]
    above = _sum(minimum, step)
    too_large = [invalid(path, step, f"one step {above} is larger than capacity value: {value}")]
    text = f"value is not a multiple of a given step ({step}) from ({minimum})"
    return (too_large if first + size > parse_quantity(value) else []) + [
        invalid(path, quantity, text) for quantity in quantities if (parse_quantity(quantity) - first) % size
    ]


def _sum(first: str, second: str) -> str:
    """Return the sum in the notation of the first that is not nothing, as Go's Quantity.Add writes it."""
    exact = parse_quantity(first) + parse_quantity(second)
    notation = first if parse_quantity(first) else second
    if notation.endswith("i") and exact % 1024 == 0:
        return canonical_quantity(f"{int(exact // 1024)}Ki")
    return canonical_quantity(str(exact))
