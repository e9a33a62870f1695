"""What rules of a resource are made of, and the checks that several of them share.

A rule set follows the strategy of a type in k8s.io/kubernetes: defaults, reset of what a request may not set, dropping
of members behind a gate that is off, validation, validation of changes.
"""

# One signature serves all rules, so most of them leave an argument alone.
# ruff: noqa: ARG002
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fracgpu.sim.api.errors import FieldError, forbidden_field, invalid, required
from fracgpu.sim.api.objects import JsonObject, metadata, name_of
from fracgpu.sim.api.resources import Resource

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', "
    "regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_IDENTIFIER_TEXT = (
    "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric "
    "characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', "
    "regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"
)
_QUALIFIED_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', "
    "regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
_LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', "
    "regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What rules may know besides the object: the gate, the labels of its namespace, a custom resource's schema."""

    consumable_capacity: bool = True
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    schema: JsonObject = field(default_factory=dict)


class Rules:
    """Rules of one resource; the base allows everything. Methods that prepare change the object in place."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Set defaults and reset what a creator may not set."""

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Do the same for an update of the main resource."""

    def prepare_status(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Do the same for an update of the status subresource (metadata and spec are already the old ones)."""

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Return the findings about an object to be stored."""
        return []

    def validate_update(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Return the findings about a change of the main resource."""
        return []

    def validate_status(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Return the findings about a change of the status subresource."""
        return []


def is_label(text: object, maximum: int = 63) -> bool:
    """Tell whether the text is an RFC 1123 label."""
    return isinstance(text, str) and len(text) <= maximum and bool(_LABEL.fullmatch(text))


def is_subdomain(text: object, maximum: int = 253) -> bool:
    """Tell whether the text is a lower-case RFC 1123 subdomain."""
    return isinstance(text, str) and len(text) <= maximum and bool(_SUBDOMAIN.fullmatch(text))


def is_uuid(text: object) -> bool:
    """Tell whether the text is a lower-case UUID."""
    return isinstance(text, str) and bool(_UUID.fullmatch(text))


def check_label(text: object, path: str, maximum: int = 63) -> list[FieldError]:
    """Return findings unless the text is an RFC 1123 label."""
    if not text:
        return [required(path)]
    return [] if is_label(text, maximum) else [invalid(path, text, LABEL_TEXT)]


def check_dns_label(text: object, path: str) -> list[FieldError]:
    """Do the same where nothing is as wrong as any other text: names inside lists of DRA objects."""
    if is_label(text):
        return []
    return [invalid(path, text or "", "must not contain dots" if is_subdomain(text) else LABEL_TEXT)]


def check_subdomain(text: object, path: str, maximum: int = 253) -> list[FieldError]:
    """Return findings unless the text is an RFC 1123 subdomain."""
    if not text:
        return [required(path)]
    return [] if is_subdomain(text, maximum) else [invalid(path, text, SUBDOMAIN_TEXT)]


def check_driver(text: object, path: str) -> list[FieldError]:
    """Return findings unless the text is a driver's name: a subdomain of 63 bytes at most, in any case."""
    if isinstance(text, str) and len(text) > 63:
        return [FieldError(path, "FieldValueTooLong", "Too long: may not be more than 63 bytes")]
    if isinstance(text, str) and text and not is_subdomain(text.lower()):
        return [invalid(path, text, SUBDOMAIN_TEXT)]
    return [] if text else [required(path)]


def check_qualified(text: object, path: str) -> list[FieldError]:
    """Return findings unless the text is a DRA qualified name: `[domain/]C identifier` (63 and 32 characters)."""
    if not isinstance(text, str):
        return [required(path)]
    domain, slash, identifier = text.rpartition("/")
    errors = check_subdomain(domain, path, 63) if slash else []
    if len(identifier) > 32:
        errors.append(FieldError(path, "FieldValueTooLong", "Too long: may not be more than 32 bytes"))
    elif not _C_IDENTIFIER.fullmatch(identifier):
        errors.append(invalid(path, identifier, _IDENTIFIER_TEXT))
    return errors


def check_metadata(resource: Resource, obj: JsonObject) -> list[FieldError]:
    """Return findings about name, labels, annotations, finalizers and owner references."""
    meta = metadata(obj)
    name = name_of(obj)
    if resource.plural == "namespaces":
        errors = check_label(name, "metadata.name")
    else:
        errors = (
            check_subdomain(name, "metadata.name")
            if name
            else [required("metadata.name", "name or generateName is required")]
        )
    for key, value in (meta.get("labels") or {}).items():
        errors += _check_label_pair(key, value)
    for key in meta.get("annotations") or {}:
        errors += check_label_key(str(key).lower(), "metadata.annotations")
    for index, finalizer in enumerate(meta.get("finalizers") or []):
        errors += _check_finalizer(finalizer, f"metadata.finalizers[{index}]")
    for owner in meta.get("ownerReferences") or []:
        errors += [
            invalid(f"metadata.ownerReferences.{key}", "", "must not be empty")
            for key in ("apiVersion", "kind", "name", "uid")
            if not owner.get(key)
        ]
    controllers = sum(bool(owner.get("controller")) for owner in meta.get("ownerReferences") or [])
    if controllers > 1:
        errors.append(
            invalid("metadata.ownerReferences", controllers, "Only one reference can have Controller set to true")
        )
    return errors


def check_label_key(key: str, path: str) -> list[FieldError]:
    """Return findings unless the text is a qualified name, as keys of labels, annotations and taints are."""
    domain, slash, name = key.rpartition("/")
    bad = (slash and not is_subdomain(domain)) or len(name) > 63 or not _QUALIFIED.fullmatch(name)
    return [invalid(path, key, _QUALIFIED_TEXT)] if bad else []


def _check_finalizer(finalizer: str, path: str) -> list[FieldError]:
    errors = check_label_key(finalizer, path)
    if not errors and "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
        errors.append(invalid(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified"))
    return errors


def _check_label_pair(key: str, value: str) -> list[FieldError]:
    errors = check_label_key(key, "metadata.labels")
    if value and (len(value) > 63 or not _QUALIFIED.fullmatch(value)):
        errors.append(invalid("metadata.labels", value, _LABEL_VALUE_TEXT))
    return errors


def check_metadata_update(obj: JsonObject, old: JsonObject) -> list[FieldError]:
    """Return findings about metadata that may not change."""
    new_meta, old_meta = metadata(obj), metadata(old)
    if old_meta.get("deletionTimestamp"):
        added = set(new_meta.get("finalizers") or []) - set(old_meta.get("finalizers") or [])
        if added:
            text = (
                f"no new finalizers can be added if the object is being deleted, found new finalizers "
                f"[]string{{{', '.join(json.dumps(name) for name in sorted(added))}}}"
            )
            return [forbidden_field("metadata.finalizers", text)]
    return []
