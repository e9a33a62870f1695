"""Objects of custom resources, decoded and checked by the structural schema of their definition.

Unlike those of built-in types they are not refused for a wrong JSON type in decoding: that is a finding of validation.
Members that the schema does not know are dropped, nulls too. Of the schema's vocabulary the part is here that the
shipped definitions use; a definition that uses another word is refused (rules_custom.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from fracgpu.sim.api.errors import FieldError, bad_request, not_supported, required, too_many
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.resources import Resource
from fracgpu.sim.api.schema import decode_metadata, refuse_unknown

INT_OR_STRING: Final = "x-kubernetes-int-or-string"
KNOWN_WORDS: Final = frozenset(
    {
        *(
            "type",
            "description",
            "properties",
            "required",
            "items",
            "additionalProperties",
            "enum",
            "format",
            "minimum",
        ),
        *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        *(INT_OR_STRING, "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    }
)
_ENVELOPE: Final = ("apiVersion", "kind", "metadata")
_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
# Findings after which the API server does not evaluate the rules of a schema any more.
_BLOCKING: Final = (
    "FieldValueTypeInvalid",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueNotSupported",
)
_NOT_CHECKED: Final = FieldError(
    "<nil>",
    "FieldValueInvalid",
    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing "
    "errors to complete validation",
)
_DATE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def schema_of(definition: JsonObject, version: str) -> JsonObject:
    """Return the schema of one version of a CustomResourceDefinition."""
    found = next(one for one in definition["spec"]["versions"] if one["name"] == version)
    schema: JsonObject = found["schema"]["openAPIV3Schema"]
    return schema


def decode_custom(resource: Resource, body: JsonObject, schema: JsonObject, *, strict: bool) -> JsonObject:
    """Return a copy of the object with known members only.

    With strict an unknown member is refused as by fieldValidation=Strict. Raises ApiError 400.
    """
    if not body.get("kind") or not body.get("apiVersion"):
        missing = "Kind" if not body.get("kind") else "apiVersion"
        raise bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): Object '{missing}' is missing"
        )
    unknown: list[str] = []
    pruned = _prune({key: value for key, value in body.items() if key not in _ENVELOPE}, schema, "", unknown)
    clean: JsonObject = {"apiVersion": body["apiVersion"], "kind": body["kind"]}
    clean["metadata"] = decode_metadata(resource, body.get("metadata") or {}, unknown)
    if strict:
        refuse_unknown(resource, unknown)
    clean.update(pruned)
    return clean


def check_structure(obj: JsonObject, schema: JsonObject) -> list[FieldError]:
    """Return the findings about an object; the last says if there was one that keeps rules from being evaluated."""
    body = {key: value for key, value in obj.items() if key not in _ENVELOPE}
    found = list(_check(body, schema, ""))
    return [*found, _NOT_CHECKED] if any(error.reason in _BLOCKING for error in found) else found


def is_blocked(errors: list[FieldError]) -> bool:
    """Tell whether rules are not evaluated because of these findings."""
    return _NOT_CHECKED in errors


def walk(schema: JsonObject, path: str = "") -> Iterator[tuple[str, JsonObject]]:
    """Yield every schema of a structural schema with its path; items of lists and values of maps have its path."""
    yield path, schema
    for key, inner in (schema.get("properties") or {}).items():
        yield from walk(inner, f"{path}.{key}" if path else key)
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from walk(schema[word], path)


def _prune(value: Any, schema: JsonObject, path: str, unknown: list[str]) -> Any:
    if isinstance(value, list) and schema.get("type") == "array":
        return [_prune(item, schema["items"], f"{path}[{index}]", unknown) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    known, others = schema.get("properties") or {}, schema.get("additionalProperties")
    clean: JsonObject = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        inner = known.get(key, others)
        if inner is None:
            unknown.append(where)
        elif item is not None:
            clean[key] = _prune(item, inner, where, unknown)
    return clean


def _check(value: Any, schema: JsonObject, path: str) -> Iterator[FieldError]:
    wanted = "integer,string" if schema.get(INT_OR_STRING) else str(schema.get("type"))
    if not _is_type(value, wanted):
        yield _wrong_type(path, wanted, _type_name(value))
        return
    if schema.get("enum") and value not in schema["enum"]:
        yield not_supported(path, value, schema["enum"])
    if isinstance(value, dict):
        yield from _check_object(value, schema, path)
    elif isinstance(value, list):
        yield from _check_list(value, schema, path)
    elif isinstance(value, str):
        yield from _check_text(value, schema, path)
    elif value < schema.get("minimum", value):
        text = f"{path} in body should be greater than or equal to {schema['minimum']}"
        yield FieldError(path, "FieldValueInvalid", f"Invalid value: {value}: {text}")


def _check_object(value: JsonObject, schema: JsonObject, path: str) -> Iterator[FieldError]:
    if len(value) > schema.get("maxProperties", len(value)):
        yield too_many(path, len(value), schema["maxProperties"])
    if len(value) < schema.get("minProperties", 0):
        text = f"{path} in body should have at least {schema['minProperties']} properties"
        yield FieldError(path, "FieldValueInvalid", f"Invalid value: {len(value)}: {text}")
    for key in schema.get("required") or []:
        if key not in value:
            yield required(f"{path}.{key}" if path else key)
    known, others = schema.get("properties") or {}, schema.get("additionalProperties")
    for key, item in value.items():
        yield from _check(item, known.get(key, others) or {}, f"{path}.{key}" if path else key)


def _check_list(value: list[Any], schema: JsonObject, path: str) -> Iterator[FieldError]:
    if len(value) > schema.get("maxItems", len(value)):
        yield too_many(path, len(value), schema["maxItems"])
    keys = schema.get("x-kubernetes-list-map-keys") or []
    seen: list[JsonObject] = []
    for index, item in enumerate(value):
        yield from _check(item, schema["items"], f"{path}[{index}]")
        identity = {key: item.get(key) for key in keys} if isinstance(item, dict) else {}
        if identity and identity in seen:
            shown = ",".join(f'"{key}":"{identity[key]}"' for key in sorted(identity))
            yield FieldError(f"{path}[{index}]", "FieldValueDuplicate", f"Duplicate value: {{{shown}}}")
        seen.append(identity)


def _check_text(value: str, schema: JsonObject, path: str) -> Iterator[FieldError]:
    if len(value) > schema.get("maxLength", len(value)):
        yield FieldError(path, "FieldValueTooLong", f"Too long: may not be more than {schema['maxLength']} bytes")
    if len(value) < schema.get("minLength", 0):
        text = f"{path} in body should be at least {schema['minLength']} chars long"
        yield FieldError(path, "FieldValueInvalid", f'Invalid value: "{value}": {text}')
    if schema.get("format") == "date-time" and not _is_date_time(value):
        # The real server leaves out the first step of the path here.
        where = path.partition(".")[2]
        text = f'{where} in body must be of type date-time: "{value}"'
        yield FieldError(path, "FieldValueTypeInvalid", f'Invalid value: "{value}": {text}')


def _is_date_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        return False
    return bool(_DATE_TIME.fullmatch(text))


def _is_type(value: Any, wanted: str) -> bool:
    fits = any(isinstance(value, _TYPES[one]) for one in wanted.split(","))
    return fits and (not isinstance(value, bool) or wanted == "boolean")


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return next(name for name in ("object", "array", "string", "integer", "number") if isinstance(value, _TYPES[name]))


def _wrong_type(path: str, wanted: str, found: str) -> FieldError:
    text = f'Invalid value: "{found}": {path} in body must be of type {wanted}: "{found}"'
    return FieldError(path, "FieldValueTypeInvalid", text)
