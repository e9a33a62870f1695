"""Validation of capacity request policies (KEP-5075).

Source: validateRequestPolicy and its helpers in pkg/apis/resource/validation of Kubernetes 1.36.
"""

from __future__ import annotations

from decimal import Decimal

from fracgpu.driver.quantity import parse_quantity
from fracgpu.sim.api.errors import FieldError, forbidden_field, invalid, required, too_many
from fracgpu.sim.api.objects import JsonObject

_MAX_VALUES = 10


def check_policy(policy: JsonObject, value: Decimal, path: str) -> list[FieldError]:
    """Return the findings about the policy of a capacity whose total is `value`."""
    values, limits = policy.get("validValues"), policy.get("validRange")
    if values and limits:
        return [
            forbidden_field(
                path,
                "exactly one policy can be specified, cannot specify `validValues` and `validRange` at the same time",
            )
        ]
    if "default" not in policy:
        if values or limits:
            return [required(f"{path}.default", "required when validValues or validRange is defined")]
        return []
    default = parse_quantity(policy["default"])
    if values:
        return _check_values([parse_quantity(item) for item in values], default, value, path)
    if limits:
        return _check_range(limits, default, value, path)
    if default > value:
        return [invalid(f"{path}.default", policy["default"], f"default is larger than the capacity value: {value}")]
    return []


def _check_values(values: list[Decimal], default: Decimal, value: Decimal, path: str) -> list[FieldError]:
    where = f"{path}.validValues"
    errors = [too_many(where, len(values), _MAX_VALUES)] if len(values) > _MAX_VALUES else []
    if values != sorted(set(values)):
        errors.append(
            invalid(
                where, [str(item) for item in values], "values must be sorted in ascending order, without duplicates"
            )
        )
    errors += [
        invalid(f"{where}[{index}]", str(item), f"option is larger than the capacity value: {value}")
        for index, item in enumerate(values)
        if item > value
    ]
    if default not in values:
        errors.append(
            invalid(f"{path}.default", str(default), "default value is not valid according to the requestPolicy")
        )
    return errors


def _check_range(limits: JsonObject, default: Decimal, value: Decimal, path: str) -> list[FieldError]:
    where = f"{path}.validRange"
    if "min" not in limits:
        return [required(f"{where}.min")]
    minimum = parse_quantity(limits["min"])
    maximum = parse_quantity(limits["max"]) if "max" in limits else None
    errors: list[FieldError] = []
    if minimum > value:
        errors.append(invalid(f"{where}.min", limits["min"], f"min is larger than the capacity value: {value}"))
    if maximum is not None and minimum > maximum:
        errors.append(invalid(f"{where}.min", limits["min"], f"min is larger than max: {maximum}"))
    if maximum is not None and maximum > value:
        errors.append(invalid(f"{where}.max", limits["max"], f"max is larger than the capacity value: {value}"))
    if default < minimum:
        errors.append(invalid(f"{path}.default", str(default), f"default is less than min: {minimum}"))
    if maximum is not None and default > maximum:
        errors.append(invalid(f"{path}.default", str(default), f"default is more than max: {maximum}"))
    if "step" in limits:
        errors += _check_step(parse_quantity(limits["step"]), minimum, maximum, default=default, value=value, path=path)
    return errors


def _check_step(
    step: Decimal, minimum: Decimal, maximum: Decimal | None, *, default: Decimal, value: Decimal, path: str
) -> list[FieldError]:
    where = f"{path}.validRange.step"
    if step <= 0:
        return [invalid(where, str(step), "step must be greater than zero")]
    errors: list[FieldError] = []
    if minimum + step > value:
        errors.append(
            invalid(
                where, str(step), f"one step above min ({minimum + step}) is larger than the capacity value: {value}"
            )
        )
    if maximum is not None and (maximum - minimum) % step:
        errors.append(invalid(where, str(step), f"max ({maximum}) must be a multiple of the step from min ({minimum})"))
    if (default - minimum) % step:
        errors.append(
            invalid(where, str(step), f"default ({default}) must be a multiple of the step from min ({minimum})")
        )
    return errors
