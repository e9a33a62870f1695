"""The admission policies that are shipped, as far as the emulator can apply them.

CEL is not evaluated. Each expression of the shipped policies is known by its text and has an equivalent in Python
(policy_meanings.py); a policy with any other expression is refused, so that nobody takes an unknown rule for one that
is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.api import policy_meanings, quota_meanings
from fracgpu.sim.api.errors import ApiError, forbidden
from fracgpu.sim.api.objects import JsonObject, name_of, namespace_of
from fracgpu.sim.api.policy_meanings import MUTATIONS, Review, Test, Text
from fracgpu.sim.api.resources import Resource, find_kind

T = TypeVar("T")

Lister = Callable[[Resource, str], Sequence[JsonObject]]
"""Lists the objects of a resource in a namespace."""
_GROUP: Final = "admissionregistration.k8s.io"
_VARIABLES: Final = policy_meanings.VARIABLES | quota_meanings.VARIABLES
_TESTS: Final = policy_meanings.TESTS | quota_meanings.TESTS
_MESSAGES: Final = policy_meanings.MESSAGES | quota_meanings.MESSAGES
_CODES: Final = {"Invalid": 422, "Forbidden": 403}


class PolicyNotSupported(FracgpuError):
    """A policy says something whose meaning the emulator does not know."""


class AdmissionPolicies:
    """The ValidatingAdmissionPolicy and MutatingAdmissionPolicy objects that have a binding."""

    def __init__(self, objects: Iterable[JsonObject]) -> None:
        """Take the policies among `objects`; others are passed over. Raises PolicyNotSupported."""
        found = [obj for obj in objects if str(obj.get("apiVersion", "")).startswith(f"{_GROUP}/")]
        self._validating = [_Validating(*pair) for pair in _bound(found, "ValidatingAdmissionPolicy")]
        self._mutating = [_Mutating(*pair) for pair in _bound(found, "MutatingAdmissionPolicy")]

    def mutate(self, review: Review) -> None:
        """Change the object of the write in place."""
        for policy in self._mutating:
            policy.mutate(review)

    def admit(self, review: Review, objects: Lister) -> None:
        """Raise ApiError if a policy refuses the write; `objects` lists what policies take as parameters."""
        for policy in self._validating:
            policy.admit(review, objects)


def _bound(objects: list[JsonObject], kind: str) -> list[tuple[JsonObject, JsonObject]]:
    """Return the policies of a kind with their bindings."""
    bindings = {obj["spec"]["policyName"]: obj for obj in objects if obj["kind"] == f"{kind}Binding"}
    return [(obj, bindings[name_of(obj)]) for obj in objects if obj["kind"] == kind and name_of(obj) in bindings]


class _Policy:
    """What both kinds have: where they apply."""

    def __init__(self, obj: JsonObject, binding: JsonObject) -> None:
        self.name, self.binding, self.kind = name_of(obj), name_of(binding), obj["kind"]
        self.spec = obj["spec"]
        for variable in self.spec.get("variables") or []:
            if (variable["name"], variable["expression"]) not in _VARIABLES:
                raise self._unknown(variable["expression"])
        self._rules = self.spec["matchConstraints"]["resourceRules"]
        conditions = self.spec.get("matchConditions") or []
        self._conditions = [self.meaning(_TESTS, entry["expression"]) for entry in conditions]

    def covers(self, review: Review) -> bool:
        """Tell whether the policy is about a write."""
        return any(_covers(rule, review) for rule in self._rules) and all(test(review) for test in self._conditions)

    def meaning(self, meanings: Mapping[str, T], expression: str) -> T:
        """Return what an expression means. Raises PolicyNotSupported."""
        if expression not in meanings:
            raise self._unknown(expression)
        return meanings[expression]

    def _unknown(self, expression: str) -> PolicyNotSupported:
        return self._unsupported(f"the expression {expression!r}")

    def _unsupported(self, what: str) -> PolicyNotSupported:
        what = f"the emulator has no meaning for {what}"
        return PolicyNotSupported(f"{self.kind} {self.name}", what, remedy="add it to policy_meanings.py")


class _Validating(_Policy):
    def __init__(self, obj: JsonObject, binding: JsonObject) -> None:
        super().__init__(obj, binding)
        self._parameters = self._parameter_kind(binding)
        self._validations = [self._validation(entry) for entry in self.spec["validations"]]

    def admit(self, review: Review, objects: Lister) -> None:
        if not self.covers(review):
            return
        if self._parameters is None:
            self._judge(review)
            return
        for parameters in objects(self._parameters, namespace_of(review.obj)):
            self._judge(replace(review, params=parameters))

    def _parameter_kind(self, binding: JsonObject) -> Resource | None:
        """Return the resource whose objects, all of the namespace, are the policy's parameters one by one."""
        kind, reference = self.spec.get("paramKind"), binding["spec"].get("paramRef")
        if kind is None:
            return None
        if reference != {"selector": {}, "parameterNotFoundAction": "Allow"}:
            raise self._unsupported(f"the reference to parameters {reference!r}")
        resource = find_kind(kind["apiVersion"], kind["kind"])
        if resource is None or not resource.namespaced:
            raise self._unsupported(f"parameters of kind {kind!r}")
        return resource

    def _judge(self, review: Review) -> None:
        for holds, message, reason in self._validations:
            if not holds(review):
                subject = f"ValidatingAdmissionPolicy '{self.name}' with binding '{self.binding}'"
                refusal = forbidden(
                    review.resource, name_of(review.obj), f"{subject} denied request: {message(review)}"
                )
                raise ApiError(_CODES[reason], reason, str(refusal), refusal.body.get("details"))

    def _validation(self, entry: JsonObject) -> tuple[Test, Text, str]:
        fixed = str(entry["message"])
        expression = entry.get("messageExpression")
        message = self.meaning(_MESSAGES, expression) if expression else lambda _: fixed
        return self.meaning(_TESTS, entry["expression"]), message, str(entry["reason"])


class _Mutating(_Policy):
    def __init__(self, obj: JsonObject, binding: JsonObject) -> None:
        super().__init__(obj, binding)
        expressions = [entry["applyConfiguration"]["expression"] for entry in self.spec["mutations"]]
        self._mutations = [self.meaning(MUTATIONS, expression) for expression in expressions]

    def mutate(self, review: Review) -> None:
        if self.covers(review):
            for change in self._mutations:
                change(review)


def _covers(rule: JsonObject, review: Review) -> bool:
    wanted = {
        "apiGroups": review.resource.group,
        "apiVersions": review.resource.version,
        "operations": review.operation,
        "resources": review.resource.plural,
    }
    return all(value in rule[key] or "*" in rule[key] for key, value in wanted.items())
