"""Rules of CustomResourceDefinitions, and of the objects that they define.

CEL is not evaluated. The rules of the shipped definition are known by their text and have an equivalent here; one with
any other rule, or with a word of the schema language that structural.py does not know, is refused, so that nobody
takes it for checked.
"""

# One signature serves all rules, so most of them leave an argument alone.
# ruff: noqa: ARG002
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.names import CAPACITIES
from fracgpu.driver.quantity import parse_quantity
from fracgpu.sim.api.errors import FieldError, invalid
from fracgpu.sim.api.objects import JsonObject, dig, name_of, now
from fracgpu.sim.api.rules_base import Context, Rules
from fracgpu.sim.api.structural import KNOWN_WORDS, check_structure, is_blocked, walk

_RULE: Final = "x-kubernetes-validations"


def _is_not_negative(value: Any) -> bool:
    try:
        return parse_quantity(value) >= 0
    except QuantityInvalid as error:
        # The server takes what is too large or too fine for it and changes it.
        return not ((isinstance(value, str) and "is not a quantity" in error.what) or str(value).startswith("-"))


MEANINGS: Final[dict[str, Callable[[Any], bool]]] = {
    "self.all(k, k in ['memory', 'cores', 'slots'])": lambda hard: set(hard) <= set(CAPACITIES),
    "self.all(k, type(self[k]) == int ? self[k] >= 0 : type(self[k]) == string && isQuantity(self[k]) && "
    "!quantity(self[k]).isLessThan(quantity('0')))": lambda hard: all(map(_is_not_negative, hard.values())),
}
"""What the rules of shipped definitions mean, by their text."""


class DefinitionRules(Rules):
    """CustomResourceDefinition: established at once."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Set defaults and the status."""
        spec = obj["spec"]
        names = spec["names"]
        names.setdefault("singular", str(names.get("kind", "")).lower())
        names.setdefault("listKind", f"{names.get('kind', '')}List")
        spec.setdefault("conversion", {"strategy": "None"})
        obj["status"] = {
            "acceptedNames": dict(names),
            "conditions": [
                _condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                _condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
            "storedVersions": [version["name"] for version in spec["versions"] if version.get("storage")],
        }

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Set defaults and keep the status."""
        self.prepare_create(obj, context)
        obj["status"] = old.get("status", {})

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check the name, and that the emulator can keep what the schema says."""
        spec = obj["spec"]
        errors: list[FieldError] = []
        if name_of(obj) != f"{spec['names'].get('plural')}.{spec.get('group')}":
            errors.append(invalid("metadata.name", name_of(obj), 'must be spec.names.plural+"."+spec.group'))
        for index, version in enumerate(spec["versions"]):
            place = f"spec.versions[{index}].schema.openAPIV3Schema"
            for path, schema in walk(dig(version, "schema", "openAPIV3Schema") or {}):
                errors += _not_understood(f"{place}.{path}".rstrip("."), schema)
        return errors


class CustomRules(Rules):
    """Objects of a custom resource: what the schema of the definition says."""

    def prepare_create(self, obj: JsonObject, context: Context) -> None:
        """Drop the status: it has a subresource."""
        obj.pop("status", None)

    def prepare_update(self, obj: JsonObject, old: JsonObject, context: Context) -> None:
        """Keep the status."""
        obj.pop("status", None)
        if "status" in old:
            obj["status"] = old["status"]

    def validate(self, obj: JsonObject, context: Context) -> list[FieldError]:
        """Check structure and rules."""
        errors = check_structure(obj, context.schema)
        if is_blocked(errors):
            return errors
        for path, schema in walk(context.schema):
            value = dig(obj, *path.split(".")) if path else obj
            for rule in schema.get(_RULE) or [] if value is not None else []:
                if not MEANINGS[rule["rule"]](value):
                    errors.append(FieldError(path, "FieldValueInvalid", f"Invalid value: {rule['message']}"))
        return errors

    def validate_status(self, obj: JsonObject, old: JsonObject, context: Context) -> list[FieldError]:
        """Check the whole object, as the server does."""
        return self.validate(obj, context)


def _not_understood(path: str, schema: JsonObject) -> list[FieldError]:
    strange = sorted(set(schema) - KNOWN_WORDS)
    rules = [rule["rule"] for rule in schema.get(_RULE) or [] if rule["rule"] not in MEANINGS]
    return [invalid(path, word, "the emulator does not know this word of the schema language") for word in strange] + [
        invalid(path, rule, "the emulator has no meaning for this rule; add it to rules_custom.py") for rule in rules
    ]


def _condition(kind: str, reason: str, message: str) -> JsonObject:
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
