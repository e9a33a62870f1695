"""The admission policies that are shipped, as far as the emulator can apply them.

CEL is not evaluated. Each expression of the shipped policy is known by its text and has an equivalent in Python here;
a policy with any other expression is refused, so that nobody takes an unknown rule for one that is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.api.errors import forbidden
from fracgpu.sim.api.identity import User
from fracgpu.sim.api.objects import JsonObject, dig, name_of
from fracgpu.sim.api.resources import Resource

_GROUP: Final = "admissionregistration.k8s.io"


class PolicyNotSupported(FracgpuError):
    """A policy says something whose meaning the emulator does not know."""


@dataclass(frozen=True, slots=True)
class Review:
    """One write that is to be admitted: who, CREATE, UPDATE or DELETE, and the object (the old one for DELETE)."""

    user: User
    operation: str
    resource: Resource
    obj: JsonObject


Test = Callable[[Review], bool]
_PLUGIN: Final = "system:serviceaccount:fracgpu-system:fracgpu-kubeletplugin"
_MEANINGS: Final[dict[str, Test]] = {
    f"request.userInfo.username == '{_PLUGIN}'": lambda review: review.user.name == _PLUGIN,
    "variables.node != ''": lambda review: bool(review.user.node_name),
    "variables.slice.spec.?nodeName.orValue('') == variables.node": lambda review: (
        (dig(review.obj, "spec", "nodeName") or "") == review.user.node_name
    ),
    "variables.slice.spec.driver == 'gpu.fracgpu.dev'": lambda review: (
        dig(review.obj, "spec", "driver") == "gpu.fracgpu.dev"
    ),
}
# What the tests above stand on.
_VARIABLES: Final = {
    "node": "request.userInfo.extra[?'authentication.kubernetes.io/node-name'][0].orValue('')",
    "slice": "request.operation == 'DELETE' ? oldObject : object",
}


class AdmissionPolicies:
    """ValidatingAdmissionPolicy objects that have a binding."""

    def __init__(self, objects: Iterable[JsonObject]) -> None:
        """Take the policies among `objects`; others are passed over. Raises PolicyNotSupported."""
        found = [obj for obj in objects if str(obj.get("apiVersion", "")).startswith(f"{_GROUP}/")]
        bound = {
            obj["spec"]["policyName"]: name_of(obj)
            for obj in found
            if obj["kind"] == "ValidatingAdmissionPolicyBinding"
        }
        policies = [obj for obj in found if obj["kind"] == "ValidatingAdmissionPolicy" and name_of(obj) in bound]
        self._policies = [_Policy(obj, bound[name_of(obj)]) for obj in policies]

    def admit(self, review: Review) -> None:
        """Raise ApiError 403 if a policy refuses the write."""
        for policy in self._policies:
            policy.admit(review)


class _Policy:
    def __init__(self, obj: JsonObject, binding: str) -> None:
        self._name, self._binding = name_of(obj), binding
        spec = obj["spec"]
        self._rules = spec["matchConstraints"]["resourceRules"]
        for variable in spec.get("variables") or []:
            if _VARIABLES.get(variable["name"]) != variable["expression"]:
                raise self._unknown(variable["expression"])
        self._conditions = [self._meaning(entry["expression"]) for entry in spec.get("matchConditions") or []]
        self._validations = [
            (self._meaning(entry["expression"]), str(entry["message"])) for entry in spec["validations"]
        ]

    def admit(self, review: Review) -> None:
        if not any(_covers(rule, review) for rule in self._rules):
            return
        if not all(condition(review) for condition in self._conditions):
            return
        for holds, message in self._validations:
            if not holds(review):
                text = f"ValidatingAdmissionPolicy '{self._name}' with binding '{self._binding}' denied request: "
                raise forbidden(review.resource, name_of(review.obj), text + message)

    def _meaning(self, expression: str) -> Test:
        if expression not in _MEANINGS:
            raise self._unknown(expression)
        return _MEANINGS[expression]

    def _unknown(self, expression: str) -> PolicyNotSupported:
        what = f"the emulator has no meaning for the expression {expression!r}"
        return PolicyNotSupported(f"ValidatingAdmissionPolicy {self._name}", what, remedy="add it to policies.py")


def _covers(rule: JsonObject, review: Review) -> bool:
    wanted = {
        "apiGroups": review.resource.group,
        "apiVersions": review.resource.version,
        "operations": review.operation,
        "resources": review.resource.plural,
    }
    return all(value in rule[key] or "*" in rule[key] for key, value in wanted.items())
