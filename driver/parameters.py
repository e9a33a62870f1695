"""Opaque parameters: the envelope, strict decoding and canonical encoding that config and grant share.

Kubernetes does not look into opaque parameters, so nothing is known about them before we have checked every field;
and the API server compares their bytes, so there is exactly one encoding of one value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from fracgpu.driver.errors import ConfigInvalid, FracgpuError
from fracgpu.driver.names import API_VERSION

Source = Literal["FromClass", "FromClaim"]
"""Who wrote a configuration entry, as the API states it in allocation.devices.config[].source."""

# The escapes that Go's JSON encoder, and so the API server and kubectl, writes for these characters inside strings.
_GO_ESCAPES: Final = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


class StrictModel(BaseModel):
    """Immutable model: camelCase keys in JSON, snake_case in Python, no unknown key, no type coercion."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=False,
    )


def canonical_json(value: object) -> bytes:
    """Return the one encoding of a JSON value of objects, lists, strings, integers and booleans.

    Sorted keys, no spaces, UTF-8, and the characters that Go escapes escaped the same way: the API server stores and
    re-encodes these bytes unchanged. Raises ConfigInvalid for floats, null and anything else.
    """
    _require_canonical(value, "$")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        return text.translate(_GO_ESCAPES).encode()
    except UnicodeEncodeError as error:
        raise ConfigInvalid("JSON value", "holds a text that is not Unicode", remedy="write valid UTF-8") from error


def _require_canonical(value: object, path: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConfigInvalid(f"JSON value at {path}", f"key {key!r} is not a string", remedy="use string keys")
            _require_canonical(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for position, inner in enumerate(value):
            _require_canonical(inner, f"{path}[{position}]")
    elif not isinstance(value, (str, int)):
        kind = type(value).__name__
        raise ConfigInvalid(f"JSON value at {path}", f"is {kind}", remedy="use only strings, integers and booleans")


def open_envelope(parameters: object, *, kind: str, error: type[FracgpuError]) -> dict[str, Any]:
    """Return the fields of opaque parameters without apiVersion and kind, after checking both.

    Raises `error` naming the field, its value and what is allowed.
    """
    if not isinstance(parameters, Mapping):
        what = f"is {type(parameters).__name__}, not an object"
        raise error(f"{kind} parameters", what, remedy=f"write an object with apiVersion {API_VERSION} and kind {kind}")
    fields = dict(parameters)
    for field, wanted in (("apiVersion", API_VERSION), ("kind", kind)):
        found = fields.pop(field, None)
        if found != wanted:
            stated = "is missing" if found is None else f"is {found!r:.80}"
            raise error(f"{kind} field {field}", stated, remedy=f"set it to {wanted}")
    return fields


def close_envelope(fields: Mapping[str, object], *, kind: str) -> dict[str, object]:
    """Return `fields` as opaque parameters: with apiVersion and kind."""
    return {"apiVersion": API_VERSION, "kind": kind, **fields}


def describe_failure(
    failure: ValidationError, *, kind: str, allowed: Mapping[str, str], error: type[FracgpuError]
) -> FracgpuError:
    """Turn pydantic's first complaint into `error`, naming the field, its value and the allowed values.

    `allowed` maps the dotted path of a field (list positions left out) to the text that says what it takes.
    """
    first = failure.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"]) or kind
    key = ".".join(part for part in first["loc"] if isinstance(part, str))
    if first["type"] == "extra_forbidden":
        parent = key.rpartition(".")[0]
        known = sorted(name.rpartition(".")[2] for name in allowed if name.rpartition(".")[0] == parent)
        return error(f"{kind} field {path}", "is unknown", remedy=f"known fields: {', '.join(known)}")
    if first["type"] == "missing":
        return error(f"{kind} field {path}", "is missing", remedy=f"give {allowed.get(key, 'it')}")
    remedy = f"allowed: {allowed.get(key, first['msg'])}"
    return error(f"{kind} field {path}", f"value {first['input']!r:.80} is not allowed", remedy=remedy)
