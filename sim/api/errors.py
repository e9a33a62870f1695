"""Errors of the API as the metav1.Status bodies that clients parse.

Codes, reasons and message texts follow k8s.io/apimachinery/pkg/api/errors of 1.36, because drivers and people match
on them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.rawjson import plain
from fracgpu.sim.api.resources import Resource


@dataclass(frozen=True, slots=True)
class FieldError:
    """One finding of validation: where, which kind, what."""

    field: str
    reason: str
    message: str

    def as_cause(self) -> JsonObject:
        """Return the metav1.StatusCause."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


def invalid(field: str, value: Any, detail: str) -> FieldError:
    """Return a finding about a value that is present and wrong."""
    shown = json.dumps(plain(value), ensure_ascii=False, default=str, separators=(",", ":"))
    return FieldError(field, "FieldValueInvalid", f"Invalid value: {shown[:400]}: {detail}")


def required(field: str, detail: str = "") -> FieldError:
    """Return a finding about a value that is missing."""
    return FieldError(field, "FieldValueRequired", "Required value" + (f": {detail}" if detail else ""))


def duplicate(field: str, value: Any) -> FieldError:
    """Return a finding about a value that occurs twice."""
    return FieldError(field, "FieldValueDuplicate", f"Duplicate value: {json.dumps(plain(value), default=str)}")


def forbidden_field(field: str, detail: str) -> FieldError:
    """Return a finding about a field that may not be set or changed."""
    return FieldError(field, "FieldValueForbidden", f"Forbidden: {detail}")


def not_supported(field: str, value: Any, known: Sequence[str]) -> FieldError:
    """Return a finding about a value outside an enumeration; that it is missing when there is none."""
    if not value:
        return required(field)
    names = ", ".join(f'"{name}"' for name in known)
    return FieldError(field, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {names}')


def too_many(field: str, count: int, maximum: int) -> FieldError:
    """Return a finding about a list that is too long."""
    return FieldError(field, "FieldValueTooMany", f"Too many: {count}: must have at most {maximum} items")


class ApiError(Exception):
    """A request that the API refuses; `body` is the Status object to answer with."""

    def __init__(self, code: int, reason: str, message: str, details: JsonObject | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.body: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        if details:
            self.body["details"] = details


def _details(resource: Resource, name: str) -> JsonObject:
    details: JsonObject = {"name": name, "kind": resource.plural}
    if resource.group:
        details["group"] = resource.group
    return details


def not_found(resource: Resource, name: str) -> ApiError:
    """404: the object does not exist."""
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(resource, name))


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: create of a name that is taken."""
    return ApiError(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', _details(resource, name))


def conflict(resource: Resource, name: str, detail: str = "") -> ApiError:
    """409: the resourceVersion or a precondition does not hold."""
    what = detail or ("the object has been modified; please apply your changes to the latest version and try again")
    text = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {what}'
    return ApiError(409, "Conflict", text, _details(resource, name))


def version_required(resource: Resource, name: str) -> ApiError:
    """422: an update without a resourceVersion, which is found before validation and names no kind."""
    error = invalid("metadata.resourceVersion", 0, "must be specified for an update")
    details = _details(resource, name) | {"causes": [error.as_cause()]}
    return ApiError(
        422, "Invalid", f'{resource.qualified} "{name}" is invalid: {error.field}: {error.message}', details
    )


def unprocessable(resource: Resource, name: str, errors: Sequence[FieldError]) -> ApiError:
    """422: the object breaks validation."""
    texts = [f"{error.field}: {error.message}" for error in errors]
    shown = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = _details(resource, name) | {"kind": resource.kind, "causes": [error.as_cause() for error in errors]}
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {shown}', details)


def bad_request(message: str) -> ApiError:
    """400: the request cannot be understood."""
    return ApiError(400, "BadRequest", message)


def internal(message: str) -> ApiError:
    """500 without a reason: what the real server forgets to say better."""
    return ApiError(500, "", message)


def forbidden(resource: Resource, name: str, detail: str) -> ApiError:
    """403: the request is understood and refused."""
    return ApiError(403, "Forbidden", f'{resource.qualified} "{name}" is forbidden: {detail}', _details(resource, name))


def expired(message: str) -> ApiError:
    """410: the requested resourceVersion has left the history."""
    return ApiError(410, "Expired", message)
